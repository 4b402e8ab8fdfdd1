//! Words and numbers of a command line.

use std::ops::Range;

use crate::limits::MAX_KEY_BYTES;

/// The words of a line, as ranges of it. Only blanks separate, as in memcached.
pub(super) struct Words<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Words<'a> {
    /// The words from `at` on.
    pub(super) fn new(line: &'a [u8], at: usize) -> Self {
        Words { line, at }
    }
}

impl Iterator for Words<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let blanks = self.line[self.at..].iter().position(|&byte| byte != b' ')?;
        let start = self.at + blanks;
        let rest = &self.line[start..];
        let end = start + memchr::memchr(b' ', rest).unwrap_or(rest.len());
        self.at = end;
        Some(start..end)
    }
}

/// Up to `N` words behind a command, and how many there really were.
pub(super) struct Arguments<const N: usize> {
    words: [Range<usize>; N],
    /// May be more than `N`.
    pub(super) count: usize,
    /// The last word; empty if there is none.
    pub(super) last: Range<usize>,
    /// The last word said `noreply`. memcached looks there and nowhere else.
    pub(super) noreply: bool,
}

impl<const N: usize> Arguments<N> {
    pub(super) fn collect(line: &[u8], at: usize) -> Self {
        let mut arguments = Arguments {
            words: std::array::from_fn(|_| 0..0),
            count: 0,
            last: 0..0,
            noreply: false,
        };
        for word in Words::new(line, at) {
            if let Some(place) = arguments.words.get_mut(arguments.count) {
                *place = word.clone();
            }
            arguments.count += 1;
            arguments.last = word;
        }
        arguments.noreply = &line[arguments.last.clone()] == b"noreply";
        arguments
    }

    /// The word at `index`; empty if there are fewer.
    pub(super) fn word(&self, index: usize) -> Range<usize> {
        self.words[index].clone()
    }
}

/// Whether clients may use this key: 1 to 250 bytes, no blank, no control
/// character. Bytes above 0x7f are anybody's encoding and pass.
pub(super) fn is_valid_key(key: &[u8]) -> bool {
    // A fold without early exit, so that it is done many bytes at a time.
    (1..=MAX_KEY_BYTES).contains(&key.len())
        && !key.iter().fold(false, |bad, &byte| bad | (byte <= b' ') | (byte == 0x7f))
}

/// An unsigned decimal number; a plus sign is allowed, as `strtoull` does.
pub(super) fn unsigned(word: &[u8]) -> Option<u64> {
    let digits = word.strip_prefix(b"+").unwrap_or(word);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A decimal number with an optional sign.
pub(super) fn signed(word: &[u8]) -> Option<i64> {
    match word.strip_prefix(b"-") {
        // `-+5` is no number, although both signs alone are fine.
        Some(digits) if digits.first() != Some(&b'+') => {
            0_i64.checked_sub_unsigned(unsigned(digits)?)
        }
        Some(_) => None,
        None => i64::try_from(unsigned(word)?).ok(),
    }
}
