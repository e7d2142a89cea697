use crate::apply::NODES_MAX;
use crate::catalog;
use crate::command::{Action, Refusal};
use crate::features;
use crate::ids::NodeId;
use crate::tables::nodes::{NodeRow, Role};
use crate::testing::{TOKEN, World, admit, birth, node};

#[test]
fn nodes_register_again_when_something_changed() {
    let mut world = World::new();
    let moved = NodeRow {
        roles: vec![Role::Transcoder, Role::Store, Role::Transcoder],
        zone: "elsewhere".into(),
        ..node(2)
    };
    world.done(Action::RegisterNode { node: moved });
    let nodes = catalog::nodes(&world.view).unwrap();
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes[1].zone, "elsewhere");
    assert_eq!(nodes[1].roles, [Role::Store, Role::Transcoder]);
    world.refused(Action::RegisterNode { node: NodeRow { name: "n".repeat(256), ..node(2) } });
}

#[test]
fn only_members_register() {
    let mut world = World::new();
    assert_eq!(world.refused(Action::RegisterNode { node: node(0) }), Refusal::NotAMember);
    assert_eq!(world.refused(Action::RegisterNode { node: node(4) }), Refusal::NotAMember);
    world.done(admit(TOKEN, 4));
    world.done(Action::RegisterNode { node: node(4) });
}

#[test]
fn without_an_authority_anybody_registers() {
    let mut world = World::without_authority();
    world.refused(Action::RegisterNode { node: node(0) });
    for id in 4..=NODES_MAX as u64 {
        world.done(Action::RegisterNode { node: node(id) });
    }
    world.refused(Action::RegisterNode { node: node(NODES_MAX as u64 + 1) });
    world.done(Action::RegisterNode { node: node(1) });
}

#[test]
fn the_feature_level_rises_when_all_understand_it() {
    let mut world = World::new();
    let newer = features::NEWEST + 1;
    let raise = |level| Action::RaiseFeatureLevel { level };
    let upgraded = |id| Action::RegisterNode { node: NodeRow { feature_level: newer, ..node(id) } };
    for id in 1..=3 {
        assert!(matches!(world.refused(raise(newer)), Refusal::Unsafe { .. }), "{id}");
        assert_eq!(catalog::level_understood(&world.view).unwrap(), features::NEWEST);
        world.done(upgraded(id));
    }
    assert_eq!(catalog::level_understood(&world.view).unwrap(), newer);
    world.done(raise(newer));
    world.done(raise(newer));
    assert_eq!(catalog::system(&world.view).unwrap().level(), newer);
    assert!(matches!(world.refused(raise(newer - 1)), Refusal::Invalid { .. }));
    // Nobody goes back, and nobody who is older comes in.
    let too_old = Refusal::ProgramTooOld { needs: newer };
    assert_eq!(world.refused(Action::RegisterNode { node: node(2) }), too_old);
    assert_eq!(world.refused(admit(TOKEN, 4)), too_old);
}

#[test]
fn the_feature_level_waits_for_members_that_have_said_nothing() {
    let mut world = World::unborn();
    world.done(birth());
    let raise = Action::RaiseFeatureLevel { level: features::NEWEST };
    assert!(matches!(world.refused(raise.clone()), Refusal::Unsafe { .. }));
    assert_eq!(catalog::level_understood(&world.view).unwrap(), features::FIRST);
    world.done(Action::RegisterNode { node: node(1) });
    world.done(raise);
}

#[test]
fn a_removed_node_no_longer_holds_the_level_back() {
    let mut world = World::new();
    let newer = features::NEWEST + 1;
    for id in [1, 2] {
        let row = NodeRow { feature_level: newer, ..node(id) };
        world.done(Action::RegisterNode { node: row });
    }
    world.done(Action::RemoveNode { node: NodeId(3), force: false, actor: "operator".into() });
    world.done(Action::RaiseFeatureLevel { level: newer });
}

#[test]
fn an_old_cluster_may_raise_its_level_too() {
    let mut world = World::without_authority();
    world.done(Action::RaiseFeatureLevel { level: features::NEWEST });
    let old = NodeRow { feature_level: 0, ..node(3) };
    let too_old = Refusal::ProgramTooOld { needs: features::NEWEST };
    assert_eq!(world.refused(Action::RegisterNode { node: old }), too_old);
}
