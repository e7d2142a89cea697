//! A block's references are exactly the rows that name it, and a block without any waits or is reaped.

use std::collections::BTreeMap;

use super::Findings;
use crate::command::BlockRef;
use crate::ids::BlockHash;
use crate::table::KeyRange;
use crate::tables::blocks::{BLOCKS, BlockState};
use crate::tables::renditions::{RENDITIONS, SEGMENTS};
use crate::tables::videos::{SOURCE_BLOCKS, VIDEOS};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let all = KeyRange::all();
    let mut named: Vec<BlockRef> = Vec::new();
    named.extend(SOURCE_BLOCKS.collect(view, &all, usize::MAX)?.into_iter().map(|(_, row)| row));
    for (_, video) in VIDEOS.collect(view, &all, usize::MAX)? {
        named.extend(video.thumbnail);
    }
    for (_, rendition) in RENDITIONS.collect(view, &all, usize::MAX)? {
        named.extend(rendition.init);
    }
    for (_, run) in SEGMENTS.collect(view, &all, usize::MAX)? {
        named.extend(run.segments.iter().map(|segment| segment.block));
    }
    let mut counts: BTreeMap<BlockHash, (u32, u64)> = BTreeMap::new();
    for block in named {
        let (len, count) = counts.entry(block.hash).or_insert((block.len, 0));
        findings.require(*len == block.len, || format!("{} has two lengths", block.hash));
        *count += 1;
    }
    for (hash, row) in BLOCKS.collect(view, &all, usize::MAX)? {
        let (len, count) = counts.remove(&hash).unwrap_or((row.len, 0));
        findings.require(row.references == count, || {
            format!("{hash} has {} references, {count} rows name it", row.references)
        });
        findings.require(row.len == len, || format!("{hash} has another length in its row"));
        findings.require((row.state() == BlockState::Needed) == (count > 0), || {
            format!("{hash} has {count} references and is {:?}", row.state())
        });
        findings.require(count == 0 || row.unreferenced_since_ms.is_none(), || {
            format!("{hash} has {count} references since {:?}", row.unreferenced_since_ms)
        });
    }
    for hash in counts.keys() {
        findings.require(false, || format!("{hash} is named but unknown"));
    }
    Ok(())
}
