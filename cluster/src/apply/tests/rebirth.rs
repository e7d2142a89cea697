use crate::apply::{Rebirth, RebirthError, rebirth};
use crate::catalog;
use crate::command::{Action, Refusal, Reply};
use crate::ids::NodeId;
use crate::invariants;
use crate::placement::{Candidate, compute};
use crate::tables::authority::{AuthorityRow, PrivateKey};
use crate::tables::members::MemberState;
use crate::tables::videos::VideoState;
use crate::testing::{TOKEN, World, admit, copy_plan, node, public_key};
use crate::view::Transaction;

fn new() -> Rebirth {
    Rebirth {
        cluster_id: [8; 16],
        authority: AuthorityRow {
            certificate_der: vec![3; 300],
            key_der: PrivateKey(vec![4; 100]),
            created_ms: 5,
        },
        founder: public_key(9),
        time_ms: 0,
        actor: "operator".into(),
    }
}

fn reborn(world: &mut World) -> Result<NodeId, RebirthError> {
    world.index += 1;
    let mut tx = Transaction::new(&world.view);
    let first = rebirth(&mut tx, world.index, &new())?;
    let batch = tx.into_batch();
    world.view.write(batch);
    let violations = invariants::check(&world.view).unwrap();
    assert!(violations.is_empty(), "{violations:?}");
    Ok(first)
}

#[test]
fn the_catalog_goes_on_and_nobody_of_the_old_members_does() {
    let mut world = World::new();
    let candidates = [Candidate { id: NodeId(2), zone: "z".into(), weight: 1 }];
    world.done(Action::SetLayout { layout: compute(&candidates, None) });
    let ready = world.upload_with_plan(1, copy_plan(4));
    world.work_off();
    let unfinished = world.upload_with_plan(2, copy_plan(4));
    let claim = world.claim_any(2).unwrap();

    let first = reborn(&mut world).unwrap();

    assert_eq!(first, NodeId(4), "an id that nobody had");
    let system = catalog::system(&world.view).unwrap();
    assert_eq!((system.cluster_id, system.generation, system.next_node_id), ([8; 16], 1, 5));
    for (id, member) in catalog::members(&world.view).unwrap() {
        assert_eq!(member.state == MemberState::Member, id == first, "node {id}");
    }
    assert_eq!(catalog::nodes(&world.view).unwrap(), []);
    assert_eq!(catalog::layout(&world.view).unwrap().epoch(), 0);
    assert_eq!(world.video(ready).state, VideoState::Ready);
    // Neither the old members nor the old tokens count any more.
    assert_eq!(world.refused(Action::RegisterNode { node: node(2) }), Refusal::NodeRemoved);
    assert_eq!(world.refused(admit(TOKEN, 5)), Refusal::TokenUnknown);

    // And the new one does what was left.
    world.done(Action::RegisterNode { node: node(4) });
    let candidates = [Candidate { id: first, zone: "z".into(), weight: 1 }];
    world.done(Action::SetLayout { layout: compute(&candidates, None) });
    let again = world.claim_any(4).unwrap();
    assert_eq!(again.job, claim.job);
    world.work(&again);
    assert_ne!(world.video(unfinished).state, VideoState::Failed);
}

#[test]
fn a_cluster_without_an_authority_gets_one() {
    let mut world = World::without_authority();
    assert_eq!(reborn(&mut world).unwrap(), NodeId(4));
    assert_eq!(world.apply(Action::RegisterNode { node: node(4) }), Reply::Done);
}

#[test]
fn what_is_nobodys_or_done_already_is_refused() {
    assert!(matches!(reborn(&mut World::unborn()), Err(RebirthError::Refused(_))));
    let mut world = World::new();
    reborn(&mut world).unwrap();
    assert!(matches!(reborn(&mut world), Err(RebirthError::Refused(_))));
}
