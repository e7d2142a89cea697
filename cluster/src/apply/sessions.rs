//! Each command once, however often it arrives.
//!
//! A proposer that hears nothing sends its command again, and both may be in the log. The catalog keeps, for each client,
//! the replies to the sequence numbers that it may still ask for; a number that has a reply is answered with it and not
//! applied again (Ongaro, "Consensus: Bridging Theory and Practice", section 6.3).
//!
//! What is kept is bounded: the client says below which number it has all its answers, the window is at most
//! [`REPLY_WINDOW`] wide, and a client that was not heard of for a day is forgotten. A number below the window is refused,
//! never applied.

use std::ops::ControlFlow;

use super::limits::{
    REPLIES_DELETED_PER_COMMAND, REPLY_WINDOW, SESSION_IDLE_MS_MAX, SESSION_SWEEP_EVERY,
    SWEEP_REPLIES_MAX,
};
use crate::command::{Command, Refusal, Reply};
use crate::ids::ClientId;
use crate::table::KeyRange;
use crate::tables::sessions::{REPLIES, SESSIONS, SessionRow};
use crate::tables::system::SystemRow;
use crate::view::{Transaction, ViewError};

/// Opens or continues the client's session. Returns the reply if the command must not be applied.
pub(super) fn begin(
    tx: &mut Transaction<'_>,
    command: &Command,
    now_ms: u64,
) -> Result<Option<Reply>, ViewError> {
    let mut session = SESSIONS.get(tx, &command.client)?.unwrap_or(SessionRow {
        answered_below: 0,
        deleted_below: 0,
        last_ms: now_ms,
    });
    session.last_ms = now_ms;
    // No client has its answer to a command before it has sent it, so a number above this one is taken as this one.
    let answered_below = command.answered_below.min(command.sequence);
    let window_start = command.sequence.saturating_sub(REPLY_WINDOW - 1);
    session.answered_below = session.answered_below.max(answered_below).max(window_start);
    delete_answered(tx, command.client, &mut session)?;
    SESSIONS.put(tx, &command.client, &session);
    if command.sequence < session.answered_below {
        return Ok(Some(Reply::Refused(Refusal::Forgotten)));
    }
    REPLIES.get(tx, &(command.client, command.sequence))
}

/// Remembers the reply.
pub(super) fn end(tx: &mut Transaction<'_>, command: &Command, reply: &Reply) {
    REPLIES.put(tx, &(command.client, command.sequence), reply);
}

/// Deletes some of the replies that nobody will ask for.
fn delete_answered(
    tx: &mut Transaction<'_>,
    client: ClientId,
    session: &mut SessionRow,
) -> Result<(), ViewError> {
    if session.deleted_below >= session.answered_below {
        return Ok(());
    }
    // Starting where the last deletion ended keeps the scan off the traces of what was deleted before.
    let range = KeyRange::under(&client)
        .starting_at(&(client, session.deleted_below))
        .ending_before(&(client, session.answered_below));
    let answered = REPLIES.keys(tx, &range, REPLIES_DELETED_PER_COMMAND)?;
    session.deleted_below = match answered.last() {
        Some((_, last)) if answered.len() == REPLIES_DELETED_PER_COMMAND => last.saturating_add(1),
        Some(_) | None => session.answered_below,
    };
    for key in answered {
        REPLIES.delete(tx, &key);
    }
    Ok(())
}

/// Looks at one session now and then, and forgets it step by step if its client was not heard of for long.
pub(super) fn sweep(
    tx: &mut Transaction<'_>,
    index: u64,
    system: &mut SystemRow,
) -> Result<(), ViewError> {
    if !index.is_multiple_of(SESSION_SWEEP_EVERY) {
        return Ok(());
    }
    let range = match &system.session_cursor {
        Some(client) => KeyRange::all().starting_at(client),
        None => KeyRange::all(),
    };
    let mut found = None;
    let mut next = None;
    SESSIONS.scan(tx, &range, &mut |client, session| {
        if found.is_none() {
            found = Some((client, session));
            return ControlFlow::Continue(());
        }
        next = Some(client);
        ControlFlow::Break(())
    })?;
    system.session_cursor = next;
    let Some((client, session)) = found else {
        return Ok(());
    };
    if system.time_ms.saturating_sub(session.last_ms) <= SESSION_IDLE_MS_MAX {
        return Ok(());
    }
    let replies = REPLIES.keys(tx, &KeyRange::under(&client), SWEEP_REPLIES_MAX)?;
    if replies.len() < SWEEP_REPLIES_MAX {
        SESSIONS.delete(tx, &client);
    } else {
        // Not done with this one: come back to it.
        system.session_cursor = Some(client);
    }
    for key in replies {
        REPLIES.delete(tx, &key);
    }
    Ok(())
}
