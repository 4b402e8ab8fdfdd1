//! What one key of the store must answer, and whether the answers that clients
//! had can be true.

use std::collections::{BTreeMap, HashMap};

use linearizability::{Call, Object, Verdict, search};

use super::history::{Action, Answer, Op};

/// Steps of the search for one key, whose history is some thousand requests.
const STEPS: u64 = 5_000_000;

/// Requests around one that cannot be explained that are shown.
const AROUND: usize = 40;

/// One key. A state is the number of a value; 0: there is none.
struct Key<'a> {
    ops: &'a [&'a Op],
    values: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl<'a> Key<'a> {
    fn new(ops: &'a [&'a Op]) -> Self {
        Key { ops, values: vec![String::new()], numbers: HashMap::new() }
    }

    fn number(&mut self, value: String) -> u32 {
        let values = &mut self.values;
        *self.numbers.entry(value).or_insert_with_key(|value| {
            values.push(value.clone());
            values.len() as u32 - 1
        })
    }
}

/// What the store answers to `action` when a key holds `old`, and what the key
/// holds then. A token of cas stands for the value that it came with: no value
/// of a key that cas is used on is ever written twice.
fn step(old: Option<&str>, action: &Action) -> (Answer, Option<String>) {
    let keep = || old.map(str::to_owned);
    match (action, old) {
        (Action::Get | Action::Gets, _) => (Answer::Value(keep()), keep()),
        (Action::Set(value), _) | (Action::Add(value), None) => {
            (Answer::Stored, Some(value.clone()))
        }
        (Action::Add(_), Some(_)) | (Action::Append(_), None) => (Answer::NotStored, keep()),
        (Action::Append(end), Some(old)) => (Answer::Stored, Some(format!("{old}{end}"))),
        (Action::Cas { .. } | Action::Delete | Action::Incr(_), None) => (Answer::NotFound, None),
        (Action::Cas { value, expected, .. }, Some(old)) => match old == expected {
            true => (Answer::Stored, Some(value.clone())),
            false => (Answer::Exists, keep()),
        },
        (Action::Delete, Some(_)) => (Answer::Deleted, None),
        (Action::Incr(delta), Some(old)) => match old.parse::<u64>() {
            Ok(number) => {
                let number = number.wrapping_add(*delta);
                (Answer::Number(number), Some(number.to_string()))
            }
            Err(_) => (Answer::NotANumber, keep()),
        },
    }
}

impl Object for Key<'_> {
    type State = u32;

    fn initial(&self) -> u32 {
        0
    }

    fn step(&mut self, call: usize, state: &u32) -> Option<u32> {
        let op = self.ops[call];
        let old = (*state != 0).then(|| self.values[*state as usize].as_str());
        let (answer, new) = step(old, &op.action);
        let told = match &op.answer {
            Answer::Token(value, _) => &Answer::Value(Some(value.clone())),
            told => told,
        };
        if told.is_known() && *told != answer {
            return None;
        }
        match new {
            Some(new) if Some(new.as_str()) == old => Some(*state),
            Some(new) => Some(self.number(new)),
            None => Some(0),
        }
    }
}

/// Whether there is an order that explains what clients were told of each key;
/// gives the number of keys, or what is wrong.
pub(crate) fn check(ops: &[Op]) -> Result<usize, String> {
    check_tokens(ops)?;
    let mut keys: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        let says_nothing = matches!(op.answer, Answer::NotExecuted(_))
            || (op.action.is_read() && !op.answer.is_known());
        if !says_nothing {
            keys.entry(&op.key).or_default().push(op);
        }
    }
    for (key, ops) in &keys {
        let mut last_of_batch: HashMap<(usize, u64), usize> = HashMap::new();
        let calls: Vec<_> = (ops.iter().enumerate())
            .map(|(number, op)| Call {
                call: op.call,
                ret: op.answer.is_known().then_some(op.ret),
                after: last_of_batch.insert((op.client, op.batch), number),
            })
            .collect();
        let (what, stuck) = match search(&calls, &mut Key::new(ops), STEPS) {
            Verdict::Linearizable => continue,
            Verdict::Impossible { stuck } => ("no order explains the answers", stuck),
            Verdict::Undecided { stuck } => ("no order was found in time for the answers", stuck),
        };
        return Err(format!(
            "not linearizable: {what} of the {} requests on {key}; stuck at\n{}\nAround it:\n{}",
            ops.len(),
            ops[stuck],
            around(ops, stuck)
        ));
    }
    Ok(keys.len())
}

fn around(ops: &[&Op], at: usize) -> String {
    let range = at.saturating_sub(AROUND)..ops.len().min(at + AROUND / 2);
    let mut text = String::new();
    // Those that were open then may be what matters.
    for op in ops[..range.start].iter().filter(|op| op.answer.is_open()) {
        text.push_str(&format!("{op}\n"));
    }
    for (number, op) in ops.iter().enumerate().take(range.end).skip(range.start) {
        let mark = if number == at { "  <-- here" } else { "" };
        text.push_str(&format!("{op}{mark}\n"));
    }
    text
}

/// A token names one value of one key.
fn check_tokens(ops: &[Op]) -> Result<(), String> {
    let mut seen: HashMap<u64, &Op> = HashMap::new();
    for op in ops {
        let Answer::Token(value, token) = &op.answer else { continue };
        let first = seen.entry(*token).or_insert(op);
        if first.key != op.key || !matches!(&first.answer, Answer::Token(v, _) if v == value) {
            return Err(format!("one token for two values:\n{first}\n{op}"));
        }
    }
    Ok(())
}

/// Whether a counter that starts at 0 and is only ever incremented by 1 counts
/// every number once, in real time, and ends where it must; `last` is what it
/// holds in the end. Gives what was acknowledged and what is open.
pub(crate) fn check_counter(ops: &[&Op], last: u64) -> Result<(u64, u64), String> {
    let mut told: Vec<(u64, &Op)> = Vec::new();
    let mut open = 0;
    for op in ops.iter().filter(|op| matches!(op.action, Action::Incr(1))) {
        match &op.answer {
            Answer::Number(number) => told.push((*number, op)),
            Answer::NotExecuted(_) => {}
            answer if answer.is_open() => open += 1,
            _ => return Err(format!("not what a counter answers:\n{op}")),
        }
    }
    told.sort_by_key(|(number, _)| *number);
    // By number: none may have been answered before one below it was asked for.
    let mut called_last: Option<&Op> = None;
    for (place, (number, op)) in told.iter().enumerate() {
        if let Some((before, other)) = place.checked_sub(1).map(|place| told[place])
            && before == *number
        {
            return Err(format!("{number} was counted twice:\n{other}\n{op}"));
        }
        if let Some(later) = called_last.filter(|later| op.ret < later.call) {
            return Err(format!("counted backwards:\n{op}\n{later}"));
        }
        if called_last.is_none_or(|later| op.call > later.call) {
            called_last = Some(op);
        }
    }
    let acknowledged = told.len() as u64;
    let highest = told.last().map_or(0, |(number, _)| *number);
    if last < acknowledged.max(highest) || last > acknowledged + open {
        return Err(format!(
            "the counter is {last}, but {acknowledged} were acknowledged, up to {highest}, and \
             {open} are open"
        ));
    }
    Ok((acknowledged, open))
}
