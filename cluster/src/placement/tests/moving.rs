//! How much a change of the candidates moves, against what it has to move.

use super::*;

/// Above the bound, beside the 5 %: small changes are counted in whole groups.
const GROUPS_OVER: u32 = 3;

/// What must be copied: what nodes that are gone held, or what others have less than their quotas, whichever is more. A copy
/// may serve both.
fn bound(old: &Layout, candidates: &[Candidate]) -> u32 {
    let mut loads = old.loads();
    let too_little: u32 = quota(candidates)
        .into_iter()
        .map(|(node, quota)| quota.saturating_sub(loads.remove(&node).unwrap_or_default()))
        .sum();
    too_little.max(loads.into_values().sum())
}

fn five_percent_over(bound: u32) -> u32 {
    bound + bound / 20 + GROUPS_OVER
}

/// Nodes that are all apart, or all in one zone, and none of which has to hold almost every group: nearly any of them can
/// take nearly any group.
fn free_clusters() -> impl Strategy<Value = Vec<Candidate>> {
    (any::<bool>(), prop::collection::vec(8_u64..=16, 8..=64)).prop_map(|(apart, weights)| {
        (1..)
            .zip(weights)
            .map(|(id, weight)| candidate(id, if apart { id } else { 0 }, weight << 36))
            .collect()
    })
}

/// Which node, of however many there are.
fn pick(candidates: &[Candidate], number: usize) -> usize {
    number % candidates.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn a_node_that_joins_moves_its_share(
        before in clusters(),
        zone in 0_u64..9,
        weight in 1_u64..=16,
    ) {
        let old = compute(&before, None);
        let mut after = before;
        after.push(candidate(after.len() as u64 + 1, zone, weight << 36));
        let new = compute(&after, Some(&old));
        prop_assert_eq!(check(&new, &after), vec![]);
        let (moved, bound) = (movement(&old, &new).copied, bound(&old, &after));
        prop_assert!(moved <= five_percent_over(bound), "moved {}, bound {}", moved, bound);
    }

    #[test]
    fn a_node_that_leaves_moves_what_it_held(before in free_clusters(), which in any::<usize>()) {
        let old = compute(&before, None);
        let mut after = before;
        after.remove(pick(&after, which));
        let new = compute(&after, Some(&old));
        prop_assert_eq!(check(&new, &after), vec![]);
        let (moved, bound) = (movement(&old, &new).copied, bound(&old, &after));
        prop_assert!(moved <= five_percent_over(bound), "moved {}, bound {}", moved, bound);
    }

    #[test]
    fn a_change_of_weight_moves_the_difference(
        before in free_clusters(),
        which in any::<usize>(),
        weight in prop::sample::select(vec![0_u64, 8, 10, 12, 14, 16]),
    ) {
        let old = compute(&before, None);
        let mut after = before;
        let which = pick(&after, which);
        after[which].weight = weight << 36;
        let new = compute(&after, Some(&old));
        prop_assert_eq!(check(&new, &after), vec![]);
        let (moved, bound) = (movement(&old, &new).copied, bound(&old, &after));
        prop_assert!(moved <= five_percent_over(bound), "moved {}, bound {}", moved, bound);
    }

    /// Where zones leave little choice, some of what a node leaves has to go by way of another one: whoever is in the only
    /// zone that a group may use has to hand over another group.
    #[test]
    fn zones_make_a_change_cost_more_but_not_much(before in clusters(), which in any::<usize>()) {
        let zones = |candidates: &[Candidate]| {
            candidates.iter().map(|candidate| candidate.zone.clone()).collect::<BTreeSet<_>>().len()
        };
        let old = compute(&before, None);
        let mut after = before.clone();
        after.remove(pick(&after, which));
        // With another number of zones the rule itself is another one, and groups have to change zones.
        prop_assume!(zones(&after) == zones(&before) && after.len() >= 3);
        let new = compute(&after, Some(&old));
        prop_assert_eq!(check(&new, &after), vec![]);
        let (moved, bound) = (movement(&old, &new).copied, bound(&old, &after));
        prop_assert!(moved <= bound * 2 + GROUPS_OVER, "moved {}, bound {}", moved, bound);
    }

    #[test]
    fn a_node_that_goes_and_comes_back_moves_its_share_twice(
        all in free_clusters(),
        which in any::<usize>(),
    ) {
        let before = compute(&all, None);
        let mut without = all.clone();
        let gone = without.remove(pick(&all, which));
        let after = compute(&without, Some(&before));
        let back = compute(&all, Some(&after));
        let share = before.loads()[&gone.id];
        let total = movement(&before, &after).copied + movement(&after, &back).copied;
        prop_assert!(total <= five_percent_over(2 * share), "{} for a share of {}", total, share);
    }
}
