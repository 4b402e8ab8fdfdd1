//! Frames: what every record has around its body, and how a damaged one is
//! told from one that was never written completely. The layout is in the page
//! of [`log_file`](super).

use bytes::{Buf, BufMut};

/// Before the body of each record.
pub(super) const HEAD_BYTES: usize = 20;

/// Behind the body of each record, so that losing its end, whatever it is,
/// changes more than one bit.
const END: u8 = 0xa5;

/// What a record takes beside its body.
pub(super) const FRAME_BYTES: usize = HEAD_BYTES + 1;

/// Offset of the kind in the head.
const KIND_AT: usize = 18;

/// The highest kind.
pub(super) const LAST_KIND: u8 = 10;

/// CRC32C (Castagnoli), reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Where in which segment a record goes, and what its head says of the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Of the segment: differs each time a file is used.
    pub(super) seed: u32,
    /// Of the record, from the beginning of the file.
    pub(super) offset: u32,
    /// Everything before this offset is known to be durable.
    pub(super) durable: u32,
    /// Hard states in the stream before it, modulo 65536.
    pub(super) votes: u16,
}

/// The head of a record whose own checksum holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) kind: u8,
    pub(super) durable: u32,
    pub(super) votes: u16,
    /// Of the body.
    pub(super) length: usize,
}

impl Head {
    /// Where the next record begins, relative to this one.
    pub(super) fn total(&self) -> usize {
        FRAME_BYTES.saturating_add(self.length)
    }
}

/// What lies somewhere in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// A whole record.
    Record(Head),
    /// The head of a record, with something else than its body behind it.
    HeadAlone(Head),
    /// No record begins here.
    Nothing,
}

/// Appends one record to `out`; `place` is that of `out[0]`.
pub(super) fn put(out: &mut Vec<u8>, place: Place, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    let seed = place.seed ^ (place.offset + at as u32);
    out.put_slice(&[0; HEAD_BYTES]);
    body(out);
    out.put_u8(END);
    let (head, body) = out[at..].split_at_mut(HEAD_BYTES);
    let mut fields = &mut head[4..];
    fields.put_u32_le(crc32c::crc32c_append(seed, body));
    fields.put_u32_le(body.len() as u32 - 1);
    fields.put_u32_le(place.durable);
    fields.put_u16_le(place.votes);
    fields.put_u8(kind);
    let check = crc32c::crc32c_append(seed, &head[4..]);
    head[..4].copy_from_slice(&check.to_le_bytes());
}

/// What lies at the beginning of `bytes`, which is at `offset` of a segment.
///
/// For bytes of one length, different starting values always give different
/// checksums: a record of another use of the file, or one that was copied to
/// another offset, cannot be valid.
pub(super) fn look(bytes: &[u8], seed: u32, offset: usize) -> Found {
    let Some(head) = head(bytes, seed, offset) else { return Found::Nothing };
    if body_holds(bytes, head, seed, offset) { Found::Record(head) } else { Found::HeadAlone(head) }
}

/// The head at the beginning of `bytes`, if there is one.
pub(super) fn head(bytes: &[u8], seed: u32, offset: usize) -> Option<Head> {
    let head = bytes.get(..HEAD_BYTES)?;
    let parsed = parse(head);
    // Cheap tests first: garbage is mostly refused by these.
    if !(1..=LAST_KIND).contains(&parsed.kind)
        || head[HEAD_BYTES - 1] != 0
        || parsed.durable as usize > offset
    {
        return None;
    }
    let check = crc32c::crc32c_append(seed ^ offset as u32, &head[4..]);
    ((&head[..4]).get_u32_le() == check).then_some(parsed)
}

/// Reads the fields of a head, without judging them.
pub(super) fn parse(head: &[u8]) -> Head {
    let mut fields = &head[8..HEAD_BYTES];
    let length = fields.get_u32_le() as usize;
    let durable = fields.get_u32_le();
    let votes = fields.get_u16_le();
    Head { kind: fields.get_u8(), durable, votes, length }
}

fn body_holds(bytes: &[u8], head: Head, seed: u32, offset: usize) -> bool {
    body_difference(bytes, head, seed, offset) == Some(0)
}

/// The checksum in the head against that of the body; `None`: the file ends
/// before the body does.
fn body_difference(bytes: &[u8], head: Head, seed: u32, offset: usize) -> Option<u32> {
    let body = bytes.get(HEAD_BYTES..head.total())?;
    let stored = (&bytes[4..8]).get_u32_le();
    Some(stored ^ crc32c::crc32c_append(seed ^ offset as u32, body))
}

/// The head of the record at the beginning of `bytes` if it is off by exactly
/// one bit: then it was written completely, and has changed since.
///
/// A write that never completed passes for that with a probability of one in
/// four thousand millions for each bit of the record, which costs no more than
/// fetching an entry again that was never promised.
pub(super) fn one_bit_off(bytes: &[u8], seed: u32, offset: usize) -> Option<Head> {
    if let Some(head) = head(bytes, seed, offset) {
        let difference = body_difference(bytes, head, seed, offset)?;
        return is_one_bit(difference, head.total() - HEAD_BYTES).then_some(head);
    }
    let mut flipped: [u8; HEAD_BYTES] = bytes.get(..HEAD_BYTES)?.try_into().ok()?;
    for bit in 0..HEAD_BYTES * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = head_and_body(&flipped, bytes, seed, offset);
        if found.is_some() {
            return found;
        }
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    None
}

/// The record at `bytes`, but with another head.
fn head_and_body(other: &[u8], bytes: &[u8], seed: u32, offset: usize) -> Option<Head> {
    let head = head(other, seed, offset)?;
    let body = bytes.get(HEAD_BYTES..head.total())?;
    let stored = (&other[4..8]).get_u32_le();
    (stored == crc32c::crc32c_append(seed ^ offset as u32, body)).then_some(head)
}

/// Whether a CRC that is off by `difference` can come from one flipped bit
/// among `length` bytes. A CRC is linear: what a bit changes does not depend on
/// the others, and each bit further from the end is one step of the division.
fn is_one_bit(difference: u32, length: usize) -> bool {
    let mut change = POLYNOMIAL;
    for _ in 0..length * 8 {
        if change == difference {
            return true;
        }
        change = (change >> 1) ^ if change & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    false
}

/// The next place at or behind `from` where a whole record begins.
pub(super) fn next_record(bytes: &[u8], seed: u32, from: usize) -> Option<usize> {
    next(bytes, from, |at| matches!(look(&bytes[at..], seed, at), Found::Record(_)))
}

/// The next place at or behind `from` where a head lies, and that head.
pub(super) fn next_head(bytes: &[u8], seed: u32, from: usize) -> Option<(usize, Head)> {
    let at = next(bytes, from, |at| head(&bytes[at..], seed, at).is_some())?;
    head(&bytes[at..], seed, at).map(|head| (at, head))
}

fn next(bytes: &[u8], from: usize, is_it: impl Fn(usize) -> bool) -> Option<usize> {
    const STEP: usize = 256;
    let mut kind_at = from + KIND_AT;
    while kind_at < bytes.len() {
        let end = bytes.len().min(kind_at + STEP);
        // A record has a kind: where zeros are, none begins.
        if !is_zero(&bytes[kind_at..end]) {
            let plausible = |at: &usize| (1..=LAST_KIND).contains(&bytes[at + KIND_AT]);
            let found = (kind_at - KIND_AT..end - KIND_AT).filter(plausible).find(|at| is_it(*at));
            if found.is_some() {
                return found;
            }
        }
        kind_at = end;
    }
    None
}

/// Whether all of `bytes` are zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // In steps that the compiler turns into wide operations.
    bytes.chunks(256).all(|step| step.iter().fold(0, |all, byte| all | byte) == 0)
}
