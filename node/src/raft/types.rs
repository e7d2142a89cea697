//! The types that openraft is instantiated with, and how its messages are written.

use std::fmt;

use bytes::Bytes;
use cluster::codec;
use cluster::command::{Command, Reply};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

openraft::declare_raft_types!(
    /// What consensus is about here.
    pub(in crate::raft) TypeConfig:
        D = LoggedCommand,
        R = Reply,
        NodeId = u64,
        Node = Member,
);

pub(super) type Entry = EntryOf<TypeConfig>;
pub(super) type LogId = LogIdOf<TypeConfig>;
pub(super) type Vote = VoteOf<TypeConfig>;
pub(super) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;

/// What consensus remembers of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    /// `host:port` when it became a member.
    pub(super) rpc_addr: String,
}

/// A command as it stands in the log: encoded once by the leader, decoded once by each node that applies it, and passed
/// around without a copy between.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct LoggedCommand(Bytes);

impl LoggedCommand {
    pub(super) fn new(command: &Command) -> Self {
        Self(codec::encode(command).into())
    }

    pub(super) fn decode(&self) -> Result<Command, codec::DecodeError> {
        codec::decode(&self.0)
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for LoggedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl fmt::Display for LoggedCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for LoggedCommand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for LoggedCommand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        codec::bytes::deserialize(deserializer).map(|bytes| Self(bytes.into()))
    }
}

/// How many bytes an entry counts for where entries are bounded: its command, and about as much as surrounds it.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    const AROUND: usize = 128;
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => AROUND + command.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => AROUND,
    }
}
