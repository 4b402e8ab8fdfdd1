//! A small seeded generator (SplitMix64, Steele et al. 2014). It spreads
//! election timeouts; nothing about it needs to be unpredictable.

/// The generator.
#[derive(Clone)]
pub(crate) struct Rng(u64);

/// Says nothing: two replicas that differ only in what they would draw next
/// show the same, so that a model checker may take them for the same state.
impl core::fmt::Debug for Rng {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Rng")
    }
}

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low ..= high`; `low` when the range is empty.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        let span = high.saturating_sub(low).saturating_add(1);
        low + self.next() % span
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn stays_in_its_range_and_repeats_from_its_seed() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..1000 {
            let drawn = a.between(200, 400);
            assert!((200..=400).contains(&drawn));
            assert_eq!(drawn, b.between(200, 400));
        }
        assert_eq!(a.between(5, 5), 5);
        assert_eq!(a.between(5, 4), 5);
    }
}
