use crate::apply::AUDIT_ROWS_MAX;
use crate::catalog;
use crate::command::{Action, Command};
use crate::ids::{ClientId, NodeId};
use crate::testing::{TOKEN, World, admit};

fn texts(world: &World, limit: usize) -> Vec<(String, String, String)> {
    let rows = catalog::audit(&world.view, limit).unwrap();
    assert!(rows.is_sorted_by(|(newer, _), (older, _)| newer > older));
    rows.into_iter().map(|(_, row)| (row.actor, row.action, row.outcome)).collect()
}

#[test]
fn what_was_asked_for_is_recorded_newest_first() {
    let mut world = World::new();
    world.upload(1);
    world.apply(admit(TOKEN, 4));
    let remove = Action::RemoveNode { node: NodeId(3), force: true, actor: "ada".into() };
    world.apply(remove.clone());
    world.apply(remove);
    let found = texts(&world, 3);
    let expected = [
        ("ada", "remove node 3 by force", "refused: the node was removed"),
        ("ada", "remove node 3 (node-3) by force", "done"),
        ("token 70707070 of operator", "admit node-4 at 127.0.0.1:9084", "done: it is node 4"),
    ];
    for ((actor, action, outcome), expected) in found.iter().zip(expected) {
        assert_eq!(actor, expected.0);
        assert!(action.starts_with(expected.1), "{action}");
        assert!(outcome.starts_with(expected.2), "{outcome}");
    }
    assert_eq!(texts(&world, 0), []);
    let all = texts(&world, usize::MAX);
    assert_eq!(all.len(), 7, "{all:?}");
    assert!(all[6].1.starts_with("found cluster 0707"), "{all:?}");
}

#[test]
fn a_command_that_arrives_twice_is_recorded_once() {
    let mut world = World::new();
    let before = texts(&world, usize::MAX).len();
    let action = Action::DrainNode { node: NodeId(3), actor: "ada".into() };
    let (client, time_ms) = (ClientId([4; 16]), world.now_ms);
    let command = Command { client, sequence: 0, answered_below: 0, time_ms, action };
    world.apply_command(command.clone());
    world.apply_command(command);
    assert_eq!(texts(&world, usize::MAX).len(), before + 1);
}

#[test]
fn only_the_newest_entries_are_kept() {
    use crate::apply::apply;
    use crate::view::Transaction;

    // Without looking at all invariants after each of so many commands.
    let mut world = World::new();
    let mut tx = Transaction::new(&world.view);
    for number in 0..AUDIT_ROWS_MAX + 20 {
        let action = Action::CancelDrain { node: NodeId(3), actor: format!("number {number}") };
        let client = ClientId([4; 16]);
        let (sequence, answered_below, time_ms) = (number, number, world.now_ms);
        let command = Command { client, sequence, answered_below, time_ms, action };
        apply(&mut tx, world.index + 1 + number, &command).unwrap();
    }
    let batch = tx.into_batch();
    world.view.write(batch);
    world.index += AUDIT_ROWS_MAX + 20;
    let found = texts(&world, usize::MAX);
    assert_eq!(found.len() as u64, AUDIT_ROWS_MAX);
    assert_eq!(found[0].0, format!("number {}", AUDIT_ROWS_MAX + 19));
    assert_eq!(found.last().unwrap().0, "number 20");
    world.apply(admit(TOKEN, 4));
}
