//! Who is in the next layout, and when there is one.

use cluster::placement::check;
use cluster::tables::nodes::{EARLIER, EARLIER_KEY, LAYOUT, NODES, NodeRow};
use cluster::view::{MemoryView, Transaction};

use super::*;

const WHOLE: Copies = Copies::Whole { settled: false };

/// A cluster whose nodes are all here and whole, unless a test says otherwise.
#[derive(Clone, Default)]
struct World {
    rows: BTreeMap<u64, NodeRow>,
    states: BTreeMap<u64, MemberState>,
    absent: BTreeSet<u64>,
    copies: BTreeMap<u64, Copies>,
    dead: BTreeSet<u64>,
    /// They can get no copies.
    stuck: BTreeSet<u64>,
    /// Of blocks, on each node.
    bytes: u64,
    present: Layout,
    earlier: Earlier,
}

impl World {
    fn of(nodes: impl IntoIterator<Item = u64>) -> Self {
        let mut world = Self::default();
        for id in nodes {
            world.add(id);
        }
        world
    }

    fn settled(nodes: impl IntoIterator<Item = u64>) -> Self {
        let mut world = Self::of(nodes);
        world.take();
        world
    }

    fn add(&mut self, id: u64) {
        let row = NodeRow {
            id: NodeId(id),
            name: format!("node-{id}"),
            zone: format!("zone-{id}"),
            roles: vec![Role::Store],
            http_url: String::new(),
            rpc_addr: String::new(),
            version: String::new(),
            capacity_bytes: 1 << 30,
            feature_level: cluster::features::NEWEST,
        };
        self.rows.insert(id, row);
    }

    fn drain(&mut self, id: u64, since_ms: u64) {
        self.states.insert(id, MemberState::Draining { since_ms });
    }

    fn remove(&mut self, id: u64) {
        self.states.insert(id, MemberState::Removed { at_ms: 1, forced: true });
        self.rows.remove(&id);
    }

    fn situation(&self) -> Situation {
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        for row in self.rows.values() {
            NODES.put(&mut tx, &row.id, row);
        }
        LAYOUT.put(&mut tx, &(), &self.present);
        EARLIER.put(&mut tx, &EARLIER_KEY, &self.earlier);
        let batch = tx.into_batch();
        view.write(batch);
        let state = |node: NodeId| {
            let state = self.states.get(&node.0).copied().unwrap_or(MemberState::Member);
            state.is_living().then_some((state, false))
        };
        let seen = |node: NodeId, _: u64, _: bool| Seen {
            here: !self.absent.contains(&node.0),
            copies: self.copies.get(&node.0).copied().unwrap_or(WHOLE),
            stuck: self.stuck.contains(&node.0),
            dead: self.dead.contains(&node.0),
            bytes: self.bytes,
        };
        Situation::of(&view, state, seen).unwrap()
    }

    fn next_after(&self, waited: Duration) -> Next {
        next(&self.situation(), &mut Wanted::default(), waited)
    }

    fn next(&self) -> Next {
        self.next_after(Duration::ZERO)
    }

    /// Takes the next layout, and says whom it names.
    fn take(&mut self) -> Vec<u64> {
        let Next::Take(layout) = self.next() else {
            panic!("no layout: {:?}", self.next());
        };
        assert_eq!(layout.epoch(), self.present.epoch() + 1);
        self.earlier = self.earlier.after(&self.present, &layout, |_| true);
        self.present = layout;
        self.present.nodes().iter().map(|id| id.0).collect()
    }
}

#[test]
fn a_cluster_of_one_grows_to_three_copies() {
    let mut world = World::of([1]);
    assert_eq!(world.take(), [1]);
    assert_eq!((world.present.copies(), world.next()), (1, Next::Nothing));

    // Both at once, when both are there.
    world.add(2);
    world.add(3);
    world.absent.insert(3);
    assert!(matches!(world.next(), Next::Wait(_)));
    let mut other = world.clone();
    world.absent.clear();
    assert_eq!(world.take(), [1, 2, 3]);
    assert_eq!((world.present.copies(), world.next()), (3, Next::Nothing));

    // Whoever does not come keeps nobody out, and comes in later.
    let Next::Take(two) = other.next_after(PATIENCE) else { panic!("waits for ever") };
    assert_eq!((two.epoch(), two.copies()), (2, 2));
    other.present = two;
    assert_eq!(other.next_after(PATIENCE), Next::Nothing);
    other.absent.clear();
    assert_eq!(other.take(), [1, 2, 3]);
}

#[test]
fn nodes_without_the_role_or_the_room_hold_nothing() {
    let mut world = World::of([1, 2, 3]);
    world.rows.get_mut(&2).unwrap().roles = vec![Role::Gateway];
    world.rows.get_mut(&3).unwrap().capacity_bytes = 0;
    assert_eq!(world.take(), [1]);
    assert_eq!(World::of([]).next(), Next::Nothing);
}

#[test]
fn a_node_that_is_to_leave_gets_nothing_in_the_next_layout() {
    let mut world = World::settled(1..=5);
    world.drain(2, 20);
    world.drain(4, 10);
    assert_eq!(world.take(), [1, 3, 5]);
    assert_eq!(world.next(), Next::Nothing);
    // It changed its mind.
    world.states.clear();
    assert_eq!(world.take(), [1, 2, 3, 4, 5]);
    // It gave up the role.
    world.rows.get_mut(&5).unwrap().roles = vec![Role::Transcoder];
    assert_eq!(world.take(), [1, 2, 3, 4]);
}

#[test]
fn who_cannot_be_spared_stays_and_it_is_said_why() {
    let mut world = World::settled(1..=4);
    world.drain(2, 10);
    world.drain(4, 20);
    assert_eq!(world.take(), [1, 3, 4], "the first that was asked goes first");
    assert_eq!(world.next(), Next::Nothing);
    let why = world.situation().kept_because(NodeId(4)).unwrap();
    assert!(why.contains("3 copies") && why.contains("only 2 other nodes"), "{why}");
    assert_eq!(world.situation().kept_because(NodeId(2)), None);
    // One that does not answer takes nothing over.
    world.add(5);
    world.copies.insert(5, Copies::Away);
    assert!(world.situation().kept_because(NodeId(4)).is_some());
    world.copies.clear();
    assert_eq!(world.take(), [1, 3, 5]);
    assert_eq!(world.situation().kept_because(NodeId(4)), None);
}

#[test]
fn layouts_follow_each_other_when_all_copies_are_made() {
    let mut world = World::settled(1..=3);
    world.add(4);
    for copies in [Copies::Unknown, Copies::Lacks(7)] {
        world.copies.insert(2, copies);
        let Next::Wait(why) = world.next() else { panic!("does not wait") };
        assert!(why.contains("node 2"), "{why}");
    }
    // Nobody can say when it will come back.
    world.copies.insert(2, Copies::Away);
    assert_eq!(world.take(), [1, 2, 3, 4]);
}

#[test]
fn a_holder_that_was_removed_is_replaced_at_once() {
    let mut world = World::settled(1..=5);
    world.remove(3);
    world.copies.insert(2, Copies::Lacks(7));
    world.add(6);
    world.absent.insert(6);
    assert_eq!(world.take(), [1, 2, 4, 5]);
    assert_eq!(world.present.copies(), 3);

    let mut small = World::settled(1..=3);
    small.remove(1);
    assert_eq!(small.take(), [2, 3]);
    assert_eq!(small.present.copies(), 2);
}

#[test]
fn nodes_that_are_away_stay_in_the_layout() {
    let mut world = World::settled(1..=3);
    world.copies.insert(2, Copies::Away);
    world.absent.insert(2);
    assert_eq!(world.next(), Next::Nothing);
}

#[test]
fn zones_and_capacities_count_as_they_are_now() {
    let mut world = World::settled(1..=6);
    let before = world.present.loads();
    world.rows.get_mut(&1).unwrap().capacity_bytes /= 4;
    world.take();
    assert!(world.present.loads()[&NodeId(1)] < before[&NodeId(1)] / 2);
    assert_eq!(world.next(), Next::Nothing);

    for id in 1..=6 {
        world.rows.get_mut(&id).unwrap().zone = format!("zone-{}", id % 3);
    }
    world.take();
    let candidates: Vec<Candidate> =
        world.situation().staying().map(|store| store.candidate.clone()).collect();
    assert_eq!(check(&world.present, &candidates), []);
    assert_eq!(world.next(), Next::Nothing);
    // As many bytes more or less as a disk is found to have after it was formatted again.
    world.rows.get_mut(&2).unwrap().capacity_bytes += 1 << 20;
    assert_eq!(world.next(), Next::Nothing);
}

#[test]
fn whatever_the_nodes_are_one_layout_is_enough() {
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..8 {
        let nodes = random.u64(1..12);
        let mut world = World::of(1..=nodes);
        for _ in 0..3 {
            for row in world.rows.values_mut() {
                row.zone = format!("zone-{}", random.u64(0..4));
                row.capacity_bytes = random.u64(1..100) << 30;
            }
            if let Next::Take(layout) = world.next() {
                world.present = layout;
            }
            assert_eq!(world.next(), Next::Nothing, "{:?}", world.rows);
        }
    }
}

impl World {
    /// The node is silent, for long.
    fn die(&mut self, id: u64) {
        self.copies.insert(id, Copies::Away);
        self.absent.insert(id);
        self.dead.insert(id);
    }

    fn revive(&mut self, id: u64) {
        self.copies.remove(&id);
        self.absent.remove(&id);
        self.dead.remove(&id);
    }
}

#[test]
fn what_moves_by_choice_moves_in_steps() {
    let mut world = World::settled(1..=4);
    world.bytes = 12 << 30; // 16 GiB in all, 64 groups to a step.
    world.add(5);
    let before = world.present.clone();
    world.take();
    let moved = placement::movement(&before, &world.present).copied;
    assert!((1..=64).contains(&moved), "{moved}");
    // The next one when their copies are there.
    world.copies.insert(5, Copies::Lacks(7));
    assert!(matches!(world.next(), Next::Wait(_)));
    world.copies.clear();
    let mut steps = 1;
    while let Next::Take(_) = world.next() {
        world.take();
        steps += 1;
    }
    let total = placement::movement(&before, &world.present).copied;
    assert!(steps >= 9 && (590..=620).contains(&total), "{steps} steps, {total} copies");
    // Called off half way, only what was moved moves back.
    let full = world.present.clone();
    world.drain(2, 9);
    for _ in 0..3 {
        world.take();
    }
    let away = placement::movement(&full, &world.present).copied;
    let half_way = world.present.clone();
    world.states.clear();
    while let Next::Take(_) = world.next() {
        world.take();
    }
    let back = placement::movement(&half_way, &world.present).copied;
    assert!(back <= away, "{away} away, {back} back");
}

#[test]
fn a_dead_node_is_replaced_and_gets_its_groups_back() {
    let mut world = World::settled(1..=5);
    world.bytes = 12 << 30;
    let before = world.present.clone();
    world.copies.insert(3, Copies::Away);
    assert_eq!(world.next(), Next::Nothing, "it is only down");
    world.die(3);
    // At once and as a whole, whatever the others lack.
    world.copies.insert(1, Copies::Lacks(5));
    assert_eq!(world.take(), [1, 2, 4, 5]);
    world.copies.remove(&1);
    while let Next::Take(_) = world.next() {
        world.take();
    }
    world.revive(3);
    while let Next::Take(_) = world.next() {
        world.take();
    }
    let had = |layout: &Layout, group| layout.holders_of_group(group).contains(&NodeId(3));
    let groups = (0..placement::GROUPS).filter(|group| had(&world.present, *group));
    let again = groups.clone().filter(|group| had(&before, *group)).count();
    assert!(groups.clone().count() > 590 && again * 100 >= groups.count() * 98, "{again}");
}

#[test]
fn nobody_is_replaced_when_many_are_silent_or_few_remain() {
    let mut world = World::settled(1..=5);
    world.die(3);
    world.copies.insert(4, Copies::Away);
    assert_eq!(world.next(), Next::Nothing, "two of five");
    world.copies.remove(&4);
    assert!(matches!(world.next(), Next::Take(_)));

    let mut three = World::settled(1..=3);
    three.die(2);
    assert_eq!(three.next(), Next::Nothing, "two would remain");
    three.add(4);
    assert_eq!(three.take(), [1, 3, 4]);
    // It is dead still, and nobody waits for it.
    assert_eq!(three.next(), Next::Nothing);
}

#[test]
fn a_plan_says_what_a_change_would_move() {
    let mut world = World::settled(1..=4);
    world.bytes = 96 << 30; // 128 GiB in all, 128 MiB in a group.
    let now = plan(&world.situation(), &Change::default(), 64 << 20).unwrap();
    assert_eq!((now.copies, now.bytes, now.steps, now.time), (0, 0, 0, Duration::ZERO));
    assert_eq!(now.nodes.len(), 4);

    let add = Change { add: vec![("zone-9".to_owned(), 1 << 30)], ..Change::default() };
    let more = plan(&world.situation(), &add, 64 << 20).unwrap();
    let new = more.nodes.last().unwrap();
    assert!(new.new && new.id == NodeId(5) && new.gained == new.groups_after);
    assert!((590..=620).contains(&more.copies), "{}", more.copies);
    assert_eq!(more.bytes, u64::from(more.copies) * (128 << 20));
    assert_eq!(more.time.as_secs(), u64::from(new.gained) * 2);
    assert!(more.steps >= more.copies / 8, "{}", more.steps);
    // They offer a GiB each.
    assert!(more.warnings.iter().any(|warning| warning.contains("node 5 would have to hold")));

    let fewer = Change { drain: vec![NodeId(1)], remove: vec![NodeId(2)], ..Change::default() };
    let fewer = plan(&world.situation(), &fewer, 64 << 20).unwrap();
    assert!(fewer.warnings[0].contains("only 2 nodes"), "{:?}", fewer.warnings);
    assert_eq!(fewer.nodes[0].groups_after, 0);
    let strange = Change { drain: vec![NodeId(9)], ..Change::default() };
    assert!(plan(&world.situation(), &strange, 1).unwrap_err().contains("no node 9"));
    let all = Change { drain: (1..=4).map(NodeId).collect(), ..Change::default() };
    assert!(plan(&world.situation(), &all, 1).is_err());

    // What is due already, and why it does not begin.
    world.add(5);
    world.copies.insert(2, Copies::Lacks(3));
    let due = plan(&world.situation(), &Change::default(), 64 << 20).unwrap();
    assert!(due.copies > 500 && due.waiting_for.unwrap().contains("lacks 3 blocks"));
}

#[test]
fn who_cannot_get_its_copies_keeps_no_help_away() {
    let mut world = World::settled(1..=3);
    world.add(4);
    // Its disk is full, or its store is out of order.
    for copies in [Copies::Lacks(7), Copies::Unknown] {
        world.copies.insert(2, copies);
        assert!(matches!(world.next(), Next::Wait(_)));
        world.stuck.insert(2);
        assert!(matches!(world.next(), Next::Take(_)), "{copies:?}");
        world.stuck.clear();
    }
    world.copies.clear();
    assert_eq!(world.take(), [1, 2, 3, 4]);
    // Nor does one that is about to leave.
    world.drain(2, 1);
    world.copies.insert(2, Copies::Lacks(7));
    assert!(matches!(world.next(), Next::Take(_)));
}

#[test]
fn who_comes_no_closer_is_waited_for_only_so_long() {
    let mut world = World::settled(1..=3);
    world.add(4);
    let (mut progress, start) = (Progress::default(), Instant::now());
    let mut waits = |world: &World, after: Duration| {
        let mut situation = world.situation();
        progress.note(&mut situation, start + after);
        match next(&situation, &mut Wanted::default(), Duration::ZERO) {
            Next::Nothing => panic!("nothing is due"),
            Next::Wait(_) => true,
            Next::Take(_) => false,
        }
    };
    let second = Duration::from_secs(1);
    world.copies.insert(2, Copies::Lacks(7));
    assert!(waits(&world, Duration::ZERO));
    // It came closer a second before.
    world.copies.insert(2, Copies::Lacks(1));
    assert!(waits(&world, STALL - second));
    assert!(waits(&world, STALL));
    assert!(waits(&world, STALL * 2 - second * 2));
    assert!(!waits(&world, STALL * 2));
    // A next layout that gives it nothing more does not begin anew; one that does, does.
    world.take_anyhow();
    world.add(5);
    world.copies.insert(2, Copies::Unknown);
    assert!(waits(&world, STALL * 2), "it may have been given something");
    world.copies.insert(2, Copies::Lacks(1));
    assert!(!waits(&world, STALL * 2));
    world.take_anyhow();
    world.add(6);
    world.copies.insert(2, Copies::Lacks(9));
    assert!(waits(&world, STALL * 2));
    assert!(waits(&world, STALL * 3 - second));
    assert!(!waits(&world, STALL * 3));
}

impl World {
    /// Takes the next layout, whoever it would wait for.
    fn take_anyhow(&mut self) {
        let copies = std::mem::take(&mut self.copies);
        self.take();
        self.copies = copies;
    }
}

#[test]
fn those_that_were_replaced_count_as_silent() {
    let mut world = World::settled(1..=9);
    for id in 1..=3 {
        world.die(id);
    }
    assert_eq!(world.take(), [4, 5, 6, 7, 8, 9]);
    world.die(4);
    world.die(5);
    assert_eq!(world.next(), Next::Nothing, "five of nine");
    // Those that will not come back are removed.
    for id in 1..=3 {
        world.remove(id);
    }
    assert_eq!(world.take(), [6, 7, 8, 9]);
}

#[test]
fn one_that_dies_while_it_leaves_is_replaced_at_once() {
    let mut world = World::settled(1..=6);
    world.bytes = 12 << 30;
    world.drain(2, 1);
    let groups = |world: &World| world.present.loads().get(&NodeId(2)).copied().unwrap_or(0);
    let before = groups(&world);
    world.take();
    assert!(groups(&world) > before / 2, "in steps");
    world.die(2);
    // Whatever the others lack.
    world.copies.insert(1, Copies::Lacks(5));
    assert_eq!(world.take(), [1, 3, 4, 5, 6]);

    // Not when so many are silent that it may be the network.
    let mut split = World::settled(1..=6);
    split.bytes = 12 << 30;
    split.drain(2, 1);
    for id in [2, 3, 4] {
        split.die(id);
    }
    let before = groups(&split);
    split.take();
    assert!(groups(&split) > before / 2);
    // Nor when it cannot be spared.
    let mut small = World::settled(1..=3);
    small.drain(2, 1);
    small.die(2);
    assert_eq!(small.next(), Next::Nothing);
}
