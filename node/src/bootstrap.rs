//! How nodes that belong to nothing become a cluster: the work behind `cluster init`.
//!
//! It happens once in the life of a cluster, at an operator's word, and never by guessing: two halves of a network that
//! each made a cluster of themselves could not be joined again.
//!
//! # The steps, and why each can be repeated
//!
//! 1. Ask every node who it is. Nothing has changed yet.
//! 2. Give every node its identity: the cluster's random id, a number by its place in the list, and the list itself.
//! 3. When all of them have theirs, make the receiver start consensus with the first voters.
//! 4. The first command of the log says that the cluster is born.
//!
//! A receiver that dies on the way leaves nodes that know the list. The same `cluster init` continues there, on any of them;
//! one with another list is refused, because step 3 may have happened with the first list, and two beginnings with
//! different voters could elect two leaders.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cluster::command::{Refusal, Reply};
use cluster::ids::NodeId;
use futures::future::join_all;
use proto::cluster::{AdoptRequest, IdentifyReply};
use tonic::Status;

use crate::identity::random_id;
use crate::rpc::admin;
use crate::run::Daemon;

/// All nodes that a cluster begins with vote. Three survive the loss of one, five of two; more only make each decision slower,
/// so further nodes join without a vote.
pub const FOUNDERS_MAX: usize = 5;

/// How long a node may take to say who it is.
const IDENTIFY_MAX: Duration = Duration::from_secs(3);

/// How long a node may take to create its databases.
const ADOPT_MAX: Duration = Duration::from_secs(20);

/// How long the first election and the first command may take: a few election time-outs, and a slow disk.
const BORN_MAX: Duration = Duration::from_secs(20);

/// A cluster that has just been made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    pub cluster_id: [u8; 16],
    /// In the order of the addresses that were given.
    pub node_ids: Vec<NodeId>,
}

/// Why no cluster was made. Nothing that has been done stands in the way of repeating it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    #[error("name the RPC addresses of 1 to {FOUNDERS_MAX} nodes")]
    Count,
    #[error("not all nodes can be reached:\n{}", Lines(.0))]
    Unreachable(Vec<String>),
    #[error("{first} and {second} are the same node")]
    Twice { first: String, second: String },
    #[error("the node that is asked, {0}, is not among the nodes named")]
    NotAmong(String),
    #[error("{address} belongs to cluster {cluster_id} already")]
    Foreign { address: String, cluster_id: String },
    #[error(
        "{address} belongs to a cluster of other nodes already ({members}): a beginning that broke off can be repeated with \
         exactly these, in this order; for another cluster, start the node on an empty data directory"
    )]
    OtherMembers { address: String, members: String },
    #[error("this cluster has been initialized already: its id is {0}")]
    Already(String),
    #[error("not all nodes could become members; repeat this when the cause is mended:\n{}", Lines(.0))]
    Adopt(Vec<String>),
    #[error("the new cluster has not found together yet; repeat this: {0}")]
    NotYet(String),
}

struct Lines<'a>(&'a [String]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, line) in self.0.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}  {line}")?;
        }
        Ok(())
    }
}

impl From<InitError> for Status {
    fn from(error: InitError) -> Self {
        let text = error.to_string();
        match error {
            InitError::Count | InitError::Twice { .. } | InitError::NotAmong(_) => {
                Self::invalid_argument(text)
            }
            InitError::Already(_) => Self::already_exists(text),
            InitError::Foreign { .. } | InitError::OtherMembers { .. } => {
                Self::failed_precondition(text)
            }
            InitError::Unreachable(_) | InitError::Adopt(_) | InitError::NotYet(_) => {
                Self::aborted(text)
            }
        }
    }
}

/// Makes one cluster of the receiver and the others at `addresses`.
///
/// # Errors
/// See [`InitError`].
pub async fn init(daemon: &Arc<Daemon>, addresses: &[String]) -> Result<Founded, InitError> {
    if addresses.is_empty() || addresses.len() > FOUNDERS_MAX {
        return Err(InitError::Count);
    }

    // 1. Who is there?
    let answers =
        join_all(addresses.iter().map(|address| admin::identify(address, IDENTIFY_MAX))).await;
    let (found, missing) = sort(addresses, answers);
    if !missing.is_empty() {
        return Err(InitError::Unreachable(missing));
    }
    let founding = agree(&found, &daemon.rpc_addr())?;
    let cluster_id = founding.cluster_id.unwrap_or_else(random_id);

    // 2. Everybody gets an identity; who has it already says yes again.
    let adoptions = founding.members.iter().zip(1..).map(|(address, node_id)| {
        let request = AdoptRequest {
            cluster_id: cluster_id.to_vec().into(),
            node_id,
            members: founding.members.clone(),
        };
        admin::adopt(address, request, ADOPT_MAX)
    });
    let (_, refused) = sort(&founding.members, join_all(adoptions).await);
    if !refused.is_empty() {
        return Err(InitError::Adopt(refused));
    }

    // 3. and 4. Consensus begins, and the log with it.
    let member = daemon.member().ok_or_else(|| InitError::NotYet("the node is stopping".into()))?;
    let born = async {
        member.found(&founding.members).await.map_err(|error| format!("{error:#}"))?;
        member.born(cluster_id).await.map_err(|error| error.to_string())
    };
    let reply = tokio::time::timeout(BORN_MAX, born)
        .await
        .map_err(|_| InitError::NotYet(format!("no leader within {BORN_MAX:?}")))?
        .map_err(InitError::NotYet)?;
    match reply {
        Reply::Refused(Refusal::AlreadyInitialized) => {
            Err(InitError::Already(hex::encode(cluster_id)))
        }
        Reply::Refused(refusal) => Err(InitError::NotYet(refusal.to_string())),
        Reply::Done
        | Reply::Version(_)
        | Reply::Claimed(_)
        | Reply::Lost(_)
        | Reply::Admitted(_) => Ok(Founded {
            cluster_id,
            node_ids: (1..).map(NodeId).take(founding.members.len()).collect(),
        }),
    }
}

/// Splits answers into the good ones, with the address asked, and words on the others.
fn sort<T>(
    addresses: &[String],
    answers: Vec<anyhow::Result<T>>,
) -> (Vec<(String, T)>, Vec<String>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for (address, answer) in addresses.iter().zip(answers) {
        match answer {
            Ok(answer) => good.push((address.clone(), answer)),
            Err(error) => bad.push(format!("{address}: {error:#}")),
        }
    }
    (good, bad)
}

/// What the nodes are to become.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Founding {
    /// The nodes' own RPC addresses, in the order of their ids to be.
    members: Vec<String>,
    /// Chosen by an earlier attempt.
    cluster_id: Option<[u8; 16]>,
}

/// Whether these nodes can become one cluster, `own` among them.
fn agree(found: &[(String, IdentifyReply)], own: &str) -> Result<Founding, InitError> {
    for (at, (first, answer)) in found.iter().enumerate() {
        if let Some((second, _)) =
            found[at + 1..].iter().find(|(_, other)| other.rpc_addr == answer.rpc_addr)
        {
            return Err(InitError::Twice { first: first.clone(), second: second.clone() });
        }
    }
    let members: Vec<String> = found.iter().map(|(_, answer)| answer.rpc_addr.clone()).collect();
    if !members.iter().any(|member| member == own) {
        return Err(InitError::NotAmong(own.to_owned()));
    }

    let mut founding = Founding { members, cluster_id: None };
    for ((address, answer), number) in found.iter().zip(1..) {
        if answer.node_id == 0 {
            continue;
        }
        let foreign = || InitError::Foreign {
            address: address.clone(),
            cluster_id: hex::encode(&answer.cluster_id),
        };
        if answer.node_id != number || answer.members != founding.members {
            return Err(InitError::OtherMembers {
                address: address.clone(),
                members: answer.members.join(","),
            });
        }
        let cluster_id = answer.cluster_id.as_ref().try_into().map_err(|_| foreign())?;
        if founding.cluster_id.replace(cluster_id).is_some_and(|other| other != cluster_id) {
            return Err(foreign());
        }
    }
    Ok(founding)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(address: &str) -> (String, IdentifyReply) {
        (address.to_owned(), IdentifyReply { rpc_addr: address.to_owned(), ..Default::default() })
    }

    fn prepared(address: &str, node_id: u64, members: &[&str]) -> (String, IdentifyReply) {
        let (address, answer) = fresh(address);
        let members = members.iter().map(|member| (*member).to_owned()).collect();
        (address, IdentifyReply { node_id, cluster_id: vec![7; 16].into(), members, ..answer })
    }

    #[test]
    fn fresh_nodes_get_their_place_in_the_list() {
        let founding = agree(&[fresh("b:2"), fresh("a:1")], "a:1").unwrap();
        assert_eq!(
            founding,
            Founding { members: vec!["b:2".into(), "a:1".into()], cluster_id: None }
        );
    }

    #[test]
    fn a_half_done_beginning_is_continued_with_the_same_nodes_only() {
        let found = [prepared("a:1", 1, &["a:1", "b:2"]), fresh("b:2")];
        assert_eq!(agree(&found, "b:2").unwrap().cluster_id, Some([7; 16]));

        for found in [
            [fresh("b:2"), prepared("a:1", 1, &["a:1", "b:2"])],
            [prepared("a:1", 1, &["a:1", "c:3"]), fresh("b:2")],
        ] {
            let error = agree(&found, "b:2").unwrap_err();
            assert!(matches!(error, InitError::OtherMembers { .. }), "{error}");
        }
    }

    #[test]
    fn nodes_of_different_clusters_stay_apart() {
        let mut other = prepared("b:2", 2, &["a:1", "b:2"]);
        other.1.cluster_id = vec![8; 16].into();
        let error = agree(&[prepared("a:1", 1, &["a:1", "b:2"]), other], "a:1").unwrap_err();
        assert!(
            matches!(&error, InitError::Foreign { address, .. } if address == "b:2"),
            "{error}"
        );
    }

    #[test]
    fn one_node_counts_once_and_the_receiver_is_one() {
        let mut second = fresh("localhost:1");
        second.1.rpc_addr = "a:1".to_owned();
        let error = agree(&[fresh("a:1"), second], "a:1").unwrap_err();
        assert!(matches!(error, InitError::Twice { .. }), "{error}");
        let error = agree(&[fresh("a:1")], "b:2").unwrap_err();
        assert!(matches!(error, InitError::NotAmong(_)), "{error}");
    }
}
