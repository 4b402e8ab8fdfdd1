//! Which request comes next, and its bytes, without an allocation per request.

use super::options::{Operation, Plan};

/// Bytes of a key: `key-` and eight digits.
pub(crate) const KEY_BYTES: usize = 12;

/// A get or a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Get,
    Set,
}

/// The next requests.
#[derive(Debug)]
pub(crate) struct Workload {
    operation: Operation,
    /// A random number below it means get.
    get_below: u64,
    keys: u64,
    sequence: Option<u64>,
    state: u64,
    set: Vec<u8>,
    get: Vec<u8>,
}

impl Workload {
    pub(crate) fn new(plan: &Plan) -> Self {
        let mut set = format!("set key-00000000 0 0 {}\r\n", plan.value_size).into_bytes();
        // Text that neither compresses to nothing nor needs escapes when printed.
        set.extend((0..plan.value_size).map(|at| b'a' + (at * 7 % 26) as u8));
        set.extend_from_slice(b"\r\n");
        Workload {
            operation: plan.operation,
            get_below: (plan.ratio * u64::MAX as f64) as u64,
            keys: plan.keys,
            sequence: plan.sequential.then_some(0),
            state: plan.seed,
            set,
            get: b"get key-00000000\r\n".to_vec(),
        }
    }

    /// Appends the next request to `out`; its kind and the number of its key.
    pub(crate) fn push_next(&mut self, out: &mut Vec<u8>) -> (Kind, u32) {
        let key = match &mut self.sequence {
            Some(next) => {
                let key = *next % self.keys;
                *next += 1;
                key
            }
            // The high half of the product: no division, bias below 2^-32.
            None => ((u128::from(self.random()) * u128::from(self.keys)) >> 64) as u64,
        } as u32;
        let is_get = match self.operation {
            Operation::Set => false,
            Operation::Get => true,
            Operation::Mix => self.random() < self.get_below,
        };
        let kind = if is_get { Kind::Get } else { Kind::Set };
        let template = match kind {
            Kind::Set => &self.set,
            Kind::Get => &self.get,
        };
        let at = out.len() + "set ".len();
        out.extend_from_slice(template);
        out[at..at + KEY_BYTES].copy_from_slice(&key_text(key));
        (kind, key)
    }

    /// SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// The key with this number.
pub(crate) fn key_text(mut number: u32) -> [u8; KEY_BYTES] {
    let mut text = *b"key-00000000";
    for digit in text[4..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text
}
