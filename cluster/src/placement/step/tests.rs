use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::{Candidate, Earlier, check, compute, compute_near, movement};
use super::*;

fn candidates(nodes: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
    nodes
        .into_iter()
        .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 << 40 })
        .collect()
}

fn changed(old: &Layout, new: &Layout) -> usize {
    (0..GROUPS).filter(|group| differs(old, new, *group)).count()
}

/// Goes on in steps until the layout is as it should be. The steps, and how many copies they made.
fn walk(present: &mut Layout, earlier: &mut Earlier, to: &[Candidate], limit: usize) -> (u32, u32) {
    let (mut steps, mut copied) = (0, 0);
    loop {
        let target = compute_near(to, Some(present), earlier);
        if changed(present, &target) == 0 {
            return (steps, copied);
        }
        let next = step(present, &target, limit, |_| false);
        assert_eq!(next.epoch(), present.epoch() + 1);
        assert!((1..=limit).contains(&changed(present, &next)));
        copied += movement(present, &next).copied;
        *earlier = earlier.after(present, &next, |_| true);
        *present = next;
        steps += 1;
        assert!(steps < 3 * u32::from(GROUPS), "it does not end");
    }
}

#[test]
fn an_empty_cluster_moves_at_once_and_a_full_one_by_few_groups() {
    assert_eq!(step_limit(0), 1024);
    assert_eq!(step_limit(1 << 30), 1024);
    assert_eq!(step_limit(32 << 30), 32);
    assert_eq!(step_limit(5 << 40), STEP_GROUPS_MIN);
}

#[test]
fn what_lacks_a_copy_is_taken_over_at_once_and_the_rest_in_steps() {
    let five = compute(&candidates(1..=5), None);
    // Node 2 has left, and node 6 has come.
    let target = compute(&candidates([1, 3, 4, 5, 6]), Some(&five));
    let next = step(&five, &target, 0, |node| node == NodeId(2));
    assert!(!next.nodes().contains(&NodeId(2)));
    let lost = five.loads()[&NodeId(2)] as usize;
    assert_eq!(changed(&five, &next), lost);
    let more = step(&five, &target, 8, |node| node == NodeId(2));
    assert_eq!(changed(&five, &more), (lost + 8).min(changed(&five, &target)));
    // Whoever is asked does not matter.
    assert_eq!(more, step(&five, &target, 8, |node| node == NodeId(2)));
    let all = step(&five, &target, 2000, |_| false);
    assert_eq!((changed(&all, &target), all.epoch()), (0, 2));
}

#[test]
fn another_number_of_copies_comes_all_at_once() {
    let two = compute(&candidates(1..=2), None);
    let three = compute(&candidates(1..=3), Some(&two));
    assert_eq!(step(&two, &three, 8, |_| false), three);
    assert_eq!(step(&three, &compute(&candidates(1..=2), None), 8, |_| false).copies(), 2);
}

#[test]
fn a_drain_that_is_called_off_moves_back_what_was_moved() {
    let all = candidates(1..=6);
    let first = compute(&all, None);
    let (mut present, mut earlier) = (first.clone(), Earlier::default());
    let without: Vec<_> = all[..5].to_vec();
    let mut gone = 0;
    for _ in 0..5 {
        let target = compute_near(&without, Some(&present), &earlier);
        let next = step(&present, &target, 20, |_| false);
        gone += movement(&present, &next).copied;
        earlier = earlier.after(&present, &next, |_| true);
        present = next;
    }
    assert_eq!(gone, 100);
    let (_, back) = walk(&mut present, &mut earlier, &all, 20);
    assert!((90..=100).contains(&back), "{back}");
    // And it is its own groups that node 6 got back.
    let held = |layout: &Layout| {
        let holds = |group: &u16| layout.holders_of_group(*group).contains(&NodeId(6));
        (0..GROUPS).filter(holds).collect::<BTreeSet<_>>()
    };
    assert!(held(&present).is_subset(&held(&first)));
}

#[test]
fn a_node_that_comes_back_gets_the_groups_whose_copies_it_has() {
    for nodes in [4, 7, 20] {
        let all = candidates(1..=nodes);
        let first = compute(&all, None);
        let without = compute_near(&all[1..], Some(&first), &Earlier::default());
        let earlier = Earlier::default().after(&first, &without, |_| true);
        let back = compute_near(&all, Some(&without), &earlier);
        let had = |group: &u16| first.holders_of_group(*group).contains(&NodeId(1));
        let has = |group: &u16| back.holders_of_group(*group).contains(&NodeId(1));
        let again = (0..GROUPS).filter(has).filter(had).count();
        let gets = (0..GROUPS).filter(has).count();
        assert!(again * 100 >= gets * 98, "{nodes} nodes: {again} of {gets}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Where all steps lead, and that going in steps costs no more than going at once.
    #[test]
    fn steps_end_where_one_would_and_move_no_more(
        weights in prop::collection::vec(1_u64..=8, 4..=24),
        joins in any::<bool>(),
        limit in 8_usize..200,
    ) {
        let nodes: Vec<_> = (1_u64..)
            .zip(&weights)
            .map(|(id, weight)| Candidate {
                id: NodeId(id),
                zone: (id % 5).to_string(),
                weight: weight << 36,
            })
            .collect();
        let less = &nodes[..nodes.len() - 1];
        let (from, to) = if joins { (less, &nodes[..]) } else { (&nodes[..], less) };
        let first = compute(from, None);
        let at_once = movement(&first, &compute(to, Some(&first))).copied;
        let (mut present, mut earlier) = (first, Earlier::default());
        let (_, copied) = walk(&mut present, &mut earlier, to, limit);
        prop_assert_eq!(check(&present, to), vec![]);
        prop_assert!(copied <= at_once + at_once / 20 + 6, "{} in steps, {} at once", copied, at_once);
    }
}
