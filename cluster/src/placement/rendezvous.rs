//! Weighted rendezvous hashing in whole numbers.
//!
//! The textbook score is `-weight / ln(h)` with `h` uniform in (0, 1): the chance of having the highest score is the share
//! of the weight. The logarithm of a float is not the same on all machines (libm differs), and one bit of difference would
//! make two nodes compute different layouts. Here the logarithm is computed in fixed point by repeated squaring: only
//! integer multiplications and shifts, equal everywhere. Its error, below 2⁻⁴⁰, is equal everywhere too.

use std::cmp::Ordering;

use crate::ids::NodeId;

/// Fractional bits of the logarithm.
const FRACTION_BITS: u32 = 40;

/// How far a node is from a group: the less, the better. Divided by its weight when compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Distance {
    /// `-log2(h)` in fixed point, never 0.
    negative_log: u64,
    weight: u64,
}

impl Distance {
    /// The distance between a node of this weight and a group. It depends on nothing else, so a node that comes or goes
    /// changes nothing between the others.
    pub(super) fn between(node: NodeId, weight: u64, group: u16) -> Self {
        let mut input = [0; 10];
        input[..8].copy_from_slice(&node.0.to_be_bytes());
        input[8..].copy_from_slice(&group.to_be_bytes());
        let hash = blake3::hash(&input);
        let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
        Self { negative_log: negative_log2(u64::from_be_bytes(*first)), weight: weight.max(1) }
    }

    /// `Less` when this one is nearer. Compares `a / weight_a` with `b / weight_b` without dividing.
    pub(super) fn nearer(self, other: Self) -> Ordering {
        let own = u128::from(self.negative_log) * u128::from(other.weight);
        let others = u128::from(other.negative_log) * u128::from(self.weight);
        own.cmp(&others)
    }
}

/// `-log2((x + 1) / 2^64)` with [`FRACTION_BITS`] fractional bits, at least one unit.
fn negative_log2(x: u64) -> u64 {
    let x = u128::from(x) + 1; // 1 ..= 2^64
    let whole = x.ilog2();
    // The mantissa in [1, 2) with 63 fractional bits.
    let mut mantissa = if whole > 63 { x >> (whole - 63) } else { x << (63 - whole) };
    let mut log = u64::from(whole);
    for _ in 0..FRACTION_BITS {
        // Squaring doubles the logarithm; what overflows into [2, 4) is its next binary digit.
        mantissa = (mantissa * mantissa) >> 63;
        log <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            log |= 1;
        }
    }
    ((64 << FRACTION_BITS) - log).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_and_fixed_for_ever() {
        assert_eq!(negative_log2(u64::MAX), 1);
        assert_eq!(negative_log2((1 << 63) - 1), 1 << FRACTION_BITS);
        assert_eq!(negative_log2(0), 64 << FRACTION_BITS);
        // log2(3/4) = -0.415037499278844, times 2^40, rounded up.
        assert_eq!(negative_log2((3 << 62) - 1), 456_338_556_421);
    }

    #[test]
    fn the_chance_to_be_nearest_is_the_share_of_the_weight() {
        let weights = [1, 2, 5];
        let mut wins = [0; 3];
        for group in 0..8000 {
            let distance =
                |node: usize| Distance::between(NodeId(node as u64 + 1), weights[node], group);
            let nearest =
                (0..3).min_by(|a, b| distance(*a).nearer(distance(*b))).expect("three nodes");
            wins[nearest] += 1;
        }
        for (won, expected) in wins.into_iter().zip([1000_i32, 2000, 5000]) {
            assert!((expected - won).abs() < 150, "{wins:?}");
        }
    }
}
