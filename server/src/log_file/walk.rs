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
const UNREADABLE: &str = "it cannot be read";
const ONE_BIT: &str = "one bit of the record has changed";

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
        let unreadable = overlaps(known.unreadable, gap.at, gap.end);
        if unreadable {
            gap.what = UNREADABLE;
        }
        if gap.at < durable || unreadable {
            return true;
        }
        let head = one_bit_off(&bytes[gap.at..], known.seed, gap.at);
        if let Some(head) = head {
            gap.kind = kind_of(Found::HeadAlone(head), gap.end - gap.at);
            gap.what = ONE_BIT;
        }
        head.is_some()
    };
    if let Some(torn) = walk.gaps.iter_mut().position(|gap| !was_good(gap)) {
        walk.end = walk.gaps[torn].at;
        walk.gaps.truncate(torn);
        walk.sealed = false;
        walk.torn_to = Some(used_to(bytes, known, walk.end).max(walk.end));
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
    judge_tail(bytes, known, walk);
}

/// What lies behind the last record of a segment that is still written.
fn judge_tail(bytes: &[u8], known: Known<'_>, walk: &mut Walk) {
    let at = walk.end;
    let tail = bytes.get(at..).unwrap_or_default();
    let here = look(tail, known.seed, at);
    let (end, kind) = match here {
        Found::Record(head) | Found::HeadAlone(head) => (at + head.total(), Some(head.kind)),
        Found::Nothing => (at + HEAD_BYTES, None),
    };
    let mut damaged = |end: usize, kind, what| {
        walk.gaps.push(Gap { at, end, kind, what });
        walk.end = end;
    };
    if overlaps(known.unreadable, at, end) {
        damaged(if kind.is_some() { end } else { bytes.len() }, kind, UNREADABLE);
    } else if is_zero(&tail[..tail.len().min(HEAD_BYTES)]) {
        // No record is one bit away from zeros.
    } else if let Some(head) = one_bit_off(tail, known.seed, at) {
        damaged(at + head.total(), Some(head.kind), ONE_BIT);
    }
    let used = used_to(bytes, known, walk.end);
    walk.torn_to = (used > walk.end).then_some(used);
}

fn overlaps(ranges: &[(usize, usize)], from: usize, to: usize) -> bool {
    ranges.iter().any(|range| range.0 < to && from < range.1)
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
