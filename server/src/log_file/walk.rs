//! The first look at the bytes of a segment: where its records are, what is
//! damaged, and where an unfinished write ends it. What the records mean is
//! not asked here, so that segments can be walked beside each other.

use super::frame::{self, Found, HEAD_BYTES, is_zero, look, next_head, next_record, one_bit_off};
use super::record::SEAL;
use super::segment::HEADER_BYTES;

/// Bytes that hold no valid record although they did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gap {
    pub(super) at: usize,
    pub(super) end: usize,
    /// The kind of the record there, when it is one alone and its head can be
    /// read.
    pub(super) kind: Option<u8>,
    pub(super) what: &'static str,
}

/// Where the records of a segment are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Walk {
    /// Damaged places before `end`, ascending.
    pub(super) gaps: Vec<Gap>,
    /// Where the records, and the gaps among them, end.
    pub(super) end: usize,
    pub(super) sealed: bool,
    /// How far behind `end` an unfinished write may have left records.
    pub(super) torn_to: Option<usize>,
    /// At least one record is in it.
    pub(super) used: bool,
}

/// What is known about a segment before its records are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) seed: u32,
    /// It was made of zeros, not from a segment that was in use.
    pub(super) zeroed: bool,
    /// A later segment holds records, so this one was complete and durable.
    pub(super) complete: bool,
    /// Ranges that the disk refused to read.
    pub(super) unreadable: &'a [(usize, usize)],
}

/// Walks the records of a segment.
pub(super) fn walk(bytes: &[u8], known: Known<'_>) -> Walk {
    let mut walk = Walk { end: HEADER_BYTES, ..Walk::default() };
    // Everything before this was durable when some record was written.
    let mut durable = if known.complete { usize::MAX } else { 0 };
    let mut at = HEADER_BYTES;
    loop {
        match look(bytes.get(at..).unwrap_or_default(), known.seed, at) {
            Found::Record(head) => {
                durable = durable.max(head.durable as usize);
                walk.used = true;
                at += head.total();
                walk.end = at;
                if head.kind == SEAL {
                    walk.sealed = true;
                    break;
                }
            }
            found => {
                let Some(next) = behind(bytes, known.seed, at, found) else { break };
                walk.gaps.push(Gap { at, end: next, kind: kind_of(found, next - at), what: WHAT });
                at = next;
            }
        }
    }
    judge(bytes, known, durable, &mut walk);
    walk
}

const WHAT: &str = "the checksum of the record does not match";

/// The next whole record behind the bad place `at`.
fn behind(bytes: &[u8], seed: u32, at: usize, found: Found) -> Option<usize> {
    if let Found::HeadAlone(head) = found {
        let next = at.saturating_add(head.total());
        if matches!(look(bytes.get(next..).unwrap_or_default(), seed, next), Found::Record(_)) {
            return Some(next);
        }
    }
    next_record(bytes, seed, at + 1)
}

/// The kind of a record whose head alone is left, if it fills `bytes`.
fn kind_of(found: Found, bytes: usize) -> Option<u8> {
    match found {
        Found::HeadAlone(head) if head.total() == bytes => Some(head.kind),
        _ => None,
    }
}

/// Damage, or a write that never completed?
///
/// A write that was under way when the machine stopped may have reached the
/// disk in any part: later pages without earlier ones too. But a record says
/// how much was durable when it was written, so a bad place before that was
/// good once. So was one that is off by a single bit.
fn judge(bytes: &[u8], known: Known<'_>, durable: usize, walk: &mut Walk) {
    let was_good = |gap: &mut Gap| {
        let unreadable = known.unreadable.iter().any(|(from, to)| *from < gap.end && gap.at < *to);
        if unreadable {
            gap.what = "it cannot be read";
        }
        if gap.at < durable || unreadable {
            return true;
        }
        let head = one_bit_off(&bytes[gap.at..], known.seed, gap.at);
        if let Some(head) = head {
            gap.kind = kind_of(Found::HeadAlone(head), gap.end - gap.at);
            gap.what = "one bit of the record has changed";
        }
        head.is_some()
    };
    if let Some(torn) = walk.gaps.iter_mut().position(|gap| !was_good(gap)) {
        walk.end = walk.gaps[torn].at;
        walk.gaps.truncate(torn);
        walk.sealed = false;
        walk.torn_to = Some(used_to(bytes, known, walk.end));
        return;
    }
    if walk.sealed {
        return;
    }
    if known.complete {
        let what = "the segment is not complete";
        walk.gaps.push(Gap { at: walk.end, end: bytes.len(), kind: None, what });
        walk.end = bytes.len();
        return;
    }
    let tail = &bytes[walk.end.min(bytes.len())..];
    if is_zero(&tail[..tail.len().min(HEAD_BYTES)]) && is_clean(bytes, known, walk.end) {
        return;
    }
    let unreadable = known.unreadable.iter().any(|(_, to)| *to > walk.end);
    if let Some(head) = one_bit_off(tail, known.seed, walk.end) {
        let (at, end) = (walk.end, walk.end + head.total());
        let what = "one bit of the record has changed";
        walk.gaps.push(Gap { at, end, kind: Some(head.kind), what });
        walk.end = end;
        walk.torn_to = Some(used_to(bytes, known, end)).filter(|to| *to > end);
    } else if unreadable {
        let what = "it cannot be read";
        walk.gaps.push(Gap { at: walk.end, end: bytes.len(), kind: None, what });
        walk.end = bytes.len();
    } else if !is_clean(bytes, known, walk.end) {
        walk.torn_to = Some(used_to(bytes, known, walk.end));
    }
}

/// Whether nothing was ever written behind `end` in this use of the file.
fn is_clean(bytes: &[u8], known: Known<'_>, end: usize) -> bool {
    used_to(bytes, known, end) == end
}

/// How far behind `end` anything of this use of the file can be found.
fn used_to(bytes: &[u8], known: Known<'_>, end: usize) -> usize {
    let mut used = end;
    if known.zeroed {
        let tail = bytes.get(end..).unwrap_or_default();
        let last = tail.rchunks(4096).position(|chunk| !is_zero(chunk));
        if let Some(chunks) = last {
            let upper = bytes.len() - chunks * 4096;
            let last = bytes[..upper].iter().rposition(|byte| *byte != 0);
            used = last.map_or(end, |last| last + 1);
        }
        return used;
    }
    let mut at = end;
    while let Some((found, head)) = next_head(bytes, known.seed, at) {
        used = bytes.len().min(found + head.total());
        at = found + 1;
        if matches!(frame::look(&bytes[found..], known.seed, found), Found::Record(_)) {
            at = found + head.total();
        }
    }
    used
}
