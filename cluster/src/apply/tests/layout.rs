use crate::catalog;
use crate::command::{Action, Refusal};
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
