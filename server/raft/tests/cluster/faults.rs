//! Thousands of short lives of small clusters under faults that a seed
//! chooses. After every step the invariants hold; when all has healed the
//! cluster converges and serves.

use raft::Change;
use store_raft as raft;

use crate::support::{self, Weather, World, id, info};

/// What one seed chooses.
fn live(seed: u64) {
    let mut dice = support::Dice::new(seed);
    let voters = dice.between(1, 5);
    let lease = dice.chance(300);
    let small_cache = dice.chance(500);
    let gap_us = dice.below(3000);
    let mut world = World::new(seed, voters, move |config| {
        config.lease_reads = lease;
        config.append_gap_us = gap_us;
        config.promote_lag = 20;
        if small_cache {
            config.cache_bytes = 1000;
            config.max_append_bytes = 600;
            config.window_bytes = 2000;
        }
    });
    world.weather = Weather {
        loss_permille: dice.below(100),
        duplicate_permille: dice.below(100),
        delay_us: (50, dice.between(60, 20_000)),
        sync_us: (50, dice.between(60, 30_000)),
        batches: dice.between(1, 3) as usize,
    };
    if dice.chance(200) {
        // Whoever answers each other without end is caught: time stands still.
        world.weather.delay_us = (0, 0);
    }
    let mut known = voters;
    for number in 0..150 {
        let pause = dice.between(100, 30_000);
        world.run_for(pause);
        act(&mut world, &mut dice, &mut known, number);
    }
    world.heal();
    world.weather = Weather::calm();
    for node in 1..=known {
        if !world.is_up(id(node)) {
            world.restart(id(node));
        }
    }
    if !world.run_until(5_000_000, |world| world.leader().is_some()) {
        world.dump();
        panic!("nobody leads");
    }
    world.run_for(1_000_000);
    let leader = world.leader().expect("a leader stays");
    world.propose(leader, 9).expect("the leader accepts");
    let read = world.read(leader);
    if !world.run_until(5_000_000, World::has_converged) {
        world.dump();
        panic!("no convergence");
    }
    assert!(world.run_until(1_000_000, |world| world.is_answered(read)), "reads are answered");
}

fn act(world: &mut World, dice: &mut support::Dice, known: &mut u64, number: u64) {
    let node = dice.between(1, *known);
    let up = world.is_up(id(node));
    match dice.below(20) {
        0..8 => {
            if let Some(leader) = world.leader() {
                for part in 0..dice.between(1, 10) {
                    world.propose(leader, number * 100 + part);
                }
            }
        }
        8..10 if up => {
            world.read(node);
        }
        10 if up => {
            world.crash(id(node));
            for other in (1..=*known).filter(|other| *other != node) {
                if world.is_up(id(other)) && dice.chance(700) {
                    world.sees_end_of(other, node);
                }
            }
        }
        11..13 if !up => world.restart(id(node)),
        13 => world.cut_off(node),
        14 => {
            let other = dice.between(1, *known);
            world.cut.insert((id(node), id(other)));
        }
        15 => world.heal(),
        16 if up => world.checkpoint(node, dice.below(10)),
        17 if up && dice.chance(300) => world.campaign(node),
        // A false alarm.
        17 if up && dice.chance(500) => {
            if let Some(leader) = world.node(node).leader() {
                world.sees_end_of(node, leader.0);
            }
        }
        18 => change(world, dice, known, node),
        19 => {
            if let Some(leader) = world.leader() {
                let to = dice.chance(500).then_some(id(node));
                let _ = world.with(leader, |core, now| core.transfer(now, to));
            }
        }
        _ => {}
    }
}

fn change(world: &mut World, dice: &mut support::Dice, known: &mut u64, node: u64) {
    let Some(leader) = world.leader() else { return };
    let change = match dice.below(4) {
        0 | 1 if *known < 7 => Change::AddLearner { info: info("later") },
        2 => Change::Remove(id(node)),
        _ => Change::Promote(id(node)),
    };
    let adds = matches!(change, Change::AddLearner { .. });
    let next = world.node(leader).membership().next_id;
    if world.with(leader, |core, now| core.change(now, change)).is_ok()
        && adds
        && !world.machines.contains_key(&id(next))
    {
        world.add(id(next), raft::Membership::default());
        *known = (*known).max(next);
    }
}

fn lives(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| live(seed));
        assert!(outcome.is_ok(), "seed {seed} failed: see above");
    }
}

/// `RAFT_SEEDS=from..to` plays others.
#[test]
fn invariants_hold_under_faults() {
    let range = std::env::var("RAFT_SEEDS").ok().and_then(|range| {
        let (from, to) = range.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    lives(range.unwrap_or(0..800));
}
