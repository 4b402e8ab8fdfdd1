//! Changing valid bytes, again and again, and watching what a decoder makes of
//! them: it neither panics nor takes more memory than its input justifies.

pub(crate) mod corpus;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One decoder at a time: the allocator counts for the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// A small generator (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; 0 when there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.roll() >> 16) as usize % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        const EDGES: [u8; 10] = [0, 1, 0x0a, 0x0d, 0x20, 0x7f, 0x80, 0xfa, 0xfb, 0xff];
        match self.below(2) {
            0 => EDGES[self.below(EDGES.len())],
            _ => self.roll() as u8,
        }
    }

    /// A number at which lengths and counts go wrong.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 9] = [
            0,
            1,
            u16::MAX as u64,
            i32::MAX as u64,
            u32::MAX as u64,
            u32::MAX as u64 + 1,
            i64::MAX as u64,
            u64::MAX - 1,
            u64::MAX,
        ];
        match self.below(3) {
            0 => self.below(300) as u64,
            _ => EDGES[self.below(EDGES.len())],
        }
    }
}

/// Changes `bytes` a little.
pub(crate) fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let left = bytes.len() - at;
        match dice.below(10) {
            0 if left > 0 => bytes[at] ^= 1 << dice.below(8),
            1 if left > 0 => bytes[at] = dice.byte(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, dice.byte()),
            4 => drop(bytes.drain(at..at + dice.below(left.min(32) + 1))),
            // Lengths and counts, in either byte order and at any place.
            5..=7 if left >= 4 => {
                let (number, wide) = (dice.number(), left >= 8 && dice.below(2) == 0);
                let width = if wide { 8 } else { 4 };
                let little = number.to_le_bytes();
                let mut word = little[..width].to_vec();
                if dice.below(2) == 0 {
                    word.reverse();
                }
                bytes[at..at + width].copy_from_slice(&word);
            }
            8 => {
                let from = dice.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let again = bytes[at..at + dice.below(left.min(64) + 1)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

/// How many times as many inputs as usual; `FUZZ_ROUNDS=100` for a night.
fn rounds() -> u64 {
    std::env::var("FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

fn hex(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(4096)];
    shown.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Feeds `decode` with the corpus and with `count` mutations of it.
///
/// An input of n bytes may take `fixed` + 64 n bytes of memory at the most.
pub(crate) fn fuzz(
    name: &str,
    corpus: &[Vec<u8>],
    count: u64,
    fixed: usize,
    mut decode: impl FnMut(&[u8]),
) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut try_one = |seed: Option<u64>, input: &[u8]| {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let outcome = catch_unwind(AssertUnwindSafe(|| decode(input)));
        let taken = MEMORY.peak_usage().saturating_sub(before);
        let told = || format!("{name}, seed {seed:?}, input {}", hex(input));
        assert!(outcome.is_ok(), "panics (see above): {}", told());
        let allowed = fixed + 64 * input.len();
        assert!(taken <= allowed, "takes {taken} bytes, {allowed} are allowed: {}", told());
    };
    for input in corpus {
        try_one(None, input);
    }
    for seed in 0..count * rounds() {
        let mut dice = Dice::new(seed);
        let mut input = corpus[dice.below(corpus.len())].clone();
        let other = &corpus[dice.below(corpus.len())];
        mutate(&mut dice, &mut input, other);
        try_one(Some(seed), &input);
    }
}
