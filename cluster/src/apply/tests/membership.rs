use crate::apply::NODES_MAX;
use crate::catalog;
use crate::command::{Action, Refusal};
use crate::ids::NodeId;
use crate::placement::{Candidate, compute};
use crate::tables::nodes::{NodeRow, Role};
use crate::testing::{World, node};

#[test]
fn a_cluster_is_born_once() {
    let mut world = World::new();
    let again = Action::InitCluster { cluster_id: [8; 16] };
    assert_eq!(world.refused(again), Refusal::AlreadyInitialized);
    assert_eq!(catalog::system(&world.view).unwrap().cluster_id, [7; 16]);
}

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
    world.refused(Action::RegisterNode { node: node(0) });
    world.refused(Action::RegisterNode { node: NodeRow { name: "n".repeat(256), ..node(4) } });
    for id in 4..=NODES_MAX as u64 {
        world.done(Action::RegisterNode { node: node(id) });
    }
    world.refused(Action::RegisterNode { node: node(NODES_MAX as u64 + 1) });
    world.done(Action::RegisterNode { node: node(1) });
}

#[test]
fn layouts_follow_each_other_and_name_known_nodes() {
    let mut world = World::new();
    let candidates: Vec<Candidate> = (1..=4)
        .map(|id| Candidate { id: NodeId(id), zone: format!("zone-{id}"), weight: 1 })
        .collect();
    let first = compute(&candidates[..3], None);
    let second = compute(&candidates, Some(&first));
    assert_eq!(
        world.refused(Action::SetLayout { layout: second.clone() }),
        Refusal::LayoutEpoch { expected: 1 }
    );
    world.done(Action::SetLayout { layout: first.clone() });
    assert_eq!(
        world.refused(Action::SetLayout { layout: first.clone() }),
        Refusal::LayoutEpoch { expected: 2 }
    );
    // Node 4 has not registered yet.
    world.refused(Action::SetLayout { layout: second.clone() });
    world.done(Action::RegisterNode { node: node(4) });
    world.done(Action::SetLayout { layout: second.clone() });
    assert_eq!(catalog::layout(&world.view).unwrap(), second);
}
