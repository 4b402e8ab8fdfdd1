//! Student records as a state machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use store_server::embed::{Index, RestoreError, StateMachine};

/// What is known about a student.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Roll number.
    pub(crate) roll: u32,
    pub(crate) address: String,
    pub(crate) phone: String,
}

/// What can be done with the record of a student.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// An empty record.
    Create,
    /// All fields at once.
    Fill(Record),
    ChangeRoll(u32),
    ChangeAddress(String),
    ChangePhone(String),
    /// The record. A command as any other, so it is answered in its turn.
    Get,
    Delete,
}

/// A command. The numbers of a client ascend; each takes effect once, however
/// often it is proposed, because the state remembers the last one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) client: u32,
    pub(crate) number: u64,
    /// Whose record.
    pub(crate) student: u32,
    pub(crate) operation: Operation,
}

impl Request {
    pub(crate) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a request is plain data")
    }
}

/// What a command is answered with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    Record(Record),
    /// There is no such student.
    NotFound,
    /// There is one already.
    Exists,
    /// The client has gone on to later commands.
    Outdated,
    /// The bytes are no command.
    Nonsense,
}

/// The records of all students.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Students {
    pub(crate) records: BTreeMap<u32, Record>,
    /// The last command of each client, and its answer.
    last: BTreeMap<u32, (u64, Answer)>,
}

impl Students {
    /// Carries out one operation; also what a client expects of it.
    pub(crate) fn execute(&mut self, student: u32, operation: &Operation) -> Answer {
        if *operation == Operation::Create {
            if self.records.contains_key(&student) {
                return Answer::Exists;
            }
            self.records.insert(student, Record::default());
            return Answer::Done;
        }
        let Some(record) = self.records.get_mut(&student) else { return Answer::NotFound };
        match operation {
            Operation::Create => {}
            Operation::Fill(all) => *record = all.clone(),
            Operation::ChangeRoll(roll) => record.roll = *roll,
            Operation::ChangeAddress(address) => record.address.clone_from(address),
            Operation::ChangePhone(phone) => record.phone.clone_from(phone),
            Operation::Get => return Answer::Record(record.clone()),
            Operation::Delete => {
                self.records.remove(&student);
            }
        }
        Answer::Done
    }
}

impl StateMachine for Students {
    type Reply = Answer;

    fn apply(&mut self, _index: Index, command: &[u8]) -> Answer {
        let Ok(request) = serde_json::from_slice::<Request>(command) else {
            return Answer::Nonsense;
        };
        match self.last.get(&request.client) {
            Some((number, answer)) if *number == request.number => return answer.clone(),
            Some((number, _)) if *number > request.number => return Answer::Outdated,
            _ => {}
        }
        let answer = self.execute(request.student, &request.operation);
        self.last.insert(request.client, (request.number, answer.clone()));
        answer
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("records are plain data")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        *self = serde_json::from_slice(snapshot).map_err(|error| error.to_string())?;
        Ok(())
    }
}
