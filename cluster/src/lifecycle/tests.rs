use proptest::prelude::*;

use super::*;

/// A node that is as it should be.
fn well(zone: &str) -> Peer {
    Peer {
        state: MemberState::Member,
        zone: zone.into(),
        in_maintenance: false,
        silent_ms: 0,
        lag: Some(0),
    }
}

fn dead(zone: &str) -> Peer {
    Peer { silent_ms: DEAD_MS, lag: None, ..well(zone) }
}

fn draining(zone: &str) -> Peer {
    Peer { state: MemberState::Draining { since_ms: 1 }, ..well(zone) }
}

fn removed(zone: &str) -> Peer {
    Peer { state: MemberState::Removed { at_ms: 1, forced: false }, ..dead(zone) }
}

fn set(ids: &[u64]) -> BTreeSet<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// Nodes 1, 2, … of whom `voters` vote and all others learn. Node 1 leads.
fn cluster(peers: impl IntoIterator<Item = Peer>, voters: &[u64]) -> Situation {
    let peers: BTreeMap<_, _> = (1..).map(NodeId).zip(peers).collect();
    let voters = set(voters);
    let learners = peers.keys().filter(|id| !voters.contains(id)).copied().collect();
    Situation { leader: NodeId(1), peers, voters, learners, joint: false, committed: true }
}

/// So many nodes, each in a zone of its own.
fn even(nodes: usize, voters: &[u64]) -> Situation {
    cluster((0..nodes).map(|zone| well(&zone.to_string())), voters)
}

/// Takes a step as consensus would, after checking that it may be taken.
fn take(situation: &mut Situation, step: &Step) {
    let majority = |situation: &Situation, of: &BTreeSet<NodeId>| {
        of.iter().filter(|id| situation.peers[id].silent_ms < SILENT_MS).count() * 2 > of.len()
    };
    // Finishing may be tried without one: it is the only thing to do.
    let possible = *step == Step::FinishJoint || majority(situation, &situation.voters);
    assert!(possible, "{step:?} cannot be committed");
    match step {
        Step::FinishJoint => {
            assert!(situation.joint);
            situation.joint = false;
        }
        Step::AddLearner(node) => {
            assert!(situation.peers[node].state.is_living());
            assert!(!situation.voters.contains(node));
            assert!(situation.learners.insert(*node));
        }
        Step::RemoveLearner(node) => {
            assert!(!situation.peers[node].state.is_living());
            assert!(situation.learners.remove(node));
        }
        Step::TransferLeadership { to } => {
            assert!(situation.voters.contains(to) && *to != situation.leader);
            assert!(situation.peers[to].is_fit(), "{to} cannot lead");
            situation.leader = *to;
        }
        Step::ChangeVoters { set } => {
            assert!(set.contains(&situation.leader), "the leader would lose its vote");
            assert_ne!(set, &situation.voters, "nothing changes");
            assert!(majority(situation, set), "{set:?} cannot decide");
            for newcomer in set.difference(&situation.voters) {
                assert!(situation.learners.contains(newcomer));
                let peer = &situation.peers[newcomer];
                assert!(peer.answers() && peer.state.is_living(), "{newcomer} gets a vote");
            }
            let third = situation.learners.iter().chain(&situation.voters).any(|id| {
                let peer = &situation.peers[id];
                !set.contains(id) && peer.is_fit()
            });
            assert!(set.len() % 2 == 1 || (set.len() == 2 && !third), "{} voters", set.len());
            let staying = situation.peers.values().filter(|peer| peer.stays()).count();
            if set.len() < 3 && situation.voters.len() >= 3 {
                assert!(seats(staying) == 1, "{} of {staying} voters are left", set.len());
            }
            let before = std::mem::replace(&mut situation.voters, set.clone());
            situation.learners.extend(before);
            situation.learners.retain(|id| !set.contains(id));
        }
    }
}

/// Takes steps until there are none left.
fn settle(situation: &mut Situation) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some(step) = next(situation) {
        take(situation, &step);
        steps.push(step);
        assert!(steps.len() < 50, "there is no end to it: {steps:?}");
    }
    steps
}

fn change(ids: &[u64]) -> Step {
    Step::ChangeVoters { set: set(ids) }
}

#[test]
fn a_cluster_grows_from_one_voter_to_three_to_five() {
    let mut cluster = even(1, &[1]);
    for nodes in 2..=8 {
        cluster.peers.insert(NodeId(nodes), well(&nodes.to_string()));
        let mut expected = vec![Step::AddLearner(NodeId(nodes))];
        match nodes {
            3 => expected.push(change(&[1, 2, 3])),
            7 => expected.push(change(&[1, 2, 3, 4, 5])),
            _ => {}
        }
        assert_eq!(settle(&mut cluster), expected);
    }
}

#[test]
fn a_learner_that_lacks_much_is_waited_for() {
    let mut cluster = even(3, &[1]);
    for lag in [None, Some(CAUGHT_UP_ENTRIES)] {
        cluster.peers.get_mut(&NodeId(3)).unwrap().lag = lag;
        assert_eq!(next(&cluster), None, "two voters are worse than one");
    }
    cluster.peers.get_mut(&NodeId(3)).unwrap().lag = Some(CAUGHT_UP_ENTRIES - 1);
    assert_eq!(next(&cluster), Some(change(&[1, 2, 3])));
}

#[test]
fn a_dead_voter_is_replaced_by_the_healthiest_in_the_best_zone() {
    let near = Peer { lag: Some(0), ..well("b") };
    let far = Peer { lag: Some(50), ..well("c") };
    let farther = Peer { lag: Some(90), ..well("c") };
    let mut cluster = cluster([well("a"), well("b"), dead("c"), near, farther, far], &[1, 2, 3]);
    assert_eq!(settle(&mut cluster), [change(&[1, 2, 6])]);
    // When it comes back it learns; nothing is won by giving it its vote again.
    cluster.peers.insert(NodeId(3), well("c"));
    assert_eq!(next(&cluster), None);
}

#[test]
fn a_dead_voter_is_not_dropped() {
    assert_eq!(next(&cluster([well("a"), well("b"), dead("c")], &[1, 2, 3])), None);
    // A restart and a maintenance are no death.
    let restarting = Peer { silent_ms: DEAD_MS - 1, ..well("c") };
    let serviced = Peer { in_maintenance: true, ..dead("c") };
    for away in [restarting, serviced] {
        let cluster = cluster([well("a"), well("b"), away, well("d")], &[1, 2, 3]);
        assert_eq!(next(&cluster), None);
    }
    // Of five, two dead ones are too many: three that live survive one more.
    let peers = [well("a"), well("b"), well("c"), dead("d"), dead("e"), dead("f"), dead("g")];
    assert_eq!(settle(&mut cluster(peers, &[1, 2, 3, 4, 5])), [change(&[1, 2, 3])]);
}

#[test]
fn without_a_majority_nothing_is_done() {
    let peers = [well("a"), dead("b"), dead("c"), well("d"), well("e")];
    assert_eq!(next(&cluster(peers, &[1, 2, 3])), None);
}

#[test]
fn nothing_but_finishing_is_done_to_a_change_that_was_cut_off() {
    let mut cluster = even(5, &[1, 2, 4]);
    cluster.joint = true;
    cluster.peers.insert(NodeId(9), well("z"));
    assert_eq!(next(&cluster), Some(Step::FinishJoint));
    cluster.committed = false;
    assert_eq!(next(&cluster), None);
}

#[test]
fn no_zone_has_a_majority_or_comes_near_it() {
    let zones = ["a", "a", "a", "b", "c"].map(well);
    assert_eq!(settle(&mut cluster(zones, &[1, 2, 3])), [change(&[1, 4, 5])]);
    let zones = ["a", "a", "a", "a", "b", "b", "c"].map(well);
    assert_eq!(settle(&mut cluster(zones, &[1])), [change(&[1, 2, 5, 6, 7])]);
    // With two zones there is nothing to gain.
    let zones = ["a", "a", "a", "b", "b"].map(well);
    assert_eq!(next(&cluster(zones, &[1, 2, 3])), None);
}

#[test]
fn a_draining_leader_hands_over_first() {
    let mut drained = cluster([draining("a"), well("b"), well("c"), well("d")], &[1, 2, 3]);
    let to = NodeId(2);
    assert_eq!(settle(&mut drained), [Step::TransferLeadership { to }, change(&[2, 3, 4])]);
    // Nobody can take its seat; its last two followers make do with one voter.
    let mut shrunk = cluster([draining("a"), well("b"), well("c")], &[1, 2, 3]);
    assert_eq!(settle(&mut shrunk), [Step::TransferLeadership { to }, change(&[2])]);
}

#[test]
fn a_draining_node_keeps_its_vote_until_somebody_can_have_it() {
    let newcomer = Peer { lag: Some(100_000), ..well("d") };
    let mut cluster = cluster([well("a"), well("b"), draining("c"), newcomer], &[1, 2, 3]);
    assert_eq!(next(&cluster), None);
    cluster.peers.insert(NodeId(4), well("d"));
    assert_eq!(settle(&mut cluster), [change(&[1, 2, 4])]);
}

#[test]
fn the_only_voter_can_be_replaced() {
    let to = NodeId(2);
    let mut cluster = cluster([draining("a"), well("b")], &[1]);
    let through_two = [change(&[1, 2]), Step::TransferLeadership { to }, change(&[2])];
    assert_eq!(settle(&mut cluster), through_two);
    cluster.peers.insert(NodeId(1), removed("a"));
    assert_eq!(settle(&mut cluster), [Step::RemoveLearner(NodeId(1))]);
}

#[test]
fn all_voters_can_be_replaced() {
    let peers = ["a", "b", "c"].map(draining).into_iter().chain(["a", "b", "c"].map(well));
    let mut cluster = cluster(peers, &[1, 2, 3]);
    let steps = settle(&mut cluster);
    assert_eq!(cluster.voters, set(&[4, 5, 6]));
    assert!(steps.len() <= 3, "{steps:?}");
}

#[test]
fn a_removed_node_leaves() {
    let mut cluster = cluster([well("a"), well("b"), removed("c"), well("d")], &[1, 2, 3]);
    assert_eq!(settle(&mut cluster), [change(&[1, 2, 4]), Step::RemoveLearner(NodeId(3))]);
    let mut cluster = self::cluster([well("a"), well("b"), removed("c")], &[1, 2, 3]);
    assert_eq!(settle(&mut cluster), [change(&[1]), Step::RemoveLearner(NodeId(3))]);
}

#[test]
fn a_leader_that_will_be_switched_off_hands_over() {
    let serviced = Peer { in_maintenance: true, ..well("a") };
    let mut cluster = cluster([serviced, well("b"), well("c")], &[1, 2, 3]);
    assert_eq!(settle(&mut cluster), [Step::TransferLeadership { to: NodeId(2) }]);
}

#[test]
fn an_even_number_of_voters_is_mended() {
    assert_eq!(settle(&mut even(2, &[1, 2])), [change(&[1])]);
    assert_eq!(settle(&mut even(4, &[1, 2, 3, 4])), [change(&[1, 2, 3])]);
    assert_eq!(settle(&mut even(6, &[1, 2, 3, 4, 5, 6])), [change(&[1, 2, 3])]);
}

#[test]
fn nodes_that_the_catalog_does_not_know_are_left_alone() {
    let mut cluster = even(3, &[1, 2, 3]);
    cluster.learners.insert(NodeId(8));
    assert_eq!(next(&cluster), None);
    cluster.voters.insert(NodeId(9));
    cluster.peers.insert(NodeId(3), draining("c"));
    assert_eq!(next(&cluster), None);
}

fn peer() -> impl Strategy<Value = Peer> {
    let state = prop_oneof![
        6 => Just(MemberState::Member),
        2 => Just(MemberState::Draining { since_ms: 1 }),
        1 => Just(MemberState::Removed { at_ms: 1, forced: false }),
    ];
    let silent_ms = prop_oneof![6 => Just(0), 1 => Just(SILENT_MS), 2 => Just(DEAD_MS)];
    let lag = prop_oneof![
        5 => (0_u64..5).prop_map(Some),
        1 => Just(Some(CAUGHT_UP_ENTRIES)),
        1 => Just(None),
    ];
    let in_maintenance = prop::bool::weighted(0.15);
    (state, 0_u8..4, in_maintenance, silent_ms, lag).prop_map(
        |(state, zone, in_maintenance, silent_ms, lag)| {
            // A removed node is answered by nobody, so it stops.
            let silent_ms = if state.is_living() { silent_ms } else { DEAD_MS };
            Peer { state, zone: zone.to_string(), in_maintenance, silent_ms, lag }
        },
    )
}

/// Any state that a cluster may have come to, of which the leader is still there.
fn situation() -> impl Strategy<Value = Situation> {
    let node = (peer(), 0_u8..3);
    (prop::collection::vec(node, 1..10), any::<bool>()).prop_map(|(nodes, joint)| {
        let mut cluster = cluster(nodes.iter().map(|(peer, _)| peer.clone()), &[1]);
        for (id, (_, place)) in (1..).map(NodeId).zip(&nodes) {
            match place {
                _ if id == cluster.leader => {}
                0 => {
                    cluster.learners.remove(&id);
                    cluster.voters.insert(id);
                }
                1 => {
                    cluster.learners.remove(&id);
                }
                _ => {}
            }
        }
        let leader = cluster.peers.get_mut(&NodeId(1)).unwrap();
        (leader.silent_ms, leader.lag) = (0, Some(0));
        if !leader.state.is_living() {
            leader.state = MemberState::Draining { since_ms: 1 };
        }
        cluster.joint = joint && cluster.has_majority(&cluster.voters);
        cluster
    })
}

/// What happens to a cluster while its leader goes on.
fn event() -> impl Strategy<Value = (u64, Peer)> {
    (1_u64..12, peer())
}

/// Lets a node become another one, in a way that the rules of the catalog allow.
fn befall(situation: &mut Situation, id: u64, mut peer: Peer) {
    let id = NodeId(id);
    if id == situation.leader {
        peer.silent_ms = 0;
        peer.lag = Some(0);
    }
    if let Some(before) = situation.peers.get(&id) {
        peer.zone.clone_from(&before.zone);
        if !before.state.is_living() {
            return;
        }
    }
    let others = situation.peers.iter().filter(|(other, _)| **other != id);
    let stays = others.filter(|(_, other)| other.stays()).count();
    if stays == 0 || (id == situation.leader && !peer.state.is_living()) {
        peer.state = MemberState::Member;
    }
    situation.peers.insert(id, peer);
}

/// All sets of so many of these nodes.
fn subsets(of: &[NodeId], size: usize) -> Vec<BTreeSet<NodeId>> {
    let Some((first, rest)) = of.split_first() else {
        return if size == 0 { vec![BTreeSet::new()] } else { vec![] };
    };
    let mut found = subsets(rest, size);
    if size > 0 {
        found.extend(subsets(rest, size - 1).into_iter().map(|mut subset| {
            subset.insert(*first);
            subset
        }));
    }
    found
}

/// How good a set is, in the words of the module's documentation.
fn worth(situation: &Situation, set: &BTreeSet<NodeId>) -> (i64, usize, i64, i64, i64) {
    let peers: Vec<&Peer> = set.iter().map(|id| &situation.peers[id]).collect();
    let alive = peers.iter().filter(|peer| peer.state.is_living() && !peer.is_dead()).count();
    let survives = alive as i64 - (set.len() as i64 / 2 + 1);
    let leaving = peers.iter().filter(|peer| !peer.stays()).count();
    let staying = situation.peers.values().filter(|peer| peer.stays());
    let zones: BTreeSet<_> = staying.map(|peer| &peer.zone).collect();
    let mut in_zone: BTreeMap<_, usize> = BTreeMap::new();
    for peer in &peers {
        *in_zone.entry(&peer.zone).or_default() += 1;
    }
    let limit = zone_limit(set.len(), zones.len());
    let crowded: usize = in_zone.values().map(|voters| voters.saturating_sub(limit)).sum();
    let taken_away = situation.voters.difference(set).count();
    (survives, set.len(), -(leaving as i64), -(crowded as i64), -(taken_away as i64))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_state_is_led_to_one_that_is_as_good_as_can_be(mut cluster in situation()) {
        settle(&mut cluster);
        // Whoever answers catches up, and then there may be more to do.
        for peer in cluster.peers.values_mut() {
            if peer.answers() {
                peer.lag = Some(0);
            }
        }
        settle(&mut cluster);
        prop_assert_eq!(next(&cluster), None);
        if !cluster.has_majority(&cluster.voters) {
            return Ok(());
        }
        prop_assert!(!cluster.joint);
        for (id, peer) in &cluster.peers {
            let present = cluster.voters.contains(id) || cluster.learners.contains(id);
            prop_assert!(present || !peer.state.is_living(), "{} is left out", id);
            prop_assert!(peer.state.is_living() || !cluster.learners.contains(id));
        }
        let staying = cluster.peers.values().filter(|peer| peer.stays()).count();
        let fit = cluster.peers.values().filter(|peer| peer.is_fit()).count();
        if fit >= seats(staying) {
            prop_assert_eq!(cluster.voters.len(), seats(staying));
            for voter in &cluster.voters {
                let peer = &cluster.peers[voter];
                prop_assert!(peer.stays() && !peer.is_dead(), "{} votes", voter);
            }
        }
        let leader = &cluster.peers[&cluster.leader];
        let could_lead = cluster.voters.iter().any(|voter| cluster.peers[voter].is_fit());
        prop_assert!(!could_lead || (leader.stays() && !leader.in_maintenance));
    }

    #[test]
    fn no_other_set_of_voters_would_be_better(cluster in situation()) {
        let chosen = seats::best(&cluster, |_| true).unwrap().set;
        let staying = cluster.peers.values().filter(|peer| peer.stays()).count();
        let could: Vec<NodeId> = cluster
            .peers
            .iter()
            .filter(|(id, peer)| {
                cluster.voters.contains(id) || (cluster.learners.contains(id) && peer.is_fit())
            })
            .map(|(id, _)| *id)
            .collect();
        let best = [1, 3, 5]
            .into_iter()
            .filter(|size| *size <= seats(staying))
            .flat_map(|size| subsets(&could, size))
            .max_by_key(|set| worth(&cluster, set))
            .unwrap();
        prop_assert_eq!(worth(&cluster, &chosen), worth(&cluster, &best), "{:?}", best);
    }

    #[test]
    fn whatever_happens_on_the_way_each_step_may_be_taken(
        mut cluster in situation(),
        events in prop::collection::vec((event(), 0_usize..3), 0..25),
    ) {
        for ((id, peer), steps) in events {
            befall(&mut cluster, id, peer);
            for _ in 0..steps {
                if let Some(step) = next(&cluster) {
                    take(&mut cluster, &step);
                }
            }
        }
        settle(&mut cluster);
    }
}
