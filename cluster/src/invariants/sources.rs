//! The blocks of a source follow each other without a gap and are as many as were received; none are left once it was let
//! go of.

use super::Findings;
use crate::catalog::source_blocks;
use crate::table::KeyRange;
use crate::tables::videos::VIDEOS;
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    for (id, video) in VIDEOS.collect(view, &KeyRange::all(), usize::MAX)? {
        let source = &video.source;
        let blocks = source_blocks(view, id, 0, usize::MAX)?;
        let mut end = 0;
        for block in &blocks {
            findings.require(block.offset == end, || {
                format!("{id}: a block begins at {}, the one before ends at {end}", block.offset)
            });
            end = block.offset.saturating_add(block.block.len.into());
        }
        if source.deleted {
            findings.require(blocks.is_empty() && !source.keep, || {
                format!("{id}: {} blocks of a source that is gone", blocks.len())
            });
        } else {
            findings.require(end == source.received, || {
                format!("{id}: {end} bytes in blocks, {} received", source.received)
            });
            findings.require(blocks.len() == source.blocks as usize, || {
                format!("{id}: {} blocks, {} counted", blocks.len(), source.blocks)
            });
        }
        findings.require(!source.complete || source.length == Some(source.received), || {
            format!("{id}: complete with {} of {:?} bytes", source.received, source.length)
        });
    }
    Ok(())
}
