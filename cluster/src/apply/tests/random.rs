//! What holds for any log: invariants after every command, the same tables however the log is cut into transactions, each
//! command once however often it arrives. The commands are made up of few names and numbers, so that they meet; about half
//! of them make sense at the time, by using claims that were given out, stale ones included.

mod actions;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::apply::{REAP_BLOCKS_MAX, apply};
use crate::catalog::{has_claimable_job, is_about_work, waiting_blocks};
use crate::codec;
use crate::command::{Action, Claim, Command, Reply};
use crate::features;
use crate::ids::{ClientId, NodeId, VideoId};
use crate::jobs::JobKind;
use crate::plan::Plan;
use crate::tables::members::MemberState;
use crate::tables::videos::{VideoError, Visibility};
use crate::testing::{ACTION_NAMES, JUST_NOW, World, block, encode_plan, next_work};
use crate::view::{MemoryView, TableId, Transaction, View};

use actions::{administrative_action, any_action, media_action, number, plan};

/// One step of a random life of a cluster. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Deed {
    /// Any command at all, sensible or not.
    Any(Action),
    /// Sends the last command again.
    Again,
    /// Time passes.
    Wait(u64),
    /// An upload begins.
    Create {
        video: u8,
        announced: bool,
    },
    /// Sends the rest of an announced upload, or says that there is no more.
    Finish {
        video: u8,
    },
    /// Appends to a video where it continues.
    Append {
        video: u8,
        bytes: u32,
    },
    /// Claims any job.
    Claim {
        node: u64,
    },
    /// Does the next thing for one of the claims that were given out.
    Work {
        claim: usize,
        plan: Plan,
        part: u32,
    },
    /// Does something else for one of them.
    Fail {
        claim: usize,
        permanent: bool,
    },
    Release {
        claim: usize,
    },
    /// Collects what nobody has named for so long.
    Reap {
        grace_ms: u64,
    },
    Forget {
        age_ms: u64,
    },
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => media_action().prop_map(Deed::Any),
        4 => administrative_action().prop_map(Deed::Any),
        3 => (0_u8..3, any::<bool>())
            .prop_map(|(video, announced)| Deed::Create { video, announced }),
        1 => (0_u8..3).prop_map(|video| Deed::Finish { video }),
        1 => Just(Deed::Again),
        1 => prop_oneof![Just(100_u64), Just(20_000), Just(100_000_000), number()]
            .prop_map(Deed::Wait),
        4 => (0_u8..3, 1_u32..400).prop_map(|(video, bytes)| Deed::Append { video, bytes }),
        6 => (1_u64..4).prop_map(|node| Deed::Claim { node }),
        24 => (any::<usize>(), plan(), 0_u32..4)
            .prop_map(|(claim, plan, part)| Deed::Work { claim, plan, part }),
        1 => (any::<usize>(), any::<bool>())
            .prop_map(|(claim, permanent)| Deed::Fail { claim, permanent }),
        1 => any::<usize>().prop_map(|claim| Deed::Release { claim }),
        1 => Just(Deed::Any(Action::RaiseFeatureLevel { level: features::NEWEST })),
        2 => grace().prop_map(|grace_ms| Deed::Reap { grace_ms }),
        1 => grace().prop_map(|age_ms| Deed::Forget { age_ms }),
    ]
}

fn grace() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0_u64), 1 => Just(20_000)]
}

/// Turns a deed into a command that fits what has happened so far.
fn action_of(world: &World, claims: &[(NodeId, Claim)], deed: Deed) -> Option<Action> {
    let holds = |claim: &Claim| {
        let lease = crate::catalog::job(&world.view, claim.job).unwrap().and_then(|job| job.lease);
        lease.is_some_and(|lease| lease.token == claim.token)
    };
    let given = |number: usize| {
        // Mostly a claim that holds, sometimes any that was ever given out.
        let all = number.is_multiple_of(5);
        let given: Vec<_> = claims.iter().filter(|(_, claim)| all || holds(claim)).collect();
        given.get((number / 5).checked_rem(given.len())?).copied().cloned()
    };
    match deed {
        Deed::Any(action) => Some(action),
        Deed::Again | Deed::Wait(_) => None,
        Deed::Append { video, bytes } => {
            let id = VideoId([video; 16]);
            let offset = crate::catalog::video(&world.view, id).unwrap()?.source.received;
            let blocks = vec![block(&format!("source {}", offset % 3), bytes)];
            Some(Action::AppendSource { id, offset, blocks, put_index: JUST_NOW })
        }
        Deed::Create { video, announced } => Some(Action::CreateVideo {
            id: VideoId([video; 16]),
            title: "t".into(),
            description: String::new(),
            visibility: Visibility::Public,
            filename: None,
            announced_bytes: announced.then_some(1000),
            upload_key: None,
            keep_source: video == 0,
        }),
        Deed::Finish { video } => {
            let id = VideoId([video; 16]);
            let source = crate::catalog::video(&world.view, id).unwrap()?.source;
            match source.length {
                Some(length) if source.received > 0 && source.received < length => {
                    let bytes = u32::try_from(length - source.received).ok()?;
                    let blocks = vec![block("the rest", bytes)];
                    let (offset, put_index) = (source.received, JUST_NOW);
                    Some(Action::AppendSource { id, offset, blocks, put_index })
                }
                _ => Some(Action::FinishSource { id }),
            }
        }
        Deed::Claim { node } => Some(Action::ClaimJob {
            node: NodeId(node),
            kinds: JobKind::ALL.to_vec(),
            lease_ms: 10_000,
        }),
        Deed::Work { claim, plan, part } => {
            let (_, claim) = given(claim)?;
            Some(next_work(&world.view, &claim, plan, part))
        }
        Deed::Fail { claim, permanent } => {
            let (_, Claim { job, token }) = given(claim)?;
            let error = VideoError { code: "broken".into(), detail: String::new() };
            Some(Action::FailJob { job, token, permanent, error })
        }
        Deed::Release { claim } => {
            let (node, claim) = given(claim)?;
            Some(Action::ReleaseJobs { node, jobs: vec![claim.job] })
        }
        Deed::Reap { grace_ms } => {
            let before_ms = world.now_ms.saturating_sub(grace_ms);
            let hashes = waiting_blocks(&world.view, before_ms, REAP_BLOCKS_MAX).unwrap();
            Some(Action::ReapBlocks { hashes, unreferenced_before_ms: before_ms })
        }
        Deed::Forget { age_ms } => {
            Some(Action::ForgetBlocks { marked_before_ms: world.now_ms.saturating_sub(age_ms) })
        }
    }
}

/// Whoever has work now that there was none of before hears of it.
fn assert_work_is_announced(before: &MemoryView, world: &World) {
    let has_work = |view: &MemoryView| -> Vec<bool> {
        let claims = (1..4).flat_map(|node| JobKind::ALL.map(|kind| (NodeId(node), kind)));
        claims
            .map(|(node, kind)| has_claimable_job(view, node, &[kind], world.now_ms).unwrap())
            .collect()
    };
    if has_work(before) == has_work(&world.view) {
        return;
    }
    let is_same = |table| rows_of(before, table) == rows_of(&world.view, table);
    let changed: Vec<TableId> = TableId::ALL.into_iter().filter(|table| !is_same(*table)).collect();
    assert!(changed.iter().any(|table| is_about_work(*table)), "{changed:?}");
}

fn rows_of(view: &MemoryView, table: TableId) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    view.scan(table, b"", b"", &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// Lives through the deeds, with all invariants checked after each.
fn live(deeds: Vec<Deed>) -> World {
    let mut world = World::new();
    let mut claims = Vec::new();
    for deed in deeds {
        match &deed {
            Deed::Wait(ms) => world.now_ms = world.now_ms.saturating_add(*ms),
            Deed::Again => {
                let last = world.log.last().cloned().expect("the cluster was initialized");
                let before = world.lasting_rows();
                let applied = world.apply_command(last);
                assert!(applied.changed.is_empty());
                assert_eq!(world.lasting_rows(), before);
            }
            Deed::Any(_)
            | Deed::Create { .. }
            | Deed::Append { .. }
            | Deed::Finish { .. }
            | Deed::Claim { .. }
            | Deed::Work { .. }
            | Deed::Fail { .. }
            | Deed::Release { .. }
            | Deed::Reap { .. }
            | Deed::Forget { .. } => {
                let Some(action) = action_of(&world, &claims, deed) else {
                    continue;
                };
                let claimant =
                    if let Action::ClaimJob { node, .. } = &action { Some(*node) } else { None };
                let before = world.view.clone();
                // Some put their blocks long before they name them.
                let lag = world.index * 7 % 31;
                let action = action.put_at(world.index.saturating_sub(lag));
                let reply = world.apply(action);
                assert_work_is_announced(&before, &world);
                if let (Some(node), Reply::Claimed(Some(claim))) = (claimant, reply) {
                    claims.push((node, claim));
                }
            }
        }
    }
    world
}

/// Applies a log with as many commands to a transaction as `sizes` says, in turn.
fn replay(log: &[Command], sizes: &[usize]) -> MemoryView {
    let mut view = MemoryView::default();
    let mut sizes = sizes.iter().cycle();
    let mut rest = log;
    let mut index = 0;
    while !rest.is_empty() {
        let size = (*sizes.next().expect("sizes repeat")).clamp(1, rest.len());
        let (batch, later) = rest.split_at(size);
        rest = later;
        let mut tx = Transaction::new(&view);
        for command in batch {
            index += 1;
            // On its way through the log it is encoded.
            let command: Command = codec::decode(&codec::encode(command)).unwrap();
            apply(&mut tx, index, &command).unwrap();
        }
        let batch = tx.into_batch();
        view.write(batch);
    }
    view
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_every_command_and_cutting_the_log_changes_nothing(
        deeds in prop::collection::vec(deed(), 1..120),
        sizes in prop::collection::vec(1_usize..40, 1..5),
    ) {
        let world = live(deeds);
        prop_assert_eq!(&replay(&world.log, &[1]), &world.view);
        prop_assert_eq!(&replay(&world.log, &sizes), &world.view);
        prop_assert_eq!(&replay(&world.log, &[usize::MAX]), &world.view);
    }

    #[test]
    fn each_command_takes_effect_once_however_often_and_late_it_arrives(
        deeds in prop::collection::vec(deed(), 1..100),
        late in prop::collection::vec(any::<prop::sample::Index>(), 1..30),
    ) {
        // A client that has no answers yet to anything: all that it sent may arrive again.
        let mut world = World::new();
        let mut sent: Vec<(Command, Reply)> = Vec::new();
        let mut claims = Vec::new();
        for (deed, late) in deeds.into_iter().zip(late.iter().cycle()) {
            let Some(action) = action_of(&world, &claims, deed) else {
                continue;
            };
            // Numbers in no order: 0, 7, 14, …, 1, 8, …
            let sequence = (sent.len() as u64 * 7) % 101;
            if sent.iter().any(|(earlier, _)| earlier.sequence == sequence) {
                break;
            }
            let client = ClientId([5; 16]);
            let time_ms = world.now_ms;
            let command = Command { client, sequence, answered_below: 0, time_ms, action };
            let reply = world.apply_command(command.clone()).reply;
            if let (Action::ClaimJob { node, .. }, Reply::Claimed(Some(claim))) =
                (&command.action, &reply)
            {
                claims.push((*node, claim.clone()));
            }
            sent.push((command, reply));
            let (again, first_reply) = sent[late.index(sent.len())].clone();
            let before = world.lasting_rows();
            prop_assert_eq!(world.apply_command(again).reply, first_reply);
            prop_assert_eq!(&world.lasting_rows(), &before);
        }
    }

    #[test]
    fn bytes_that_are_no_command_are_refused_not_fatal(mut bytes: Vec<u8>, action in any_action(), at: prop::sample::Index) {
        let _ = codec::decode::<Command>(&bytes);
        bytes.insert(0, codec::VERSION);
        let _ = codec::decode::<Command>(&bytes);
        let command = Command {
            client: ClientId([3; 16]), sequence: 1, answered_below: 0, time_ms: 1, action,
        };
        let mut encoded = codec::encode(&command);
        prop_assert_eq!(codec::decode::<Command>(&encoded).unwrap(), command);
        let place = at.index(encoded.len());
        encoded[place] ^= bytes.last().copied().unwrap_or(1) | 1;
        if let Ok(damaged) = codec::decode::<Command>(&encoded) {
            let mut world = World::new();
            world.apply_command(damaged);
        }
    }
}

#[test]
fn a_busy_life_ends_well() {
    // Random lives rarely come to an end, so this one is steered: everything that begins is carried through.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let deeds = prop::collection::vec(deed(), 150).new_tree(&mut runner).unwrap().current();
    let mut world = live(deeds);
    let ids: Vec<VideoId> = (0..3).map(|number| VideoId([number; 16])).collect();
    for id in &ids {
        if crate::catalog::video(&world.view, *id).unwrap().is_some() {
            world.apply(Action::DeleteVideo { id: *id, if_version: None });
        }
    }
    for number in 0..3 {
        let id = world.create(number, Some(1000));
        world.append(id, 1000);
        world.done(Action::FinishSource { id });
    }
    world.wait(1_000_000);
    // Some nodes have left or are about to.
    let mut workers = crate::catalog::members(&world.view).unwrap();
    workers.retain(|(_, member)| member.state == MemberState::Member);
    let mut workers = workers.into_iter().map(|(id, _)| id.0).cycle();
    while let Some(claim) = workers.next().and_then(|id| world.claim_any(id)) {
        loop {
            let action = next_work(&world.view, &claim, encode_plan(9), 0);
            let ends = matches!(action, Action::SetPlan { .. } | Action::FinishJob { .. });
            if claim.job.kind == JobKind::Thumbnail {
                let action = next_work(&world.view, &claim, encode_plan(9), 1);
                world.done(action);
            }
            world.done(action);
            if ends {
                break;
            }
        }
    }
    for id in ids {
        assert_eq!(world.video(id).state, crate::tables::videos::VideoState::Ready);
    }
}

#[test]
fn random_lives_see_everything() {
    // A property over lives in which nothing happens proves nothing.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..16 {
        let deeds = prop::collection::vec(deed(), 200).new_tree(&mut runner).unwrap().current();
        let world = live(deeds);
        let mut view = MemoryView::default();
        for (index, command) in (1..).zip(&world.log) {
            let mut tx = Transaction::new(&view);
            let applied = apply(&mut tx, index, command).unwrap();
            let batch = tx.into_batch();
            view.write(batch);
            let refused = matches!(applied.reply, Reply::Refused(_));
            seen.insert((command.action.name(), if refused { "refused" } else { "done" }));
            for id in applied.changed {
                if let Some(video) = crate::catalog::video(&view, id).unwrap() {
                    let playable = if video.frontier_ms > 0 { "playable" } else { "not playable" };
                    seen.insert((video.state.name(), playable));
                }
            }
        }
    }
    let never_refused = ["claim_job", "count_views", "release_jobs", "renew_leases"];
    // These are made by the schedules of `simulation` only.
    let left_out = ["set_layout", "prepare_again"];
    for name in ACTION_NAMES.into_iter().filter(|name| !left_out.contains(name)) {
        assert!(seen.contains(&(name, "done")), "{name} was never done");
        if !never_refused.contains(&name) {
            assert!(seen.contains(&(name, "refused")), "{name} was never refused");
        }
    }
    for (state, playable) in [
        ("uploading", "not playable"),
        ("uploading", "playable"),
        ("processing", "not playable"),
        ("processing", "playable"),
        ("ready", "playable"),
        ("failed", "playable"),
        ("failed", "not playable"),
    ] {
        assert!(seen.contains(&(state, playable)), "no video was ever {state} and {playable}");
    }
}
