//! The generator behind every choice. Written out here, because a seed must
//! mean the same run with every version of every library.

/// xoshiro256** (Blackman and Vigna), seeded by splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Rng([u64; 4]);

impl Rng {
    /// One of several independent streams of a seed: taking a fault away must
    /// not change what the network or the clients draw.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut state = seed ^ stream.wrapping_mul(0xA24B_AED4_963E_E407);
        let mut next = || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        };
        Rng([next(), next(), next(), next()])
    }

    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.0;
        let result = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// A number in `0..bound`; 0 when `bound` is 0. The bias is below 2^-32
    /// for the bounds that occur here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in `permille` of a thousand cases.
    pub(crate) fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    /// Exponentially distributed around `mean`, at most 16 times as much.
    pub(crate) fn around(&mut self, mean: u64) -> u64 {
        // -ln(u) with u in (0, 1], in 1/1024 by the position of the highest
        // bit and a linear piece below it: no floating point, so that every
        // machine draws the same.
        let u = (self.next() >> 11) | 1;
        let zeros = u64::from(u.leading_zeros()) - 11;
        let fraction = ((u << (zeros + 11)) >> 54) & 0x1FF;
        let log2_in_1024 = (zeros + 1) * 1024 - fraction * 2;
        let ln_in_1024 = log2_in_1024 * 710 / 1024;
        (mean * ln_in_1024 / 1024).min(mean * 16)
    }

    /// An element of a slice that is not empty.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn streams_are_stable() {
        // A change here would give every recorded seed another meaning.
        let mut rng = Rng::new(7, 1);
        assert_eq!(rng.next(), 8_797_129_123_830_693_572);
        assert_eq!(rng.next(), 13_952_437_633_153_547_125);
    }

    #[test]
    fn means_are_about_right() {
        let mut rng = Rng::new(1, 0);
        let sum: u64 = (0..100_000).map(|_| rng.around(10_000)).sum();
        assert!((950_000_000..1_050_000_000).contains(&sum), "{sum}");
        let hits = (0..100_000).filter(|_| rng.chance(250)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
    }
}
