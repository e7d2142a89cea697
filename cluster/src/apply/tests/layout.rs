use crate::catalog;
use crate::command::{Action, Refusal};
use crate::features;
use crate::ids::NodeId;
use crate::placement::{Candidate, compute};
use crate::testing::{TOKEN, World, admit};

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
    // There is no node 4 yet.
    world.refused(Action::SetLayout { layout: second.clone() });
    world.done(admit(TOKEN, 4));
    world.done(Action::SetLayout { layout: second.clone() });
    assert_eq!(catalog::layout(&world.view).unwrap(), second);
}

#[test]
fn who_held_a_group_before_is_remembered_once_every_program_does() {
    let mut world = World::new();
    world.done(admit(TOKEN, 4));
    let candidates: Vec<Candidate> = (1..=4)
        .map(|id| Candidate { id: NodeId(id), zone: format!("zone-{id}"), weight: 1 })
        .collect();
    let first = compute(&candidates[..3], None);
    let second = compute(&candidates[1..], Some(&first));
    world.done(Action::SetLayout { layout: first });
    world.done(Action::SetLayout { layout: second.clone() });
    let of_first =
        |world: &World| catalog::earlier_holders(&world.view).unwrap().holders_of_group(0).to_vec();
    assert_eq!(of_first(&world), []);

    world.done(Action::RaiseFeatureLevel { level: features::UPKEEP });
    let third = compute(&[&candidates[..1], &candidates[2..]].concat(), Some(&second));
    world.done(Action::SetLayout { layout: third.clone() });
    assert_eq!(of_first(&world), [NodeId(2)]);
    // One that holds it again, or has left, is not among them.
    let fourth = compute(&candidates[..3], Some(&third));
    world.done(Action::SetLayout { layout: fourth });
    assert_eq!(of_first(&world), [NodeId(4)]);
}
