//! How many groups each node should hold.
//!
//! In proportion to the weights, as far as safety allows: a node can hold each group once, and a zone can hold no more
//! copies of a group than the zone rule leaves it. What one node or zone may not take, the others share.
//!
//! A layout that meets these quotas exactly always exists: let each group use `quota / GROUPS` of each node. That fraction
//! is at most 1 per node, sums up to the number of copies, and respects each zone's limit; and flows with whole-number
//! limits that can be met in fractions can be met in whole numbers.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::placement::{COPIES, Candidate, GROUPS, usable};

/// How far a node may be from its quota before data is moved for balance alone: 2 %, but at least one group.
#[must_use]
pub fn tolerance(quota: u32) -> u32 {
    (quota / 50).max(1)
}

/// How many groups each usable candidate should hold.
#[must_use]
pub fn quota(candidates: &[Candidate]) -> BTreeMap<NodeId, u32> {
    let usable = usable(candidates);
    let copies = COPIES.min(usable.len());
    let mut zones: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in usable.values() {
        zones.entry(candidate.zone.as_str()).or_default().push(candidate);
    }
    let groups = u64::from(GROUPS);
    let per_zone = zone_limit(copies, zones.len());
    let shares: Vec<Share> = zones
        .values()
        .map(|members| Share {
            weight: members.iter().map(|member| u128::from(member.weight)).sum(),
            limit: members.len().min(per_zone) as u64 * groups,
        })
        .collect();
    let of_zones = divide(copies as u64 * groups, &shares);
    let mut quotas = BTreeMap::new();
    for (members, total) in zones.values().zip(of_zones) {
        let shares: Vec<Share> = members
            .iter()
            .map(|member| Share { weight: member.weight.into(), limit: groups })
            .collect();
        for (member, amount) in members.iter().zip(divide(total, &shares)) {
            let amount = u32::try_from(amount).expect("no node gets more than all groups");
            quotas.insert(member.id, amount);
        }
    }
    quotas
}

/// The most copies of a group that one zone may hold, so that the group is in as many zones as possible.
pub(super) fn zone_limit(copies: usize, zones: usize) -> usize {
    (copies + 1).saturating_sub(copies.min(zones)).max(1)
}

struct Share {
    weight: u128,
    limit: u64,
}

/// Divides `total` by weight, never more than the limits, which allow it together. What is left by rounding goes to the
/// largest remainders, the first of equals.
fn divide(total: u64, shares: &[Share]) -> Vec<u64> {
    let mut amounts = vec![0; shares.len()];
    let mut open: Vec<usize> = (0..shares.len()).collect();
    let mut left = total;
    // Whoever would get more than its limit gets its limit; the others then share what is left. Each round closes one at
    // least, so there are no more rounds than shares.
    loop {
        let weight: u128 = open.iter().map(|at| shares[*at].weight).sum();
        if weight == 0 {
            return amounts;
        }
        let over = |at: &usize| {
            u128::from(left) * shares[*at].weight > u128::from(shares[*at].limit) * weight
        };
        let closed: Vec<usize> = open.iter().copied().filter(over).collect();
        if closed.is_empty() {
            break;
        }
        for at in closed {
            amounts[at] = shares[at].limit;
            left = left.saturating_sub(shares[at].limit);
            open.retain(|still| *still != at);
        }
    }
    let weight: u128 = open.iter().map(|at| shares[*at].weight).sum();
    let mut remainders = Vec::new();
    let mut given = 0;
    for at in open {
        let exact = u128::from(left) * shares[at].weight;
        amounts[at] = u64::try_from(exact / weight).expect("a part of a u64");
        given += amounts[at];
        remainders.push((std::cmp::Reverse(exact % weight), at));
    }
    remainders.sort_unstable();
    let rest = usize::try_from(left - given).expect("less than one for each share");
    for (_, at) in remainders.into_iter().take(rest) {
        amounts[at] += 1;
    }
    amounts
}
