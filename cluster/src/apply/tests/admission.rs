use crate::apply::NODES_MAX;
use crate::catalog;
use crate::command::{Action, Refusal, Reply};
use crate::features;
use crate::ids::{NodeId, SecretHash, TokenId};
use crate::tables::nodes::{NodeRow, Role};
use crate::testing::{TOKEN, World, admit, mint, node, public_key, secret_of};

const NEW: TokenId = TokenId([1; 16]);

/// The node joins with another description than usual.
fn admit_as(token: TokenId, id: u64, node: NodeRow) -> Action {
    let (secret_hash, public_key_hash) = (secret_of(token), public_key(id));
    Action::AdmitNode { token, secret_hash, public_key_hash, node }
}

#[test]
fn a_token_lets_in_as_many_nodes_as_it_says() {
    let mut world = World::new();
    world.done(mint(&world, NEW, &[Role::Store, Role::Gateway], 2));
    let as_store = |id| NodeRow { roles: vec![Role::Store], ..node(id) };
    assert_eq!(world.apply(admit_as(NEW, 40, as_store(40))), Reply::Admitted(NodeId(4)));
    let again = world.apply(admit_as(NEW, 40, as_store(40)));
    assert_eq!(again, Reply::Admitted(NodeId(4)), "the same key is the same node");
    assert_eq!(world.apply(admit_as(NEW, 50, as_store(50))), Reply::Admitted(NodeId(5)));
    assert_eq!(world.refused(admit_as(NEW, 60, as_store(60))), Refusal::TokenUsed);
    // It comes back even when the token is used up or over, and by another token too.
    world.wait(10_000_000);
    assert_eq!(world.apply(admit_as(NEW, 40, as_store(40))), Reply::Admitted(NodeId(4)));
    assert_eq!(world.apply(admit(TOKEN, 40)), Reply::Admitted(NodeId(4)));

    let row = catalog::token(&world.view, NEW).unwrap().unwrap();
    assert_eq!(row.uses_left, 0);
    assert_eq!(row.uses, [(public_key(40), NodeId(4)), (public_key(50), NodeId(5))]);
    let member = catalog::member(&world.view, NodeId(4)).unwrap().unwrap();
    assert_eq!(member.roles_allowed, [Role::Store, Role::Gateway]);
    let registered = catalog::node(&world.view, NodeId(4)).unwrap().unwrap();
    assert_eq!((registered.id, registered.name), (NodeId(4), "node-40".into()));
}

#[test]
fn a_token_that_is_wrong_lets_nobody_in() {
    let mut world = World::new();
    assert_eq!(world.refused(admit(NEW, 4)), Refusal::TokenUnknown);
    let Action::AdmitNode { token, public_key_hash, node, .. } = admit(TOKEN, 4) else { panic!() };
    let secret_hash = SecretHash::of(b"guessed");
    let guess = Action::AdmitNode { token, secret_hash, public_key_hash, node };
    assert_eq!(world.refused(guess), Refusal::TokenUnknown);
    world.wait(3_600_000 - 1);
    world.done(admit(TOKEN, 4));
    world.wait(1);
    assert_eq!(world.refused(admit(TOKEN, 5)), Refusal::TokenExpired);
    world.done(Action::RevokeToken { token: TOKEN, actor: "operator".into() });
    assert_eq!(world.refused(admit(TOKEN, 4)), Refusal::TokenUnknown);
}

#[test]
fn a_token_is_bound_to_roles_for_ever() {
    let mut world = World::new();
    world.done(mint(&world, NEW, &[Role::Gateway], 9));
    let too_much = Refusal::RoleNotAllowed { role: Role::Store };
    assert_eq!(world.refused(admit(NEW, 4)), too_much);
    let gateway = NodeRow { roles: vec![Role::Gateway], ..node(4) };
    world.done(admit_as(NEW, 4, gateway.clone()));
    assert_eq!(world.refused(Action::RegisterNode { node: node(4) }), too_much);
    world.done(Action::RegisterNode { node: gateway });
}

#[test]
fn an_old_program_is_not_admitted() {
    let mut world = World::new();
    for feature_level in [0, features::FIRST] {
        let old = NodeRow { feature_level, ..node(4) };
        let refusal = world.refused(admit_as(TOKEN, 4, old));
        assert_eq!(refusal, Refusal::ProgramTooOld { needs: features::ADMISSION });
    }
}

#[test]
fn two_nodes_cannot_have_one_name_or_address() {
    let mut world = World::new();
    let same_name = NodeRow { name: "node-2".into(), ..node(4) };
    let same_address = NodeRow { rpc_addr: node(3).rpc_addr, ..node(4) };
    for (row, other) in [(same_name, 2), (same_address, 3)] {
        let refusal = world.refused(admit_as(TOKEN, 4, row.clone()));
        let Refusal::AddressTaken { node, .. } = refusal else { panic!("{refusal:?}") };
        assert_eq!(node, NodeId(other));
        // Once the other one has left, its name is free.
        let actor = "operator".into();
        world.done(Action::RemoveNode { node, force: false, actor });
        world.done(admit_as(TOKEN, 4 + other, row));
    }
}

#[test]
fn a_description_that_makes_no_sense_is_not_admitted() {
    let mut world = World::new();
    let endless = NodeRow { zone: "z".repeat(256), ..node(4) };
    assert!(matches!(world.refused(admit_as(TOKEN, 4, endless)), Refusal::Invalid { .. }));
}

#[test]
fn there_are_no_more_members_than_there_can_be() {
    let mut world = World::new();
    for id in 4..=NODES_MAX as u64 {
        world.done(admit(TOKEN, id));
    }
    let new = mint(&world, NEW, &Role::ALL, 9);
    world.done(new);
    assert!(matches!(world.refused(admit(NEW, 1000)), Refusal::Invalid { .. }));
    // Ids are not used twice: the next one is higher, although a place is free again.
    world.done(Action::RemoveNode { node: NodeId(9), force: false, actor: "operator".into() });
    let next = NodeId(NODES_MAX as u64 + 1);
    assert_eq!(world.apply(admit(NEW, 1000)), Reply::Admitted(next));
}
