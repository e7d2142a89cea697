//! Whether a node holds what the layout gives it, as far as another node can tell.

use std::time::Duration;

use cluster::catalog;
use cluster::ids::NodeId;
use cluster::placement::GroupStates;
use gateway::backend::NodeStatus;

use super::Member;
use crate::content::LAYOUT_SETTLES;
use crate::observe::Stats;

/// What is known of a node's share of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copies {
    /// It has all of it. `settled` when it looked so long after the layout began that nothing which was stored by an earlier
    /// one can have come later.
    Whole { settled: bool },
    /// It lacks so many blocks.
    Lacks(u64),
    /// It has not compared its blocks with this layout yet, or has not been heard of for a moment.
    Unknown,
    /// It has been silent for long, and nobody has said that it will come back.
    Away,
}

impl Copies {
    /// `announced`: whether it was said to be away for some time.
    fn of(status: NodeStatus, said: Option<&Stats>, layout_epoch: u64, announced: bool) -> Self {
        match status {
            NodeStatus::Down | NodeStatus::Dead if announced => Self::Unknown,
            NodeStatus::Down | NodeStatus::Dead => Self::Away,
            NodeStatus::Suspect => Self::Unknown,
            NodeStatus::Joining
            | NodeStatus::Up
            | NodeStatus::Draining
            | NodeStatus::Maintenance => {
                let missing = said.and_then(|said| said.missing_by(layout_epoch));
                let known_for = said.map_or(Duration::ZERO, |said| said.layout_known_for);
                match missing {
                    Some(0) => Self::Whole { settled: known_for >= LAYOUT_SETTLES },
                    Some(missing) => Self::Lacks(missing),
                    None => Self::Unknown,
                }
            }
        }
    }

    /// What is not as it should be; nothing when the node has all that it should.
    pub(super) fn trouble(self) -> Option<String> {
        match self {
            Self::Whole { .. } => None,
            Self::Lacks(blocks) => Some(format!("lacks {blocks} blocks")),
            Self::Unknown => Some("has not said yet which blocks it lacks".to_owned()),
            Self::Away => Some("does not answer".to_owned()),
        }
    }
}

impl Member {
    /// How the placement groups are, as far as this node knows: by what all that it hears of say of themselves.
    #[must_use]
    pub fn group_states(&self) -> GroupStates {
        let nodes = catalog::nodes(self.consensus().catalog().as_ref()).unwrap_or_default();
        let said = nodes.iter().filter_map(|row| match row.id == self.id() {
            true => Some(self.stats()),
            false => self.observer().observe(row.id).said,
        });
        let said: Vec<Stats> = said.collect();
        GroupStates::of(said.iter().map(|said| (&said.lacking_groups, &said.surplus_groups)))
    }

    /// What this node knows of the share of `node` in the layout of this epoch.
    pub(super) fn copies_of(&self, node: NodeId, layout_epoch: u64, announced: bool) -> Copies {
        if node == self.id() {
            return Copies::of(NodeStatus::Up, Some(&self.stats()), layout_epoch, announced);
        }
        let seen = self.observer().observe(node);
        Copies::of(seen.status, seen.said.as_ref(), layout_epoch, announced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_by_another_layout_says_nothing() {
        let said = |missing: u64, known_for: Duration| Stats {
            missing_blocks: Some(missing),
            layout_epoch: 4,
            layout_known_for: known_for,
            ..Stats::default()
        };
        let early = said(0, LAYOUT_SETTLES / 2);
        let late = said(0, LAYOUT_SETTLES);
        let up = |said: &Stats, epoch| Copies::of(NodeStatus::Up, Some(said), epoch, false);
        assert_eq!(up(&early, 4), Copies::Whole { settled: false });
        assert_eq!(up(&late, 4), Copies::Whole { settled: true });
        assert_eq!(up(&late, 5), Copies::Unknown);
        assert_eq!(up(&said(3, LAYOUT_SETTLES), 4), Copies::Lacks(3));
        assert_eq!(Copies::of(NodeStatus::Up, None, 4, false), Copies::Unknown);
        // Silence.
        let silent = |status, announced| Copies::of(status, Some(&late), 4, announced);
        assert_eq!(silent(NodeStatus::Suspect, false), Copies::Unknown);
        assert_eq!(silent(NodeStatus::Down, false), Copies::Away);
        assert_eq!(silent(NodeStatus::Down, true), Copies::Unknown);
    }
}
