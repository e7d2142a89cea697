//! Bringing other nodes what they are owed.

use cluster::command::BlockRef;
use cluster::ids::NodeId;
use futures::StreamExt as _;
use futures::stream;
use std::time::Duration;
use tokio::time::{sleep, timeout};

use super::{HINDRANCE_POLL, PARALLEL, Repairer, jittered};
use crate::rpc::blocks::HAS_MAX;

/// How often a node to which copies are owed is looked at while it does not answer.
const OWED_POLL: Duration = Duration::from_secs(1);

/// How long one copy may take on its way to another node, once its turn has come.
const PUSH_DEADLINE: Duration = Duration::from_secs(10);

impl Repairer {
    /// Runs for ever.
    pub(super) async fn push_owed(&self) {
        let owed = &self.inner.owed;
        loop {
            if self.paused().is_some() {
                sleep(HINDRANCE_POLL).await;
                continue;
            }
            let mut trouble = false;
            for node in owed.creditors() {
                if self.holds_nothing(node) {
                    // It was removed, or is about to be: the new holders find out by themselves what they lack.
                    owed.forgive(node);
                } else if node == self.inner.node || self.inner.takes_blocks(node) {
                    trouble |= self.push_to(node).await.is_err();
                } else {
                    trouble = true;
                }
            }
            if trouble {
                sleep(jittered(OWED_POLL)).await;
            } else if owed.len() == 0 {
                owed.added().await;
            }
        }
    }

    /// Whether the layout does not name it any more.
    fn holds_nothing(&self, node: NodeId) -> bool {
        let here = self.inner.placement.current();
        here.is_ok_and(|here| here.layout.epoch() > 0 && !here.layout.nodes().contains(&node))
    }

    /// Brings `node` what it is owed, at most one page of it.
    async fn push_to(&self, node: NodeId) -> Result<(), ()> {
        let inner = &self.inner;
        let blocks = inner.owed.to(node, HAS_MAX);
        if node == inner.node {
            // Owed to this node itself: the other loop pulls it.
            for block in blocks {
                inner.owed.settle(node, block.hash);
                inner.missing.hint(block);
            }
            return Ok(());
        }
        let hashes: Vec<_> = blocks.iter().map(|block| block.hash).collect();
        let present = timeout(PUSH_DEADLINE, inner.client.has(node, &hashes, false)).await;
        let Ok(Ok(present)) = present else {
            return Err(());
        };
        let mut absent = Vec::new();
        for (block, present) in blocks.into_iter().zip(present) {
            if present {
                inner.owed.settle(node, block.hash);
            } else {
                absent.push(block);
            }
        }
        let mut pushes =
            stream::iter(absent).map(|block| self.push(node, block)).buffer_unordered(PARALLEL);
        let mut result = Ok(());
        while let Some(outcome) = pushes.next().await {
            result = result.and(outcome);
            if result.is_err() {
                // Whatever it is, it would be the same for the next ones.
                break;
            }
        }
        result
    }

    async fn push(&self, node: NodeId, block: BlockRef) -> Result<(), ()> {
        let inner = &self.inner;
        let here = inner.placement.current().map_err(drop)?;
        if !here.layout.holders(&block.hash).contains(&node) {
            inner.owed.settle(node, block.hash);
            return Ok(());
        }
        let others = here.layout.holders(&block.hash).iter().copied();
        let others: Vec<_> = others.filter(|holder| *holder != node).collect();
        inner.pace.wait_for_turn(block, self.copies_left(&others) + 1).await;
        let put_index = inner.placement.put_index();
        let Ok(bytes) = inner.store.get(block.hash).await else {
            // Not at hand any more. The node will miss it and ask those who have it.
            inner.owed.settle(node, block.hash);
            return Ok(());
        };
        let push = inner.client.put(node, block.hash, bytes, put_index);
        match timeout(PUSH_DEADLINE, push).await {
            Ok(Ok(())) => {
                inner.owed.settle(node, block.hash);
                self.inner.made(block, "pushed");
                Ok(())
            }
            Ok(Err(status)) => {
                tracing::debug!(%node, block = %block.hash, reason = status.message(), "not pushed");
                Err(())
            }
            Err(_) => Err(()),
        }
    }
}
