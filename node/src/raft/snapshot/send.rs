//! Reading what the receiver of a snapshot lacks, cut into parts.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{StoredSnapshot, Tail};

/// Bytes in one part. Small enough that a connection shares fairly, large enough that its overhead does not matter.
const PART_BYTES: usize = 1 << 20;

/// Parts read ahead of the network, or received ahead of the disk.
pub(in crate::raft) const PARTS_AHEAD: usize = 4;

/// Reads the `wanted` ends of files of `snapshot` into `parts`, in that order, until the end or until nobody takes them any
/// more. Blocks. Holds one part in memory.
///
/// # Errors
/// When something else is wanted than there is, or a file cannot be read or is shorter than it was.
pub(in crate::raft) fn send(
    snapshot: &StoredSnapshot,
    wanted: &[Tail],
    parts: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    for tail in wanted {
        let listed = snapshot
            .manifest()
            .files
            .get(tail.file)
            .filter(|listed| tail.from <= listed.len)
            .ok_or_else(|| io::Error::other("the receiver wants what is not in the snapshot"))?;
        let mut file = File::open(snapshot.database().join(&listed.name))?;
        file.seek(SeekFrom::Start(tail.from))?;
        let mut left = listed.len - tail.from;
        while left > 0 {
            let part = usize::try_from(left).map_or(PART_BYTES, |left| left.min(PART_BYTES));
            let mut buffer = vec![0; part];
            file.read_exact(&mut buffer)?;
            left -= part as u64;
            if parts.blocking_send(buffer.into()).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
