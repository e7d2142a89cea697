use crate::apply::MAINTENANCE_MS_MAX;
use crate::catalog;
use crate::command::{Action, Refusal, Reply};
use crate::ids::NodeId;
use crate::jobs::JobKind;
use crate::placement::{Candidate, compute};
use crate::tables::members::MemberState;
use crate::tables::nodes::{NodeRow, Role};
use crate::testing::{TOKEN, World, admit, node};

fn drain(node: u64) -> Action {
    Action::DrainNode { node: NodeId(node), actor: "operator".into() }
}

fn cancel(node: u64) -> Action {
    Action::CancelDrain { node: NodeId(node), actor: "operator".into() }
}

fn remove(node: u64) -> Action {
    Action::RemoveNode { node: NodeId(node), force: false, actor: "operator".into() }
}

fn force(node: u64) -> Action {
    Action::RemoveNode { node: NodeId(node), force: true, actor: "operator".into() }
}

fn maintain(node: u64, until_ms: Option<u64>) -> Action {
    Action::SetMaintenance { node: NodeId(node), until_ms, actor: "operator".into() }
}

fn state(world: &World, node: u64) -> MemberState {
    catalog::member(&world.view, NodeId(node)).unwrap().unwrap().state
}

/// The next layout, over these nodes.
fn lay_out(world: &mut World, nodes: &[u64]) {
    let candidates: Vec<_> = nodes
        .iter()
        .map(|id| Candidate { id: NodeId(*id), zone: format!("zone-{id}"), weight: 1 })
        .collect();
    let present = catalog::layout(&world.view).unwrap();
    let layout = compute(&candidates, (present.epoch() > 0).then_some(&present));
    world.done(Action::SetLayout { layout });
}

fn is_unsafe(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Unsafe { .. })
}

#[test]
fn a_drain_begins_ends_and_can_be_asked_for_twice() {
    let mut world = World::new();
    let since_ms = world.now_ms;
    world.done(drain(2));
    world.wait(1000);
    world.done(drain(2));
    assert_eq!(state(&world, 2), MemberState::Draining { since_ms });
    world.done(cancel(2));
    world.done(cancel(2));
    assert_eq!(state(&world, 2), MemberState::Member);
    assert_eq!(world.refused(drain(9)), Refusal::UnknownNode);
    assert_eq!(world.refused(cancel(9)), Refusal::UnknownNode);
}

#[test]
fn a_draining_node_is_given_no_jobs() {
    let mut world = World::new();
    world.upload(1);
    world.done(drain(1));
    assert_eq!(world.claim_any(1), None);
    assert!(
        !catalog::has_claimable_job(&world.view, NodeId(1), &JobKind::ALL, world.now_ms).unwrap()
    );
    world.done(cancel(1));
    assert!(world.claim_any(1).is_some());
}

#[test]
fn somebody_stays() {
    let mut world = World::new();
    world.done(drain(1));
    world.done(drain(2));
    assert!(is_unsafe(&world.refused(drain(3))));
    assert!(is_unsafe(&world.refused(remove(3))));
    assert!(is_unsafe(&world.refused(force(3))));
    world.done(remove(1));
    world.done(remove(2));
    assert!(is_unsafe(&world.refused(remove(3))));
}

#[test]
fn somebody_keeps_the_blocks() {
    let mut world = World::new();
    for id in [2, 3] {
        let roles = vec![Role::Gateway];
        world.done(Action::RegisterNode { node: NodeRow { roles, ..node(id) } });
    }
    assert!(is_unsafe(&world.refused(drain(1))));
    world.done(drain(3));
    world.done(Action::RegisterNode { node: node(2) });
    world.done(drain(1));
}

#[test]
fn a_node_that_holds_blocks_is_drained_or_lost_before_it_leaves() {
    let mut world = World::new();
    world.done(admit(TOKEN, 4));
    lay_out(&mut world, &[1, 2, 3, 4]);
    assert!(is_unsafe(&world.refused(remove(4))));
    world.done(drain(4));
    assert!(is_unsafe(&world.refused(remove(4))));
    lay_out(&mut world, &[1, 2, 3]);
    let at_ms = world.now_ms;
    world.done(remove(4));
    assert_eq!(state(&world, 4), MemberState::Removed { at_ms, forced: false });
    world.done(force(3));
    assert_eq!(state(&world, 3), MemberState::Removed { at_ms, forced: true });
    assert_eq!(catalog::removed_nodes(&world.view).unwrap(), [NodeId(3), NodeId(4)]);
    assert_eq!(catalog::members(&world.view).unwrap().len(), 2);
}

#[test]
fn a_removed_node_stays_removed() {
    let mut world = World::new();
    world.done(maintain(3, Some(world.now_ms + 1000)));
    world.done(remove(3));
    assert_eq!(catalog::node(&world.view, NodeId(3)).unwrap(), None);
    for action in [
        remove(3),
        force(3),
        drain(3),
        cancel(3),
        maintain(3, None),
        Action::RegisterNode { node: node(3) },
        admit(TOKEN, 3),
    ] {
        assert_eq!(world.refused(action), Refusal::NodeRemoved);
    }
    let layout = compute(&[Candidate { id: NodeId(3), zone: "a".into(), weight: 1 }], None);
    assert!(matches!(world.refused(Action::SetLayout { layout }), Refusal::Invalid { .. }));
}

#[test]
fn the_jobs_of_a_removed_node_go_to_the_others() {
    let mut world = World::new();
    world.upload(1);
    let claim = world.claim_any(3).unwrap();
    world.done(remove(3));
    assert_eq!(world.claim_any(3), None);
    let leases = vec![(claim.job, claim.token)];
    let renewed = world.done(Action::RenewLeases { node: NodeId(3), leases, lease_ms: 10_000 });
    assert_eq!(renewed, Reply::Lost(vec![claim.job]));
    assert_eq!(world.claim_any(1).unwrap().job, claim.job);
}

#[test]
fn maintenance_ends_by_itself() {
    let mut world = World::new();
    let until_ms = world.now_ms + MAINTENANCE_MS_MAX;
    world.done(maintain(2, Some(until_ms)));
    let member = catalog::member(&world.view, NodeId(2)).unwrap().unwrap();
    assert!(member.in_maintenance(until_ms - 1));
    assert!(!member.in_maintenance(until_ms));
    for until_ms in [world.now_ms, until_ms + 1, u64::MAX] {
        let refusal = world.refused(maintain(2, Some(until_ms)));
        assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
    }
    world.done(maintain(2, None));
    let member = catalog::member(&world.view, NodeId(2)).unwrap().unwrap();
    assert!(!member.in_maintenance(world.now_ms));
    assert_eq!(world.refused(maintain(9, None)), Refusal::UnknownNode);
}

#[test]
fn repair_stays_paused_for_whoever_asked_first() {
    let mut world = World::new();
    let pause = |paused, actor: &str| Action::PauseRepair { paused, actor: actor.to_owned() };
    world.done(pause(true, "anna"));
    let since_ms = world.now_ms;
    world.now_ms += 1000;
    world.done(pause(true, "ben"));
    let paused = catalog::system(&world.view).unwrap().repair_paused.unwrap();
    assert_eq!((paused.actor.as_str(), paused.since_ms), ("anna", since_ms));
    for _ in 0..2 {
        world.done(pause(false, "ben"));
        assert_eq!(catalog::system(&world.view).unwrap().repair_paused, None);
    }
}

#[test]
fn each_scrub_that_is_asked_for_is_another_one() {
    let mut world = World::new();
    let asked = |world: &World| catalog::system(&world.view).unwrap().scrub_asked;
    assert_eq!(asked(&world), 0);
    world.done(Action::StartScrub { actor: "anna".into() });
    let first = asked(&world);
    world.done(Action::StartScrub { actor: "anna".into() });
    assert!(0 < first && first < asked(&world));
}

#[test]
fn whoever_asks_says_who_it_is() {
    let mut world = World::new();
    let node = NodeId(2);
    for actor in [String::new(), "a".repeat(101)] {
        for action in [
            Action::DrainNode { node, actor: actor.clone() },
            Action::CancelDrain { node, actor: actor.clone() },
            Action::RemoveNode { node, force: false, actor: actor.clone() },
            Action::SetMaintenance { node, until_ms: None, actor: actor.clone() },
            Action::RevokeToken { token: TOKEN, actor: actor.clone() },
            Action::PauseRepair { paused: true, actor: actor.clone() },
            Action::StartScrub { actor: actor.clone() },
        ] {
            assert!(matches!(world.refused(action), Refusal::Invalid { .. }));
        }
    }
}
