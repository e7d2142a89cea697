//! Tokens are made, and taken back.
//!
//! A token that has expired is remembered for [`TOKEN_KEPT_MS`], and then deleted when the next one is made; so there are
//! never more than [`TOKENS_MAX`].

use super::limits::{TOKEN_KEPT_MS, TOKEN_LIFE_MS_MAX, TOKEN_USES_MAX, TOKENS_MAX};
use super::registration::sorted;
use super::step::{Step, Stop, require, require_actor};
use crate::command::{Refusal, Reply};
use crate::ids::{SecretHash, TokenId};
use crate::table::KeyRange;
use crate::tables::authority::AUTHORITY;
use crate::tables::nodes::Role;
use crate::tables::tokens::{TOKENS, TokenRow};

/// A token to be made.
pub(super) struct NewToken<'a> {
    pub(super) id: TokenId,
    pub(super) secret_hash: SecretHash,
    pub(super) roles: &'a [Role],
    pub(super) expires_ms: u64,
    pub(super) uses: u32,
    pub(super) actor: &'a str,
}

pub(super) fn mint(step: &mut Step<'_>, new: NewToken<'_>) -> Result<Reply, Stop> {
    if !AUTHORITY.has(&step.tx, &())? {
        return Err(Refusal::NoAuthority.into());
    }
    require_actor(new.actor)?;
    require(!new.roles.is_empty(), || "the token allows no role".into())?;
    require((1..=TOKEN_USES_MAX).contains(&new.uses), || {
        format!("a token lets in 1 to {TOKEN_USES_MAX} nodes, not {}", new.uses)
    })?;
    require(new.expires_ms > step.now_ms, || {
        "the token would have expired already, by the cluster's clock".into()
    })?;
    require(new.expires_ms - step.now_ms <= TOKEN_LIFE_MS_MAX, || {
        format!("a token lives {} days at most", TOKEN_LIFE_MS_MAX / (24 * 3600 * 1000))
    })?;
    let mut present = TOKENS.collect(&step.tx, &KeyRange::all(), TOKENS_MAX)?;
    require(present.iter().all(|(id, _)| *id != new.id), || {
        "there is such a token already".into()
    })?;
    let now_ms = step.now_ms;
    present.retain(|(id, row)| {
        let forgotten = row.expires_ms.saturating_add(TOKEN_KEPT_MS) <= now_ms;
        if forgotten {
            TOKENS.delete(&mut step.tx, id);
        }
        !forgotten
    });
    require(present.len() < TOKENS_MAX, || {
        format!("there are {TOKENS_MAX} tokens already: revoke some of them")
    })?;
    let row = TokenRow {
        secret_hash: new.secret_hash,
        roles: sorted(new.roles),
        expires_ms: new.expires_ms,
        uses_left: new.uses,
        uses: Vec::new(),
        created_by: new.actor.to_owned(),
    };
    TOKENS.put(&mut step.tx, &new.id, &row);
    Ok(Reply::Done)
}

pub(super) fn revoke(step: &mut Step<'_>, token: TokenId, actor: &str) -> Result<Reply, Stop> {
    require_actor(actor)?;
    if !TOKENS.has(&step.tx, &token)? {
        return Err(Refusal::TokenUnknown.into());
    }
    TOKENS.delete(&mut step.tx, &token);
    Ok(Reply::Done)
}
