//! Which sizes a video is offered in.
//!
//! Rungs are named by the short side, so that a portrait clip has the same ladder as a landscape one. The top rung is the
//! source's own size: scaling 1088 lines to 1080 would cost sharpness and gain nothing.

/// The standard rungs: short side in pixels and the cap in bits per second at up to 30 frames per second.
const RUNGS: [(u32, u32); 6] = [
    (360, 800_000),
    (480, 1_400_000),
    (720, 2_800_000),
    (1080, 5_000_000),
    (1440, 9_000_000),
    (2160, 16_000_000),
];

/// One size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rung {
    /// Pixels, even.
    pub(crate) width: u32,
    /// Pixels, even.
    pub(crate) height: u32,
}

impl Rung {
    fn short_side(self) -> u32 {
        self.width.min(self.height)
    }

    pub(crate) fn name(self) -> String {
        format!("{}p", self.short_side())
    }

    /// The most bits per second that the encoder may use.
    pub(crate) fn cap(self, frames_per_second: f64) -> u32 {
        let cap = cap_at(self.short_side());
        if frames_per_second > 40.0 { cap + cap / 2 } else { cap }
    }

    /// x264's constant rate factor: small pictures are enlarged on screens, which shows what large ones hide.
    pub(crate) fn crf(self) -> u8 {
        if self.short_side() <= 360 { 21 } else { 23 }
    }
}

/// From large to small. The first one is the source's size (made even; at most 2160 lines), the others are standard rungs
/// at least ten percent smaller than it.
pub(crate) fn ladder(width: u32, height: u32) -> Vec<Rung> {
    let short = width.min(height);
    let top = RUNGS[RUNGS.len() - 1].0;
    let first = if short > top { scaled(width, height, top) } else { even(width, height) };
    let smaller = RUNGS.iter().rev().map(|(side, _)| *side);
    let smaller = smaller.filter(|side| side * 10 < first.short_side() * 9);
    std::iter::once(first).chain(smaller.map(|side| scaled(width, height, side))).collect()
}

fn even(width: u32, height: u32) -> Rung {
    Rung { width: (width & !1).max(2), height: (height & !1).max(2) }
}

fn scaled(width: u32, height: u32, short: u32) -> Rung {
    let long = u64::from(width.max(height)) * u64::from(short);
    let long = (long as f64 / f64::from(width.min(height)) / 2.0).round() as u32 * 2;
    if width < height {
        Rung { width: short, height: long }
    } else {
        Rung { width: long, height: short }
    }
}

/// Between the standard rungs caps grow in proportion to the short side.
fn cap_at(short: u32) -> u32 {
    let above = RUNGS.partition_point(|(side, _)| *side < short);
    match (above.checked_sub(1).map(|i| RUNGS[i]), RUNGS.get(above)) {
        (None, Some((side, cap))) => {
            (u64::from(*cap) * u64::from(short.max(90)) / u64::from(*side)) as u32
        }
        (Some((_, cap)), None) => cap,
        (Some((low, low_cap)), Some((high, high_cap))) => {
            low_cap
                + (u64::from(high_cap - low_cap) * u64::from(short - low) / u64::from(high - low))
                    as u32
        }
        (None, None) => unreachable!("the table is not empty"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(width: u32, height: u32) -> Vec<String> {
        ladder(width, height).into_iter().map(Rung::name).collect()
    }

    #[test]
    fn never_larger_than_the_source() {
        assert_eq!(names(1920, 1080), ["1080p", "720p", "480p", "360p"]);
        assert_eq!(names(3840, 2160), ["2160p", "1440p", "1080p", "720p", "480p", "360p"]);
        assert_eq!(names(7680, 4320)[0], "2160p");
        assert_eq!(names(1280, 720), ["720p", "480p", "360p"]);
        assert_eq!(names(640, 272), ["272p"]);
        assert_eq!(names(176, 144), ["144p"]);
    }

    #[test]
    fn portrait_counts_by_its_short_side() {
        let rungs = ladder(1080, 1920);
        assert_eq!(rungs[1], Rung { width: 720, height: 1280 });
        assert_eq!(rungs[3], Rung { width: 360, height: 640 });
    }

    #[test]
    fn a_rung_just_below_the_source_is_skipped() {
        assert_eq!(names(1920, 1088), ["1088p", "720p", "480p", "360p"]);
        assert_eq!(names(854, 400), ["400p"]);
        assert_eq!(names(854, 401), ["400p"]);
        assert_eq!(names(854, 402), ["402p", "360p"]);
    }

    #[test]
    fn sizes_are_even() {
        for (width, height) in [(321, 181), (1, 1), (853, 479), (1001, 4001), (4001, 1001)] {
            for rung in ladder(width, height) {
                assert_eq!((rung.width % 2, rung.height % 2), (0, 0), "{width}x{height}: {rung:?}");
                assert!(rung.width > 0 && rung.height > 0);
            }
        }
    }

    #[test]
    fn caps_rise_with_size_and_rate() {
        assert_eq!(cap_at(360), 800_000);
        assert_eq!(cap_at(1080), 5_000_000);
        assert_eq!(cap_at(900), 3_900_000);
        assert!(cap_at(144) < 400_000);
        assert_eq!(Rung { width: 1280, height: 720 }.cap(60.0), 4_200_000);
    }
}
