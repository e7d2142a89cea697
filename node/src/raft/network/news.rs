//! Holding back news for a moment.
//!
//! Whenever a majority has an entry, consensus tells each member in a message without entries, which costs both ends as much
//! as the entry itself did. Where writes follow each other, the next entry is about to say the same. So such a message waits
//! a moment for it, and is dropped when it comes: whatever is sent later says at least as much. Consensus counts answers by
//! how far they reach, so it misses none.
//!
//! Nobody waits for the news longer than that moment, and a member that asked for something that depends on them does not
//! wait at all ([`Hurry`]).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::ids::NodeId;
use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::super::types::{LogId, TypeConfig};

/// How long news may wait for an entry. Longer than a write takes on a healthy cluster, and nothing against how long a member
/// may be behind anyway.
const HOLD: Duration = Duration::from_millis(2);

type Request = AppendEntriesRequest<TypeConfig>;

/// Whom not to keep waiting. Clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::raft) struct Hurry {
    members: Arc<Mutex<BTreeMap<NodeId, Arc<Notify>>>>,
}

impl Hurry {
    /// Sends what is held back for `member`, or the next that would be.
    pub(in crate::raft) fn up(&self, member: NodeId) {
        self.of(member).notify_one();
    }

    pub(super) fn of(&self, member: NodeId) -> Arc<Notify> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(members.entry(member).or_default())
    }
}

/// What goes to one member.
struct Outgoing<S> {
    requests: S,
    hurry: Arc<Notify>,
    /// The last entry that was sent.
    sent: Option<LogId>,
    /// Taken from `requests` while something else was held back, and next.
    next: Option<Request>,
}

/// The same requests, without the news that later ones repeat.
pub(super) fn held_back<S>(requests: S, hurry: Arc<Notify>) -> impl Stream<Item = Request>
where
    S: Stream<Item = Request> + Unpin,
{
    // Its end may be seen while something is held back, and is asked for again after that.
    let requests = requests.fuse();
    let outgoing = Outgoing { requests, hurry, sent: None, next: None };
    futures::stream::unfold(outgoing, |mut outgoing| async {
        let request = outgoing.take().await?;
        outgoing.sent = last_of(&request).or(outgoing.sent);
        Some((request, outgoing))
    })
}

impl<S: Stream<Item = Request> + Unpin> Outgoing<S> {
    async fn take(&mut self) -> Option<Request> {
        let mut request = match self.next.take() {
            Some(next) => next,
            None => self.requests.next().await?,
        };
        let until = Instant::now() + HOLD;
        // A request without entries that follows anything else asks what the member has, and is no news.
        while request.entries.is_empty() && request.prev_log_id == self.sent && self.sent.is_some()
        {
            let later = tokio::select! {
                biased;
                later = self.requests.next() => later,
                () = self.hurry.notified() => return Some(request),
                () = sleep_until(until) => return Some(request),
            };
            match later {
                Some(later) if later.prev_log_id == self.sent && later.vote == request.vote => {
                    request = later;
                }
                Some(other) => {
                    self.next = Some(other);
                    return Some(request);
                }
                None => return Some(request),
            }
        }
        Some(request)
    }
}

fn last_of(request: &Request) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use futures::channel::mpsc::{UnboundedSender, unbounded};
    use futures::{FutureExt, pin_mut};
    use openraft::testing::{blank_ent, log_id};

    use super::super::super::types::Vote;
    use super::*;

    /// Entries `entries` after `prev`, of which those until `commit` are decided.
    fn request(prev: u64, entries: Range<u64>, commit: u64) -> Request {
        Request {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(log_id::<TypeConfig>(1, 1, prev)),
            entries: entries.map(|index| blank_ent::<TypeConfig>(1, 1, index)).collect(),
            leader_commit: Some(log_id::<TypeConfig>(1, 1, commit)),
        }
    }

    fn news(prev: u64, commit: u64) -> Request {
        request(prev, 0..0, commit)
    }

    fn outgoing() -> (UnboundedSender<Request>, Arc<Notify>, impl Stream<Item = Request>) {
        let (sender, requests) = unbounded();
        let hurry = Arc::new(Notify::new());
        (sender, Arc::clone(&hurry), held_back(requests, hurry))
    }

    #[tokio::test]
    async fn an_entry_carries_the_news_that_waited_for_it() {
        let (sender, _, sent) = outgoing();
        pin_mut!(sent);
        for request in
            [request(4, 5..6, 4), news(5, 5), request(5, 6..8, 5), news(7, 6), news(7, 7)]
        {
            sender.unbounded_send(request).unwrap();
        }
        drop(sender);
        let sent: Vec<Request> = sent.collect().await;
        let entries: Vec<usize> = sent.iter().map(|request| request.entries.len()).collect();
        assert_eq!(entries, [1, 2, 0]);
        assert_eq!(sent[2].leader_commit, news(7, 7).leader_commit);
    }

    #[tokio::test]
    async fn what_is_held_back_at_the_end_is_sent() {
        // A stream that may not be asked again once it has ended, as that of consensus.
        let requests = vec![request(4, 5..6, 4), news(5, 5)].into_iter();
        let requests = futures::stream::unfold(requests, |mut rest| async {
            rest.next().map(|request| (request, rest))
        });
        let sent = held_back(Box::pin(requests), Arc::default());
        assert_eq!(sent.collect::<Vec<_>>().await.len(), 2);
    }

    #[tokio::test]
    async fn news_wait_a_moment_and_no_longer() {
        let (sender, _, sent) = outgoing();
        pin_mut!(sent);
        sender.unbounded_send(request(4, 5..6, 4)).unwrap();
        assert_eq!(sent.next().await.unwrap().entries.len(), 1);
        sender.unbounded_send(news(5, 5)).unwrap();
        assert!(sent.next().now_or_never().is_none(), "held back");
        assert_eq!(sent.next().await.unwrap().leader_commit, news(5, 5).leader_commit);
    }

    #[tokio::test]
    async fn whoever_is_in_a_hurry_has_them_at_once() {
        let (sender, hurry, sent) = outgoing();
        pin_mut!(sent);
        sender.unbounded_send(request(4, 5..6, 4)).unwrap();
        sent.next().await.unwrap();
        sender.unbounded_send(news(5, 5)).unwrap();
        hurry.notify_one();
        assert!(sent.next().now_or_never().is_some());
    }

    #[tokio::test]
    async fn what_asks_how_far_a_member_is_does_not_wait() {
        let (sender, _, sent) = outgoing();
        pin_mut!(sent);
        sender.unbounded_send(news(4, 3)).unwrap();
        assert!(sent.next().now_or_never().is_some(), "nothing was sent before");
        sender.unbounded_send(news(2, 3)).unwrap();
        assert!(sent.next().now_or_never().is_some(), "it follows something else");
        // Neither does it vanish behind what follows something else.
        sender.unbounded_send(news(2, 4)).unwrap();
        sender.unbounded_send(request(3, 4..5, 4)).unwrap();
        assert_eq!(sent.next().await.unwrap().entries.len(), 0);
        assert_eq!(sent.next().await.unwrap().entries.len(), 1);
    }
}
