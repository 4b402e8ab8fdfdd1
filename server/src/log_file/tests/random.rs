//! Random operations against a plain model, with restarts in between.

use super::*;

/// What a log-file with compaction should hold.
#[derive(Clone, Default)]
struct Compacted {
    model: Model,
    /// Entries up to here were replaced by a snapshot: the model has
    /// something else in their place.
    reset: Index,
    /// Where the log may begin, at the latest.
    checkpoint: Index,
}

impl Compacted {
    fn last(&self) -> Index {
        self.model.entries.len() as u64
    }

    fn check(&self, recovered: &Recovered, after: Index) {
        assert_eq!(recovered.torn, None);
        assert_eq!(recovered.hard_state, self.model.hard_state);
        assert_eq!(recovered.commit, self.model.commit.max(self.reset));
        assert_eq!(recovered.entries, self.model.entries[after as usize..]);
        for pair in recovered.runs.windows(2) {
            assert!(pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1);
        }
        for entry in &self.model.entries[after as usize..] {
            let run = recovered.runs.iter().rev().find(|(first, _)| *first <= entry.index);
            assert_eq!(run.map(|(_, term)| *term), Some(entry.term));
        }
    }

    fn check_reader(&self, reader: &LogReader, random: &mut SmallRng) {
        let (first, last) = reader.range();
        assert_eq!(last, self.last());
        assert!(first <= self.checkpoint.max(self.reset) + 1);
        if first <= last {
            let from = random.random_range(first..=last);
            let read = reader.read(from, last, random.random_range(0..2000)).unwrap();
            let begin = from as usize - 1;
            assert_eq!(read[..], self.model.entries[begin..begin + read.len()]);
        }
    }
}

/// A snapshot replaces the log; what the model holds up to it means nothing.
fn install(log: &mut LogFile, state: &mut Compacted, term: Term, random: &mut SmallRng) {
    let index = state.last() + random.random_range(1..10);
    log.reset(Position { index, term }).unwrap();
    let filler = |index| Entry { index, term, body: Body::Noop };
    state.model.entries = (1..=index).map(filler).collect();
    state.model.commit = index;
    (state.reset, state.checkpoint) = (index, index);
}

fn step(log: &mut LogFile, state: &mut Compacted, term: &mut Term, random: &mut SmallRng) {
    match random.random_range(0..40) {
        0..4 => {
            state.checkpoint = random.random_range(state.checkpoint..=state.model.commit);
            let first = log.compact(random.random_range(0..=state.checkpoint + 1)).unwrap();
            assert!(first <= state.checkpoint + 1);
        }
        4 => log.finish().unwrap(),
        5 if random.random_bool(0.2) => install(log, state, *term, random),
        6..14 => log.sync().unwrap(),
        _ => random_batch(log, &mut state.model, term, random),
    }
}

#[test]
fn any_operations_lead_to_what_the_model_says() {
    for seed in 0..12 {
        let mut random = SmallRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let options = LogOptions { segment_bytes: 2048, keep: seed % 3 == 0 };
        let (mut state, mut term) = (Compacted::default(), 1);
        for _ in 0..6 {
            let after = random.random_range(state.checkpoint..=state.model.commit);
            let (mut log, recovered) = LogFile::open(dir.path(), options, after).unwrap();
            state.check(&recovered, after);
            let reader = log.reader();
            state.check_reader(&reader, &mut random);
            for _ in 0..random.random_range(0..40) {
                step(&mut log, &mut state, &mut term, &mut random);
                state.check_reader(&reader, &mut random);
            }
            log.sync().unwrap();
            let (reader, commit) = look(dir.path()).unwrap();
            assert_eq!(commit, state.model.commit);
            state.check_reader(&reader, &mut random);
            drop(log);
            assert!(verify(dir.path()).unwrap().0.damage.is_empty());
            if options.keep {
                let archive = LogArchive::open(dir.path()).unwrap();
                let (first, last) = archive.range();
                assert_eq!((first, last), (state.reset + 1, state.model.commit));
                let all = archive.entries(first..=last).map(Result::unwrap);
                assert!(all.eq(state.model.entries[first as usize - 1..last as usize].to_vec()));
            }
        }
    }
}
