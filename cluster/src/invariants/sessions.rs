//! What is remembered of each client is bounded: replies belong to a session, lie in its window or wait to be deleted in
//! order.

use std::collections::BTreeMap;

use super::Findings;
use crate::apply::REPLY_WINDOW;
use crate::table::KeyRange;
use crate::tables::sessions::{REPLIES, SESSIONS};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let sessions: BTreeMap<_, _> =
        SESSIONS.collect(view, &KeyRange::all(), usize::MAX)?.into_iter().collect();
    for (client, session) in &sessions {
        findings.require(session.deleted_below <= session.answered_below, || {
            format!("{client}: replies were deleted that may still be asked for")
        });
    }
    let mut in_window: BTreeMap<_, u64> = BTreeMap::new();
    for (client, sequence) in REPLIES.keys(view, &KeyRange::all(), usize::MAX)? {
        let session = sessions.get(&client);
        findings.require(session.is_some_and(|session| sequence >= session.deleted_below), || {
            format!("{client}: the reply to {sequence} is outside of its session")
        });
        if session.is_some_and(|session| sequence >= session.answered_below) {
            *in_window.entry(client).or_default() += 1;
        }
    }
    for (client, replies) in in_window {
        findings
            .require(replies <= REPLY_WINDOW, || format!("{client}: {replies} replies are kept"));
    }
    Ok(())
}
