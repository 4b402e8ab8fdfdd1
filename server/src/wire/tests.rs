//! Messages survive the way there and back; anything else is refused.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raft::{Body, Entry, Envelope, Member, Membership, Message, NodeId, SnapshotMeta, Suffrage};

use super::{decode, encode, size_hint};
use crate::command::Payload;

fn membership() -> impl Strategy<Value = Membership> {
    let info = || vec(any::<u8>(), 0..20);
    let members = vec((1..9u64, any::<bool>(), info()), 0..5);
    let dismissed = vec((1..9u64, info()), 0..3);
    (members, 1..99u64, dismissed).prop_map(|(members, next_id, dismissed)| Membership {
        members: members
            .into_iter()
            .map(|(id, voter, info)| {
                let suffrage = if voter { Suffrage::Voter } else { Suffrage::Learner };
                (NodeId(id), Member { suffrage, info: info.into() })
            })
            .collect(),
        next_id,
        dismissed: dismissed.into_iter().map(|(id, info)| (NodeId(id), info.into())).collect(),
    })
}

fn body() -> impl Strategy<Value = Body<Payload>> {
    prop_oneof![
        Just(Body::Noop),
        vec(any::<u8>(), 0..200).prop_map(|bytes| Body::Command(Payload(Bytes::from(bytes)))),
        membership().prop_map(Body::Membership),
    ]
}

fn append() -> impl Strategy<Value = Message<Payload>> {
    (0..1000u64, vec((any::<u64>(), body()), 0..6), any::<(u64, u64, u64)>()).prop_map(
        |(prev_index, bodies, (prev_term, commit, read_round))| Message::Append {
            prev_index,
            prev_term,
            commit,
            read_round,
            entries: (prev_index + 1..)
                .zip(bodies)
                .map(|(index, (term, body))| Entry { index, term, body })
                .collect(),
        },
    )
}

fn message() -> impl Strategy<Value = Message<Payload>> {
    let number = any::<u64>;
    prop_oneof![
        (number(), number())
            .prop_map(|(last_index, last_term)| Message::PreVote { last_index, last_term }),
        any::<bool>().prop_map(|granted| Message::PreVoteReply { granted }),
        (number(), number(), any::<bool>()).prop_map(|(last_index, last_term, transfer)| {
            Message::Vote { last_index, last_term, transfer }
        }),
        any::<bool>().prop_map(|granted| Message::VoteReply { granted }),
        append(),
        (number(), number())
            .prop_map(|(match_index, read_round)| Message::AppendReply { match_index, read_round }),
        (number(), number(), number()).prop_map(|(prev_index, hint_index, hint_term)| {
            Message::AppendReject { prev_index, hint_index, hint_term }
        }),
        (number(), number())
            .prop_map(|(commit, read_round)| Message::Heartbeat { commit, read_round }),
        (number(), number()).prop_map(|(read_round, last_index)| Message::HeartbeatReply {
            read_round,
            last_index
        }),
        number().prop_map(|request| Message::ReadIndex { request }),
        (number(), any::<Option<u64>>())
            .prop_map(|(request, index)| Message::ReadIndexReply { request, index }),
        Just(Message::TimeoutNow),
        (membership(), number(), vec(any::<u8>(), 0..300), any::<bool>()).prop_map(
            |(membership, offset, data, done)| Message::SnapshotChunk {
                meta: SnapshotMeta { index: 7, term: 3, membership },
                offset,
                data,
                done,
            }
        ),
        (number(), number(), any::<bool>()).prop_map(|(index, next_offset, installed)| {
            Message::SnapshotReply { index, next_offset, installed }
        }),
    ]
}

proptest! {
    #[test]
    fn every_message_survives(message in message(), from in 1..9u64, to in 1..9u64, term: u64) {
        let envelope = Envelope { from: NodeId(from), to: NodeId(to), term, message };
        let mut bytes = Vec::with_capacity(size_hint(&envelope.message));
        encode(&envelope, &mut bytes);
        prop_assert_eq!(decode(&bytes), Ok(envelope));
    }

    #[test]
    fn what_is_cut_or_lengthened_is_refused(message in message(), cut in 1..40usize) {
        let envelope = Envelope { from: NodeId(1), to: NodeId(2), term: 3, message };
        let mut bytes = Vec::new();
        encode(&envelope, &mut bytes);
        let shorter = &bytes[..bytes.len() - cut.min(bytes.len())];
        prop_assert!(decode(shorter).is_err());
        bytes.push(0);
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn noise_is_never_more_than_an_error(bytes in vec(any::<u8>(), 0..400)) {
        let _ = decode(&bytes);
    }
}
