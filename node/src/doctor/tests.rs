use super::*;

fn node(id: u64) -> NodeFacts {
    NodeFacts {
        id: NodeId(id),
        name: format!("node-{id}"),
        zone: format!("zone-{id}"),
        stores: true,
        voter: true,
        status: NodeStatus::Up,
        heard: NodeStatus::Up,
        silent_for: Duration::ZERO,
        version: "1.0.0".to_owned(),
        lag: 0,
        disk: Some(Space { free_bytes: 500 << 30, total_bytes: 1000 << 30 }),
        ballast_released: false,
        frees_whole_volumes_only: false,
        clock_ahead_ms: Some(3),
        certificate_left: Some(Duration::from_secs(60 * 24 * 3600)),
        trouble: None,
        scrub: Some(ScrubFacts {
            every: Duration::from_secs(14 * 24 * 3600),
            age: Duration::from_secs(20 * 24 * 3600),
            damaged_blocks: 0,
        }),
        drain: None,
    }
}

fn fall(node: &mut NodeFacts, to: NodeStatus) {
    (node.status, node.heard) = (to, to);
}

fn healthy() -> ClusterFacts {
    ClusterFacts {
        leader: Some(NodeId(1)),
        layout_epoch: 1,
        certificate_life: Duration::from_secs(90 * 24 * 3600),
        under_replicated_blocks: 0,
        repair_paused_by: None,
        copies_not_found: 0,
        nodes: (1..=3).map(node).collect(),
    }
}

/// The codes, in order, of what is found after a change.
fn found(change: impl FnOnce(&mut ClusterFacts)) -> Vec<&'static str> {
    let mut facts = healthy();
    change(&mut facts);
    let findings = examine(&facts);
    for finding in &findings {
        assert!(finding.remedy.ends_with('.'), "{finding:?}");
    }
    findings.into_iter().map(|finding| finding.code).collect()
}

#[test]
fn a_healthy_cluster_has_no_findings() {
    assert_eq!(found(|_| {}), [""; 0]);
}

#[test]
fn each_trouble_is_found() {
    type Change = fn(&mut ClusterFacts);
    let cases: [(&[&str], Change); 20] = [
        (&["no_leader"], |facts| facts.leader = None),
        (&["no_layout"], |facts| facts.layout_epoch = 0),
        (&["too_few_copies"], |facts| facts.under_replicated_blocks = 7),
        (&["few_stores"], |facts| facts.nodes[2].stores = false),
        (&["one_zone"], |facts| {
            facts.nodes.iter_mut().for_each(|node| node.zone = "a".to_owned());
        }),
        (&["node_late"], |facts| fall(&mut facts.nodes[1], NodeStatus::Suspect)),
        (&["node_draining"], |facts| facts.nodes[1].status = NodeStatus::Draining),
        (&["node_maintenance"], |facts| facts.nodes[1].status = NodeStatus::Maintenance),
        (&["store_trouble"], |facts| facts.nodes[1].trouble = Some("full".to_owned())),
        (&["disk_low"], |facts| {
            facts.nodes[1].disk = Some(Space { free_bytes: 9 << 30, total_bytes: 1000 << 30 });
        }),
        (&["repair_paused"], |facts| facts.repair_paused_by = Some("anna".to_owned())),
        (&["copies_not_found"], |facts| facts.copies_not_found = 1),
        (&["no_holes"], |facts| facts.nodes[1].frees_whole_volumes_only = true),
        (&["disk_full"], |facts| {
            facts.nodes[1].disk = Some(Space { free_bytes: 0, total_bytes: 1000 << 30 });
        }),
        (&["scrub_overdue"], |facts| {
            facts.nodes[1].scrub.as_mut().unwrap().age = Duration::from_secs(29 * 24 * 3600);
        }),
        (&["copies_damaged"], |facts| {
            facts.nodes[1].scrub.as_mut().unwrap().damaged_blocks = 1;
        }),
        (&["ballast_released"], |facts| facts.nodes[1].ballast_released = true),
        (&["clock_skew"], |facts| {
            facts.nodes[1].clock_ahead_ms = Some(-700);
        }),
        (&["node_behind"], |facts| facts.nodes[1].lag = 1_000_000),
        (&["certificate_ending"], |facts| facts.nodes[1].certificate_left = Some(Duration::ZERO)),
    ];
    for (expected, change) in cases {
        let mut codes = found(change);
        codes.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(codes, expected);
    }
    assert_eq!(found(|facts| facts.nodes[1].version = "1.1.0".to_owned()), ["versions_differ"]);
}

#[test]
fn a_drain_says_what_it_waits_for_and_what_to_do() {
    let drained = |waiting_for: &[&str], stuck| {
        let mut facts = healthy();
        let waiting_for = waiting_for.iter().map(|reason| (*reason).to_owned()).collect();
        facts.nodes[1].status = NodeStatus::Draining;
        facts.nodes[1].drain = Some(DrainFacts { waiting_for, stuck });
        examine(&facts).remove(0)
    };
    let moving = drained(&["it leads", "it has a vote"], false);
    assert_eq!(moving.summary, "node 2 (node-2) is being drained: it leads; it has a vote");
    assert_eq!(moving.severity, Severity::Notice);
    let stuck = drained(&["add a node first"], true);
    assert_eq!(stuck.severity, Severity::Warning, "somebody has to do something");
    assert!(stuck.remedy.contains("`reelraft node drain 2 --cancel`"), "{stuck:?}");
    let done = drained(&[], false);
    assert!(done.remedy.contains("`reelraft node remove 2`"), "{done:?}");
}

#[test]
fn the_clock_of_whoever_asks_may_be_the_wrong_one() {
    let of = |ahead_ms: [Option<i64>; 3]| {
        let mut facts = healthy();
        for (node, ahead_ms) in facts.nodes.iter_mut().zip(ahead_ms) {
            node.clock_ahead_ms = ahead_ms;
        }
        let findings = examine(&facts).into_iter();
        findings.map(|finding| finding.summary).collect::<Vec<_>>()
    };
    let hour = 3_600_000;
    let one = "node 1 (node-1) has a clock that is 3600.0 s ahead";
    assert_eq!(of([Some(0), Some(-hour), Some(-hour)]), [one]);
    let one = "node 1 (node-1) has a clock that is 3600.0 s behind";
    let three = "node 3 (node-3) has a clock that is 3600.0 s ahead";
    assert_eq!(of([Some(0), Some(hour), Some(2 * hour)]), [one, three]);
    // Of two nobody can say which is wrong, so it is the other one.
    assert_eq!(of([Some(0), None, Some(hour)]), [three]);
    assert_eq!(of([Some(0), Some(0), Some(hour)]), [three]);
    let mut facts = healthy();
    facts.nodes[2].clock_ahead_ms = Some(hour);
    fall(&mut facts.nodes[2], NodeStatus::Dead);
    assert!(examine(&facts).iter().all(|finding| finding.code != "clock_skew"), "long ago");
}

#[test]
fn a_voter_that_is_away_for_maintenance_is_away() {
    let codes = found(|facts| {
        facts.nodes[1].status = NodeStatus::Maintenance;
        facts.nodes[1].heard = NodeStatus::Down;
    });
    assert_eq!(codes, ["no_spare_voter", "node_maintenance"]);
}

#[test]
fn short_certificates_are_no_trouble_by_themselves() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let found_with = |left| {
        found(|facts| {
            facts.certificate_life = hours(12);
            for node in &mut facts.nodes {
                node.certificate_left = Some(left);
            }
        })
    };
    assert_eq!(found_with(hours(3)), [""; 0]);
    assert_eq!(found_with(hours(1)), ["certificate_ending"; 3]);
}

#[test]
fn the_worst_comes_first() {
    let codes = found(|facts| {
        facts.nodes[0].version = "1.1.0".to_owned();
        fall(&mut facts.nodes[1], NodeStatus::Down);
        facts.nodes[2].clock_ahead_ms = Some(1_000);
    });
    assert_eq!(codes, ["node_down", "no_spare_voter", "clock_skew", "versions_differ"]);
}

#[test]
fn a_lost_majority_says_how_many_are_needed() {
    let mut facts = healthy();
    facts.leader = None;
    fall(&mut facts.nodes[0], NodeStatus::Dead);
    fall(&mut facts.nodes[1], NodeStatus::Dead);
    let findings = examine(&facts);
    let summary = &findings[0].summary;
    assert!(summary.contains("1 of 3") && summary.contains("2 are needed"), "{summary}");
}
