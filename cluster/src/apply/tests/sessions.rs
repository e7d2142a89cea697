use crate::apply::{Applied, REPLY_WINDOW, SESSION_IDLE_MS_MAX, SESSION_SWEEP_EVERY};
use crate::command::{Action, Command, Refusal, Reply};
use crate::ids::{ClientId, VideoId};
use crate::jobs::JobKind;
use crate::table::KeyRange;
use crate::tables::sessions::{REPLIES, SESSIONS};
use crate::testing::World;

const CLIENT: ClientId = ClientId([2; 16]);

fn send(world: &mut World, sequence: u64, answered_below: u64, action: Action) -> Applied {
    let time_ms = world.now_ms;
    world.apply_command(Command { client: CLIENT, sequence, answered_below, time_ms, action })
}

fn view_once(id: VideoId) -> Action {
    Action::CountViews { views: vec![(id, 1)] }
}

fn replies(world: &World) -> usize {
    REPLIES.keys(&world.view, &KeyRange::under(&CLIENT), usize::MAX).unwrap().len()
}

#[test]
fn a_command_that_arrives_again_is_answered_not_applied() {
    let mut world = World::new();
    let id = world.upload(1);
    let claim = Action::ClaimJob {
        node: crate::ids::NodeId(1),
        kinds: vec![JobKind::Prepare],
        lease_ms: 10_000,
    };
    let first = send(&mut world, 0, 0, claim.clone());
    assert!(matches!(first.reply, Reply::Claimed(Some(_))));
    assert_eq!(send(&mut world, 0, 0, claim).reply, first.reply);

    send(&mut world, 1, 0, view_once(id));
    let again = send(&mut world, 1, 0, view_once(id));
    assert_eq!(again, Applied { reply: Reply::Done, changed: vec![] });
    assert_eq!(world.video(id).views, 1);

    // A refusal is an answer like any other: it stays, even when the command would be welcome by now.
    let early = Action::FinishSource { id: VideoId([2; 16]) };
    let refused = send(&mut world, 2, 0, early.clone()).reply;
    assert_eq!(refused, Reply::Refused(Refusal::UnknownVideo));
    world.create(2, None);
    assert_eq!(send(&mut world, 2, 0, early).reply, refused);
}

#[test]
fn commands_may_overtake_each_other() {
    let mut world = World::new();
    let id = world.create(1, None);
    for sequence in [4, 2, 4, 3, 0, 2, 1] {
        send(&mut world, sequence, 0, view_once(id));
    }
    assert_eq!(world.video(id).views, 5);
}

#[test]
fn an_answered_command_is_never_applied_again() {
    let mut world = World::new();
    let id = world.create(1, None);
    for sequence in 0..10 {
        send(&mut world, sequence, 0, view_once(id));
    }
    send(&mut world, 10, 8, view_once(id));
    assert_eq!(replies(&world), 3);
    let late = send(&mut world, 7, 0, view_once(id)).reply;
    assert_eq!(late, Reply::Refused(Refusal::Forgotten));
    // A client cannot have the answer to what it has not sent: the claim is taken as far as it makes sense.
    assert_eq!(send(&mut world, 11, u64::MAX, view_once(id)).reply, Reply::Done);
    assert_eq!(send(&mut world, 12, 0, view_once(id)).reply, Reply::Done);
    assert_eq!(world.video(id).views, 13);
}

#[test]
fn a_client_that_answers_nothing_is_bounded_too() {
    let mut world = World::new();
    let id = world.create(1, None);
    for sequence in 0..20 {
        send(&mut world, sequence, 0, view_once(id));
    }
    send(&mut world, REPLY_WINDOW + 9, 0, view_once(id));
    let reply = send(&mut world, 9, 0, view_once(id)).reply;
    assert_eq!(reply, Reply::Refused(Refusal::Forgotten));
    // 10 is the first number in the window: it still has its answer.
    assert_eq!(send(&mut world, 10, 0, view_once(id)).reply, Reply::Done);
    assert_eq!(replies(&world), 11);
    assert_eq!(world.video(id).views, 21);
    // The last number there is.
    send(&mut world, u64::MAX, 0, view_once(id));
    assert_eq!(send(&mut world, u64::MAX, 0, view_once(id)).reply, Reply::Done);
    assert_eq!(world.video(id).views, 22);
}

#[test]
fn deleting_catches_up_in_small_steps() {
    let mut world = World::new();
    let id = world.create(1, None);
    for sequence in 0..100 {
        send(&mut world, sequence, 0, view_once(id));
    }
    assert_eq!(replies(&world), 100);
    let mut kept = Vec::new();
    for sequence in 100..110 {
        send(&mut world, sequence, sequence, view_once(id));
        kept.push(replies(&world));
    }
    assert!(kept.windows(2).all(|pair| pair[0] - pair[1].min(pair[0]) <= 16), "{kept:?}");
    assert_eq!(kept.last(), Some(&1));
}

#[test]
fn idle_clients_are_forgotten_and_busy_ones_are_not() {
    let mut world = World::new();
    let id = world.create(1, None);
    for number in [10, 11] {
        let client = ClientId([number; 16]);
        for sequence in 0..300 {
            let time_ms = world.now_ms;
            let action = view_once(id);
            let command = Command { client, sequence, answered_below: 0, time_ms, action };
            world.apply_command(command);
        }
    }
    world.wait(SESSION_IDLE_MS_MAX + 1);
    let sessions =
        |world: &World| SESSIONS.keys(&world.view, &KeyRange::all(), usize::MAX).unwrap().len();
    assert_eq!(sessions(&world), 3);
    for _ in 0..SESSION_SWEEP_EVERY * 8 {
        world.done(view_once(id));
    }
    assert_eq!(sessions(&world), 1, "only the one that is in use is left");
    assert_eq!(REPLIES.keys(&world.view, &KeyRange::all(), usize::MAX).unwrap().len(), 1);
}

#[test]
fn the_clock_never_goes_back() {
    let mut world = World::new();
    let id = world.create(1, None);
    let before = crate::catalog::system(&world.view).unwrap().time_ms;
    world.now_ms = 5;
    world.append(id, 10);
    assert_eq!(crate::catalog::system(&world.view).unwrap().time_ms, before);
}
