//! Sets of placement groups, small enough to be told with every ping.

use super::GROUPS;

/// One bit for each group.
const BYTES: usize = GROUPS as usize / 8;

/// Some of the placement groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSet([u8; BYTES]);

impl Default for GroupSet {
    fn default() -> Self {
        Self([0; BYTES])
    }
}

impl GroupSet {
    pub fn insert(&mut self, group: u16) {
        let group = usize::from(group % GROUPS);
        self.0[group / 8] |= 1 << (group % 8);
    }

    /// Adds all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, others)| *own |= others);
    }

    /// Takes all of `other` out.
    pub fn remove(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(own, others)| *own &= !others);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In bytes; none at all for the empty set, which is what most nodes tell most of the time.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if self.is_empty() { Vec::new() } else { self.0.to_vec() }
    }

    /// From bytes; the empty set when they are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        bytes.try_into().map_or_else(|_| Self::default(), Self)
    }
}

impl FromIterator<u16> for GroupSet {
    fn from_iter<T: IntoIterator<Item = u16>>(groups: T) -> Self {
        let mut set = Self::default();
        groups.into_iter().for_each(|group| set.insert(group));
        set
    }
}

/// How the groups of a cluster are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStates {
    /// Their holders have everything, and nobody else has anything.
    pub settled: u32,
    /// Some holder lacks copies.
    pub moving: u32,
    /// All holders have everything, and somebody has copies that are not needed any more.
    pub releasing: u32,
}

impl GroupStates {
    /// From the groups in which nodes lack something, and those in which they have something too much.
    pub fn of<'a>(nodes: impl IntoIterator<Item = (&'a GroupSet, &'a GroupSet)>) -> Self {
        let (mut moving, mut releasing) = (GroupSet::default(), GroupSet::default());
        for (lacking, surplus) in nodes {
            moving.add(lacking);
            releasing.add(surplus);
        }
        releasing.remove(&moving);
        let (moving, releasing) = (moving.len(), releasing.len());
        Self { settled: u32::from(GROUPS) - moving - releasing, moving, releasing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_in_one_state() {
        let set = |groups: &[u16]| groups.iter().copied().collect::<GroupSet>();
        let nodes =
            [(set(&[1, 2, 1023]), set(&[])), (set(&[2]), set(&[3, 1])), (set(&[]), set(&[3]))];
        let states = GroupStates::of(nodes.iter().map(|(lacking, surplus)| (lacking, surplus)));
        assert_eq!(states, GroupStates { settled: 1020, moving: 3, releasing: 1 });
    }

    #[test]
    fn what_is_no_set_is_empty() {
        let set: GroupSet = [0, 9, 1023].into_iter().collect();
        assert_eq!(GroupSet::from_bytes(&set.to_bytes()), set);
        assert_eq!((set.len(), GroupSet::default().to_bytes().len()), (3, 0));
        for bytes in [vec![], vec![255; 7]] {
            assert!(GroupSet::from_bytes(&bytes).is_empty());
        }
    }
}
