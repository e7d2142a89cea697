//! How many uploads people make through this node, for whoever wants to know before the node goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A tally that its clones share.
#[derive(Clone, Debug, Default)]
pub struct UploadsUnderWay(Arc<AtomicU64>);

/// An upload; it has ended when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<AtomicU64>);

impl UploadsUnderWay {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) -> UnderWay {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(&self.0))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_counts_until_it_ends() {
        let tally = UploadsUnderWay::default();
        let first = tally.begin();
        let second = tally.clone().begin();
        assert_eq!(tally.count(), 2);
        drop(first);
        assert_eq!(tally.count(), 1);
        drop(second);
        assert_eq!(tally.count(), 0);
    }
}
