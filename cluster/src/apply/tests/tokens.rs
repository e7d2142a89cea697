use crate::apply::{TOKEN_KEPT_MS, TOKEN_LIFE_MS_MAX, TOKEN_USES_MAX, TOKENS_MAX};
use crate::catalog;
use crate::command::{Action, Refusal};
use crate::ids::TokenId;
use crate::tables::nodes::Role;
use crate::testing::{TOKEN, World, mint};

const NEW: TokenId = TokenId([1; 16]);

/// A token with other numbers than usual.
fn odd(world: &World, uses: u32, lives_ms: u64, roles: &[Role], actor: &str) -> Action {
    let Action::MintToken { token, secret_hash, .. } = mint(world, NEW, roles, uses) else {
        panic!("it was made as one")
    };
    let expires_ms = world.now_ms.saturating_add(lives_ms);
    let (roles, actor) = (roles.to_vec(), actor.to_owned());
    Action::MintToken { token, secret_hash, roles, expires_ms, uses, actor }
}

#[test]
fn a_token_is_made_once_and_revoked_once() {
    let mut world = World::new();
    let action = mint(&world, NEW, &[Role::Store, Role::Gateway, Role::Store], 2);
    world.done(action.clone());
    assert!(matches!(world.refused(action), Refusal::Invalid { .. }));
    let row = catalog::token(&world.view, NEW).unwrap().unwrap();
    assert_eq!((row.uses_left, row.created_by.as_str()), (2, "operator"));
    assert_eq!(row.roles, [Role::Store, Role::Gateway]);
    let revoke = Action::RevokeToken { token: NEW, actor: "operator".into() };
    world.done(revoke.clone());
    assert_eq!(world.refused(revoke), Refusal::TokenUnknown);
    assert_eq!(catalog::token(&world.view, NEW).unwrap(), None);
}

#[test]
fn a_token_that_makes_no_sense_is_refused() {
    let mut world = World::new();
    for (uses, lives_ms, roles, actor) in [
        (0, 1000, Role::ALL.as_slice(), "operator"),
        (TOKEN_USES_MAX + 1, 1000, &Role::ALL, "operator"),
        (1, 0, &Role::ALL, "operator"),
        (1, TOKEN_LIFE_MS_MAX + 1, &Role::ALL, "operator"),
        (1, 1000, &[], "operator"),
        (1, 1000, &Role::ALL, ""),
        (1, 1000, &Role::ALL, "o".repeat(101).as_str()),
    ] {
        let refusal = world.refused(odd(&world, uses, lives_ms, roles, actor));
        assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
    }
    world.done(odd(&world, TOKEN_USES_MAX, TOKEN_LIFE_MS_MAX, &Role::ALL, "operator"));
}

#[test]
fn expired_tokens_make_room_after_a_while() {
    let mut world = World::new();
    for number in 1..TOKENS_MAX as u128 {
        world.done(mint(&world, TokenId(number.to_be_bytes()), &Role::ALL, 1));
    }
    let one_more = |world: &World| mint(world, TokenId([9; 16]), &Role::ALL, 1);
    assert!(matches!(world.refused(one_more(&world)), Refusal::Invalid { .. }));
    world.wait(3_600_000 + TOKEN_KEPT_MS - 1);
    assert!(matches!(world.refused(one_more(&world)), Refusal::Invalid { .. }));
    assert!(catalog::token(&world.view, TOKEN).unwrap().is_some());
    world.wait(1);
    world.done(one_more(&world));
    assert_eq!(catalog::tokens(&world.view).unwrap().len(), 1);
}

#[test]
fn without_an_authority_there_are_no_tokens() {
    let mut world = World::without_authority();
    assert_eq!(world.refused(mint(&world, NEW, &Role::ALL, 1)), Refusal::NoAuthority);
}
