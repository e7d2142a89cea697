//! The computation of a layout: keep, fill, level.
//!
//! - **Keep** every holder of the previous layout that is still a candidate and breaks no rule.
//! - **Fill** each hole with a node that held the group before, or else the nearest one (weighted rendezvous), among those
//!   below their quota that the rules allow; with any that the rules allow when there is none.
//! - **Level**: while a node is further from its quota than the tolerance, move a group from a fuller to an emptier node,
//!   directly where the rules allow it, else along the shortest chain of such moves.
//!
//! A chain is an augmenting path of the flow problem in [`mod@super::quota`], so one exists as long as quotas are not met.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use super::rendezvous::Distance;
use super::{COPIES, Candidate, Earlier, GROUPS, Layout, quota, tolerance, usable};
use crate::ids::NodeId;

/// The layout that follows `previous`, for these candidates. Deterministic: the order of the candidates does not matter.
#[must_use]
pub fn compute(candidates: &[Candidate], previous: Option<&Layout>) -> Layout {
    compute_near(candidates, previous, &Earlier::default())
}

/// As [`compute()`], when it is known who held what before `previous`: of places that are equally good, nodes get those that
/// they had.
#[must_use]
pub fn compute_near(
    candidates: &[Candidate],
    previous: Option<&Layout>,
    earlier: &Earlier,
) -> Layout {
    let mut table = Table::new(candidates, earlier);
    if let Some(previous) = previous {
        table.keep(previous);
    }
    table.fill();
    table.level();
    let epoch = previous.map_or(0, Layout::epoch).saturating_add(1);
    let holders = table.groups.iter().flatten().map(|node| table.nodes[*node].id).collect();
    Layout::new(epoch, table.copies, holders)
        .expect("filling leaves no hole, and never takes a node twice")
}

/// A node within the computation: an index into [`Table::nodes`].
type Index = usize;

struct Node {
    id: NodeId,
    zone: usize,
    quota: u32,
    load: u32,
    /// For each group.
    distances: Vec<Distance>,
}

struct Table {
    copies: usize,
    /// How many copies of a group a zone may hold.
    zone_limit: usize,
    nodes: Vec<Node>,
    /// The holders of each group; what stays keeps its place.
    groups: Vec<Vec<Index>>,
    /// The holders of each group whose copies are there already.
    kept: Vec<Vec<Index>>,
    /// Who held each group before, and may have copies still.
    earlier: Vec<Vec<Index>>,
}

impl Table {
    fn new(candidates: &[Candidate], earlier: &Earlier) -> Self {
        let usable = usable(candidates);
        let mut zones = BTreeMap::new();
        for candidate in usable.values() {
            let next = zones.len();
            zones.entry(candidate.zone.as_str()).or_insert(next);
        }
        let quotas = quota(candidates);
        let nodes: Vec<Node> = usable
            .values()
            .map(|candidate| Node {
                id: candidate.id,
                zone: zones[candidate.zone.as_str()],
                quota: quotas[&candidate.id],
                load: 0,
                distances: (0..GROUPS)
                    .map(|group| Distance::between(candidate.id, candidate.weight, group))
                    .collect(),
            })
            .collect();
        let copies = COPIES.min(nodes.len());
        let index = indexes(&nodes);
        let earlier = (0..GROUPS)
            .map(|group| {
                let holders = earlier.holders_of_group(group).iter();
                holders.filter_map(|holder| index.get(holder).copied()).collect()
            })
            .collect();
        Self {
            copies,
            zone_limit: quota::zone_limit(copies, zones.len()),
            nodes,
            groups: vec![Vec::new(); usize::from(GROUPS)],
            kept: vec![Vec::new(); usize::from(GROUPS)],
            earlier,
        }
    }

    fn keep(&mut self, previous: &Layout) {
        let index = indexes(&self.nodes);
        for group in 0..GROUPS {
            for holder in previous.holders_of_group(group) {
                let at = usize::from(group);
                if let Some(node) = index.get(holder)
                    && self.groups[at].len() < self.copies
                    && self.allows(at, None, *node)
                {
                    self.groups[at].push(*node);
                    self.nodes[*node].load += 1;
                }
            }
        }
        self.kept.clone_from(&self.groups);
    }

    fn fill(&mut self) {
        for group in 0..self.groups.len() {
            while self.groups[group].len() < self.copies {
                let allowed =
                    || (0..self.nodes.len()).filter(|node| self.allows(group, None, *node));
                let nearest = |a: &Index, b: &Index| {
                    let was_there = |node: &Index| self.earlier[group].contains(node);
                    was_there(b).cmp(&was_there(a)).then_with(|| self.nearer(group, *a, *b))
                };
                let node = allowed()
                    .filter(|node| self.nodes[*node].load < self.nodes[*node].quota)
                    .min_by(nearest)
                    .or_else(|| allowed().min_by(nearest))
                    .expect("a zone with room has a node that does not hold the group yet");
                self.groups[group].push(node);
                self.nodes[node].load += 1;
            }
        }
    }

    fn level(&mut self) {
        // Each round brings one group closer to where it should be and there are no more than this many places.
        let rounds_max = self.groups.len() * self.copies;
        for _ in 0..rounds_max {
            let Some(chain) = self.most_needed_chain() else {
                break;
            };
            // From the empty end, so that no node is ever fuller than before on the way.
            for step in chain.iter().rev() {
                if let Some((group, place)) = self.group_to_move(step.from, step.to) {
                    self.groups[group][place] = step.to;
                    self.nodes[step.from].load -= 1;
                    self.nodes[step.to].load += 1;
                }
            }
        }
    }

    /// The next chain of moves: into the emptiest node if one is too empty, else out of the fullest if one is too full.
    fn most_needed_chain(&self) -> Option<Vec<Move>> {
        let too_empty = (0..self.nodes.len())
            .filter(|node| self.surplus(*node) < -i64::from(tolerance(self.nodes[*node].quota)))
            .min_by_key(|node| self.surplus(*node));
        if let Some(node) = too_empty {
            return self.chain(node, Towards::Here);
        }
        let too_full = (0..self.nodes.len())
            .filter(|node| self.surplus(*node) > i64::from(tolerance(self.nodes[*node].quota)))
            .max_by_key(|node| (self.surplus(*node), std::cmp::Reverse(*node)));
        too_full.and_then(|node| self.chain(node, Towards::Away))
    }

    /// The shortest chain of moves between `start` and a node on the other side of its quota, found breadth first; among
    /// chains that part at their last move, the one with the fullest or emptiest other end.
    fn chain(&self, start: Index, towards: Towards) -> Option<Vec<Move>> {
        let mut came_from: Vec<Option<Index>> = vec![None; self.nodes.len()];
        let mut queue = VecDeque::from([start]);
        while let Some(near) = queue.pop_front() {
            let mut next = self.neighbours(near, towards);
            next.retain(|far| *far != start && came_from[*far].is_none());
            next.sort_by_key(|far| match towards {
                Towards::Here => -self.surplus(*far),
                Towards::Away => self.surplus(*far),
            });
            for far in next {
                came_from[far] = Some(near);
                let ends = match towards {
                    Towards::Here => self.surplus(far) > 0,
                    Towards::Away => self.surplus(far) < 0,
                };
                if ends {
                    return Some(walk_back(&came_from, far, towards));
                }
                queue.push_back(far);
            }
        }
        None
    }

    /// The nodes that could hand a group to `near`, or take one from it, in the order of their indexes.
    fn neighbours(&self, near: Index, towards: Towards) -> Vec<Index> {
        let mut found = vec![false; self.nodes.len()];
        for (group, holders) in self.groups.iter().enumerate() {
            match towards {
                Towards::Here => {
                    for from in holders {
                        found[*from] = found[*from] || self.allows(group, Some(*from), near);
                    }
                }
                Towards::Away if holders.contains(&near) => {
                    for (to, found) in found.iter_mut().enumerate() {
                        *found = *found || self.allows(group, Some(near), to);
                    }
                }
                Towards::Away => {}
            }
        }
        (0..found.len()).filter(|node| found[*node]).collect()
    }

    /// The group that `from` should hand to `to`, and its place among the holders. One whose copy has still to be made is
    /// best, because that costs nothing; then one that `to` held before; then the one that `to` is nearest to.
    fn group_to_move(&self, from: Index, to: Index) -> Option<(usize, usize)> {
        let costs = |group: &usize| self.kept[*group].contains(&from);
        let is_new = |group: &usize| !self.earlier[*group].contains(&to);
        let distance = |group: &usize| self.nodes[to].distances[*group];
        let group = (0..self.groups.len())
            .filter(|group| self.groups[*group].contains(&from))
            .filter(|group| self.allows(*group, Some(from), to))
            .min_by(|a, b| {
                (costs(a), is_new(a))
                    .cmp(&(costs(b), is_new(b)))
                    .then_with(|| distance(a).nearer(distance(b)))
            })?;
        let place = self.groups[group].iter().position(|node| *node == from)?;
        Some((group, place))
    }

    /// Whether `node` may be a holder of the group, in the place of `instead_of` or in addition.
    fn allows(&self, group: usize, instead_of: Option<Index>, node: Index) -> bool {
        let zone = self.nodes[node].zone;
        let mut in_zone = 0;
        for holder in &self.groups[group] {
            if *holder == node {
                return false;
            }
            if Some(*holder) != instead_of && self.nodes[*holder].zone == zone {
                in_zone += 1;
            }
        }
        in_zone < self.zone_limit
    }

    fn nearer(&self, group: usize, a: Index, b: Index) -> Ordering {
        self.nodes[a].distances[group].nearer(self.nodes[b].distances[group])
    }

    /// Groups above the quota; below it when negative.
    fn surplus(&self, node: Index) -> i64 {
        i64::from(self.nodes[node].load) - i64::from(self.nodes[node].quota)
    }
}

fn indexes(nodes: &[Node]) -> BTreeMap<NodeId, Index> {
    nodes.iter().enumerate().map(|(at, node)| (node.id, at)).collect()
}

/// Whether a chain leads to its start or away from it.
#[derive(Clone, Copy)]
enum Towards {
    Here,
    Away,
}

/// One group goes from a node to another.
struct Move {
    from: Index,
    to: Index,
}

/// The moves between the start of a search and `far`, in the order in which groups flow.
fn walk_back(came_from: &[Option<Index>], far: Index, towards: Towards) -> Vec<Move> {
    let mut chain = Vec::new();
    let mut at = far;
    while let Some(near) = came_from[at] {
        chain.push(match towards {
            Towards::Here => Move { from: at, to: near },
            Towards::Away => Move { from: near, to: at },
        });
        at = near;
    }
    // From the far end to the start: that is the order in which groups flow when they flow to the start.
    if matches!(towards, Towards::Away) {
        chain.reverse();
    }
    chain
}
