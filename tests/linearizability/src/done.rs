//! Which calls have taken effect, in a form that stays small however long a
//! history is: answered calls take effect nearly in the order in which they
//! were made, so that of the set only a window is kept.

const BITS: usize = u64::BITS as usize;

pub(crate) struct Done {
    /// The place of each call: answered ones by time, then open ones.
    place: Vec<usize>,
    /// Where the open ones begin, in words.
    open: usize,
    words: Vec<u64>,
    /// Words before this one are full, as far as it is known.
    low: usize,
    /// Words of answered calls from this one on are empty.
    high: usize,
}

impl Done {
    /// `answered` in order of the calls.
    pub(crate) fn new(calls: usize, answered: &[usize], open: &[usize]) -> Self {
        let mut place = vec![0; calls];
        for (at, call) in answered.iter().enumerate() {
            place[*call] = at;
        }
        let begin = answered.len().div_ceil(BITS);
        for (at, call) in open.iter().enumerate() {
            place[*call] = begin * BITS + at;
        }
        let words = vec![0; begin + open.len().div_ceil(BITS)];
        Done { place, open: begin, words, low: 0, high: 0 }
    }

    pub(crate) fn has(&self, call: usize) -> bool {
        let place = self.place[call];
        self.words[place / BITS] & (1 << (place % BITS)) != 0
    }

    pub(crate) fn set(&mut self, call: usize) {
        let place = self.place[call];
        self.words[place / BITS] |= 1 << (place % BITS);
        if place / BITS < self.open {
            self.high = self.high.max(place / BITS + 1);
        }
        while self.low < self.open && self.words[self.low] == u64::MAX {
            self.low += 1;
        }
    }

    pub(crate) fn unset(&mut self, call: usize) {
        let place = self.place[call];
        self.words[place / BITS] &= !(1 << (place % BITS));
        self.low = self.low.min(place / BITS);
        while self.high > 0 && self.words[self.high - 1] == 0 {
            self.high -= 1;
        }
    }

    /// The same for equal sets only.
    pub(crate) fn key(&self) -> Box<[u64]> {
        let window = &self.words[self.low..self.high.max(self.low)];
        let open = &self.words[self.open..];
        [&[self.low as u64], open, window].concat().into()
    }
}
