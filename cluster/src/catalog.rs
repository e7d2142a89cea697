//! Questions to the catalog: what a gateway shows and a node looks up. All are reads of plain values; what changes the
//! catalog is in [`crate::apply`].

mod cluster;
mod collection;
mod media;
mod membership;
mod videos;
mod work;

pub use cluster::{
    JobCounts, block, earlier_holders, is_about_placement, job, jobs, jobs_of, layout, leases_of,
    node, nodes, store_candidates, system,
};
pub use collection::{
    BlockSum, ReapedKey, deletable_below, is_forgetting_due, reaped_blocks, waiting_blocks,
    waiting_sum,
};
pub use media::{
    SourceBlock, rendition, renditions, segment, segments, source_block_at, source_blocks,
};
pub use membership::{
    audit, authority, has_authority, level_understood, member, members, removed_nodes, token,
    tokens,
};
pub use videos::{
    Cursor, InvalidCursor, LIST_SCAN_MAX, Query, VideoPage, by_upload_key, list_videos, video,
};
pub use work::{has_claimable_job, is_about_work, uploads};
