//! Fills the block store of a node that does not run with blocks that no video names, for `make bench ONLY=p11`.
//!
//! `cargo run --release -p node --example fill_blocks -- DATA_DIR/content BLOCKS BYTES_OF_EACH`
//!
//! The node keeps them for `content.forget_after`, as it does with all that it was sent and that never became part of a video.

#![allow(clippy::print_stdout, reason = "it is there to print")]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use cluster::ids::BlockHash;
use futures::{StreamExt, stream};
use node::store::{BlockStore, VolumeBlockStore, VolumeOptions};

/// Many share one fsync.
const AT_ONCE: usize = 1024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let path = PathBuf::from(arguments.next().context("the directory of the store")?);
    let blocks: u64 = arguments.next().context("how many blocks")?.parse()?;
    let len: usize = arguments.next().context("how many bytes each")?.parse()?;
    let began = Instant::now();
    let store = VolumeBlockStore::open(&path, &VolumeOptions::default())?;
    let mut puts = stream::iter(0..blocks)
        .map(|seed| {
            let mut bytes = vec![0; len];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
            store.put(BlockHash::of(&bytes), Bytes::from(bytes), 1)
        })
        .buffer_unordered(AT_ONCE);
    while let Some(put) = puts.next().await {
        put.context("put a block")?;
    }
    drop(puts);
    println!("  {} blocks in the store, put in {:.1?}", store.stats().blocks, began.elapsed());
    Ok(())
}
