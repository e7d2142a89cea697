//! Blocks on their way from needed to forgotten.

use crate::apply::REAP_BLOCKS_MAX;
use crate::catalog;
use crate::command::{Action, BlockRef, Refusal};
use crate::features;
use crate::ids::{BlockHash, VideoId};
use crate::tables::blocks::BlockState;
use crate::testing::{World, block};

const MINUTE_MS: u64 = 60_000;

fn collecting() -> World {
    let mut world = World::new();
    world.done(Action::RaiseFeatureLevel { level: features::UPKEEP });
    world
}

fn the_block() -> BlockRef {
    block("the block", 100)
}

fn append(id: VideoId, put_index: u64) -> Action {
    Action::AppendSource { id, offset: 0, blocks: vec![the_block()], put_index }
}

fn delete(world: &mut World, id: VideoId) {
    world.done(Action::DeleteVideo { id, if_version: None });
}

/// Reaps what waits, and returns the index that did it.
fn reap(world: &mut World) -> u64 {
    let unreferenced_before_ms = world.now_ms;
    let hashes = catalog::waiting_blocks(&world.view, unreferenced_before_ms, 10).unwrap();
    world.done(Action::ReapBlocks { hashes, unreferenced_before_ms });
    world.index
}

fn state(world: &World) -> Option<BlockState> {
    let row = catalog::block(&world.view, &the_block().hash).unwrap();
    row.map(|row| row.state())
}

fn bound(world: &World) -> u64 {
    catalog::deletable_below(&world.view, &[the_block().hash]).unwrap()[0]
}

#[test]
fn a_block_that_nobody_names_waits_is_reaped_and_forgotten() {
    let mut world = collecting();
    let id = world.create(1, None);
    world.done(append(id, 0));
    delete(&mut world, id);
    let since_ms = world.now_ms;
    assert_eq!(state(&world), Some(BlockState::Waiting { since_ms }));
    assert_eq!(catalog::waiting_sum(&world.view, 9).unwrap().bytes, 100);
    assert_eq!(catalog::waiting_blocks(&world.view, since_ms - 1, 9).unwrap(), []);

    world.wait(MINUTE_MS);
    let hashes = vec![the_block().hash, BlockHash([9; 32])];
    let too_early = Action::ReapBlocks { hashes, unreferenced_before_ms: since_ms - 1 };
    world.done(too_early);
    assert_eq!((state(&world), bound(&world)), (Some(BlockState::Waiting { since_ms }), 0));
    let at = reap(&mut world);
    assert_eq!((state(&world), bound(&world)), (Some(BlockState::Reaped { at }), at));
    let reaped = catalog::reaped_blocks(&world.view, None, 9).unwrap();
    assert_eq!(reaped, [((at, the_block().hash), 100)]);
    assert_eq!(catalog::reaped_blocks(&world.view, Some(&reaped[0].0), 9).unwrap(), []);

    // The first one sets the mark, the second raises the floor to it.
    assert!(catalog::is_forgetting_due(&world.view, 0).unwrap());
    world.done(Action::ForgetBlocks { marked_before_ms: 0 });
    let mark = world.index;
    assert_eq!(state(&world), Some(BlockState::Reaped { at }));
    assert!(!catalog::is_forgetting_due(&world.view, world.now_ms - 1).unwrap());
    world.done(Action::ForgetBlocks { marked_before_ms: world.now_ms - 1 });
    assert_eq!(state(&world), Some(BlockState::Reaped { at }), "the mark is too young");
    world.done(Action::ForgetBlocks { marked_before_ms: world.now_ms });
    assert_eq!((state(&world), bound(&world)), (None, mark));
    assert_eq!(catalog::reaped_blocks(&world.view, None, 9).unwrap(), []);
}

#[test]
fn what_was_put_before_it_was_reaped_has_to_be_put_again() {
    let mut world = collecting();
    let first = world.create(1, None);
    world.done(append(first, 0));
    delete(&mut world, first);
    let at = reap(&mut world);

    let second = world.create(2, None);
    let need = Refusal::NeedBlocks { hash: the_block().hash };
    assert_eq!(world.refused(append(second, at - 1)), need);
    world.done(append(second, at));
    assert_eq!((state(&world), bound(&world)), (Some(BlockState::Needed), 0));
    // While somebody needs it, it is there, and nobody has to say since when.
    let third = world.create(3, None);
    world.done(append(third, 0));
    delete(&mut world, second);
    delete(&mut world, third);
    // Not even before it is reaped again: each put stands by itself.
    let fourth = world.create(4, None);
    assert_eq!(world.refused(append(fourth, at - 1)), need);
    world.done(append(fourth, at));
}

#[test]
fn below_the_floor_nothing_is_taken_that_nobody_names() {
    let mut world = collecting();
    for _ in 0..2 {
        world.done(Action::ForgetBlocks { marked_before_ms: u64::MAX });
    }
    let floor = catalog::system(&world.view).unwrap().reap_floor;
    assert!(floor > 0);
    assert_eq!(bound(&world), floor, "copies that were never named go too");
    let id = world.create(1, None);
    world.refused(append(id, floor - 1));
    world.done(append(id, floor));
}

#[test]
fn collection_begins_when_all_understand_it_with_what_waits_by_then() {
    let mut world = World::new();
    let id = world.create(1, None);
    world.done(append(id, 0));
    delete(&mut world, id);
    let hashes = vec![the_block().hash];
    let reap_it = Action::ReapBlocks { hashes, unreferenced_before_ms: u64::MAX };
    assert!(matches!(world.refused(reap_it.clone()), Refusal::Invalid { .. }));
    let forget = Action::ForgetBlocks { marked_before_ms: 0 };
    assert!(matches!(world.refused(forget), Refusal::Invalid { .. }));
    assert_eq!(catalog::waiting_blocks(&world.view, u64::MAX, 9).unwrap(), []);

    world.done(Action::RaiseFeatureLevel { level: features::UPKEEP });
    assert_eq!(catalog::waiting_blocks(&world.view, u64::MAX, 9).unwrap(), [the_block().hash]);
    world.done(reap_it);
    assert_eq!(state(&world), Some(BlockState::Reaped { at: world.index }));
}

#[test]
fn no_more_is_reaped_at_once_than_there_may_be() {
    let hashes = vec![BlockHash([1; 32]); REAP_BLOCKS_MAX + 1];
    collecting().refused(Action::ReapBlocks { hashes, unreferenced_before_ms: 0 });
}
