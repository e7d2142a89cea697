//! Counting the copies that there are, without trusting anybody's own count.
//!
//! A repair that ends because its queue is empty proves nothing: the queue may have been wrong. So the copies are counted by
//! somebody else: for each block that the catalog refers to, each node that should hold it is asked for it by name, by the
//! node that counts. On demand the holders also read each copy and hash it, which takes as long as reading all there is.
//!
//! What is counted is as of the catalog when each page of it was read, so a block that was named a moment ago may have its
//! third copy still on its way, and is counted as lacking it. Counting changes nothing but what is found to be damaged on
//! the way.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cluster::ids::{BlockHash, NodeId};
use cluster::placement::{self, Violation};
use cluster::table::KeyRange;
use cluster::tables::blocks::BLOCKS;
use cluster::view::ViewError;
use tokio::time::timeout;

use super::{Content, Inner};

/// Blocks that are asked for at a time: of all nodes together, so that one answer is one message.
const PAGE: usize = 1024;

/// Blocks that one holder reads for one question: some hundred mebibytes at the most.
const READ_PAGE: usize = 16;

/// How long a holder may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Copies that are told by name.
const EXAMPLES_MAX: usize = 20;

/// What a holder does to find out whether it has a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CensusDepth {
    /// It looks among the names of its good copies.
    Names,
    /// It reads the copy and hashes it.
    Bytes,
}

/// How many copies there are, and how many there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// The layout by which was counted.
    pub layout_epoch: u64,
    /// Blocks that something refers to.
    pub blocks: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// Copies that there should be.
    pub copies: u64,
    /// Copies that their holder does not have, or that are damaged.
    pub lacking: u64,
    /// Copies whose holder could not be asked.
    pub unknown: u64,
    /// Blocks of which no copy was found at a holder, as far as all of them could be asked.
    pub lost: u64,
    /// Some of the copies that are lacking or unknown, in words.
    pub examples: Vec<String>,
    /// What is wrong with the layout itself, given the nodes that there are.
    pub violations: Vec<String>,
}

impl Census {
    /// Whether every block has every copy that it should have.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.lacking == 0 && self.unknown == 0 && self.lost == 0
    }

    fn note(&mut self, example: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(example());
        }
    }
}

/// A page of the catalog.
struct Page {
    blocks: Vec<(BlockHash, u32)>,
    next: Option<BlockHash>,
}

impl Content {
    /// Counts. `progress` is told after each page.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn count_copies(
        &self,
        depth: CensusDepth,
        mut progress: impl FnMut(&Census),
    ) -> Result<Census, ViewError> {
        let inner = &self.inner;
        let here = inner.placement.current()?;
        let mut census = Census {
            layout_epoch: here.layout.epoch(),
            violations: placement::check(&here.layout, here.candidates())
                .into_iter()
                // How full a node is costs nobody a copy, and changes with every new disk.
                .filter(|violation| !matches!(violation, Violation::Share { .. }))
                .take(EXAMPLES_MAX)
                .map(|violation| violation.to_string())
                .collect(),
            ..Census::default()
        };
        let mut from = Some(BlockHash([0; 32]));
        while let Some(start) = from {
            let page = inner.page_of_blocks(start, depth).await?;
            from = page.next;
            let here = inner.placement.current()?;
            let mut asked = BTreeMap::<NodeId, Vec<BlockHash>>::new();
            for (hash, len) in &page.blocks {
                census.blocks += 1;
                census.bytes += u64::from(*len);
                for holder in here.layout.holders(hash) {
                    asked.entry(*holder).or_default().push(*hash);
                }
            }
            let answers = asked.into_iter().map(|(holder, hashes)| async move {
                let answer = inner.ask_for_copies(holder, &hashes, depth).await;
                (holder, hashes, answer)
            });
            let mut found = BTreeMap::<BlockHash, usize>::new();
            for (holder, hashes, answer) in futures::future::join_all(answers).await {
                census.copies += hashes.len() as u64;
                match answer {
                    Ok(present) => {
                        for (hash, present) in hashes.into_iter().zip(present) {
                            *found.entry(hash).or_default() += usize::from(present);
                            if !present {
                                census.lacking += 1;
                                census.note(|| format!("node {holder} lacks block {hash}"));
                            }
                        }
                    }
                    Err(reason) => {
                        census.unknown += hashes.len() as u64;
                        census.note(|| format!("node {holder} does not say: {reason}"));
                        for hash in hashes {
                            // It may well have it.
                            *found.entry(hash).or_default() += 1;
                        }
                    }
                }
            }
            census.lost += found.values().filter(|copies| **copies == 0).count() as u64;
            progress(&census);
        }
        Ok(census)
    }
}

impl Inner {
    async fn page_of_blocks(&self, from: BlockHash, depth: CensusDepth) -> Result<Page, ViewError> {
        let catalog = self.placement.catalog();
        let limit = match depth {
            CensusDepth::Names => PAGE,
            CensusDepth::Bytes => READ_PAGE,
        };
        let read = move || {
            let mut page = Page { blocks: Vec::with_capacity(limit), next: None };
            let range = KeyRange::all().starting_at(&from);
            BLOCKS.scan(&*catalog, &range, &mut |hash, row| {
                if page.blocks.len() == limit {
                    page.next = Some(hash);
                    return ControlFlow::Break(());
                }
                if row.references > 0 {
                    page.blocks.push((hash, row.len));
                }
                ControlFlow::Continue(())
            })?;
            Ok(page)
        };
        self.counting.run(read).await
    }

    async fn ask_for_copies(
        self: &Arc<Self>,
        holder: NodeId,
        hashes: &[BlockHash],
        depth: CensusDepth,
    ) -> Result<Vec<bool>, String> {
        let asking = async {
            if holder != self.node {
                let read = depth == CensusDepth::Bytes;
                let answer = self.client.has(holder, hashes, read).await;
                return answer.map_err(|status| status.message().to_owned());
            }
            match depth {
                CensusDepth::Names => self.store.has(hashes.to_vec()).await,
                CensusDepth::Bytes => self.store.has_good(hashes.to_vec()).await,
            }
            .map_err(|error| error.to_string())
        };
        timeout(ANSWER_MAX, asking)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {ANSWER_MAX:?}")))
    }
}
