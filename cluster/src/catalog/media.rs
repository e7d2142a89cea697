//! Sources, renditions and segments.

use std::ops::ControlFlow;

use crate::command::{BlockRef, NewSegment};
use crate::ids::VideoId;
use crate::plan::{RENDITIONS_MAX, RenditionIndex};
use crate::table::KeyRange;
use crate::tables::renditions::{RENDITIONS, RenditionRow, SEGMENTS};
use crate::tables::videos::SOURCE_BLOCKS;
use crate::view::{View, ViewError};

/// A block of an uploaded file and where it lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBlock {
    /// Byte of the file at which the block begins.
    pub offset: u64,
    pub block: BlockRef,
}

/// The blocks of a video's source from the one that holds byte `from` on, at most `limit`. Ends where the bytes received
/// so far end.
///
/// # Errors
/// When the view fails.
pub fn source_blocks(
    view: &dyn View,
    id: VideoId,
    from: u64,
    limit: usize,
) -> Result<Vec<SourceBlock>, ViewError> {
    // Keys are the ends of the blocks: the first block that ends after `from` holds it.
    let range = KeyRange::under(&id).starting_after(&(id, from));
    let rows = SOURCE_BLOCKS.collect(view, &range, limit)?;
    Ok(rows
        .into_iter()
        .map(|((_, end), block)| SourceBlock {
            offset: end.saturating_sub(u64::from(block.len)),
            block,
        })
        .collect())
}

/// The block of a video's source that holds a byte, if it has arrived.
///
/// # Errors
/// When the view fails.
pub fn source_block_at(
    view: &dyn View,
    id: VideoId,
    byte: u64,
) -> Result<Option<SourceBlock>, ViewError> {
    Ok(source_blocks(view, id, byte, 1)?.pop())
}

/// The state of a rendition.
///
/// # Errors
/// When the view fails.
pub fn rendition(
    view: &dyn View,
    id: VideoId,
    rendition: RenditionIndex,
) -> Result<Option<RenditionRow>, ViewError> {
    RENDITIONS.get(view, &(id, rendition))
}

/// The states of all renditions of a video, in the order of its plan; none before there is a plan.
///
/// # Errors
/// When the view fails.
pub fn renditions(
    view: &dyn View,
    id: VideoId,
) -> Result<Vec<(RenditionIndex, RenditionRow)>, ViewError> {
    let rows = RENDITIONS.collect(view, &KeyRange::under(&id), RENDITIONS_MAX)?;
    Ok(rows.into_iter().map(|((_, index), row)| (index, row)).collect())
}

/// One segment, if it has been committed.
///
/// # Errors
/// When the view fails.
pub fn segment(
    view: &dyn View,
    id: VideoId,
    rendition: RenditionIndex,
    number: u32,
) -> Result<Option<NewSegment>, ViewError> {
    let range = KeyRange::under(&(id, rendition)).starting_at(&(id, rendition, number));
    let run = SEGMENTS.first(view, &range)?;
    Ok(run.and_then(|(_, run)| run.segments.into_iter().find(|segment| segment.number == number)))
}

/// The committed segments with `from <= number < to`, in order. There may be gaps.
///
/// # Errors
/// When the view fails.
pub fn segments(
    view: &dyn View,
    id: VideoId,
    rendition: RenditionIndex,
    from: u32,
    to: u32,
) -> Result<Vec<NewSegment>, ViewError> {
    let mut found = Vec::new();
    let range = KeyRange::under(&(id, rendition)).starting_at(&(id, rendition, from));
    SEGMENTS.scan(view, &range, &mut |_, run| {
        let after = run.segments.first().is_none_or(|first| first.number >= to);
        found.extend(
            run.segments.into_iter().filter(|segment| (from..to).contains(&segment.number)),
        );
        if after { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}
