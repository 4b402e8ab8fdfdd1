//! What can go wrong, as kinds that can be switched off one by one.

use std::fmt;
use std::str::FromStr;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Fault {
    /// Messages vanish.
    Loss,
    /// Messages take a second now and then, and so arrive terms later.
    Delay,
    /// Messages of a link overtake each other.
    Reorder,
    /// Messages arrive twice.
    Duplicate,
    /// Two groups of hosts cannot reach each other.
    Partition,
    /// Some hosts are heard but hear nothing, or the other way round.
    OneWay,
    /// The leader is cut off from every other server, not from clients.
    IsolateLeader,
    /// Two groups that only one host can reach both of.
    Bridge,
    /// Links between servers break: what was forwarded over them is lost, and
    /// some take it for the end of their leader.
    LinkLoss,
    /// A host crashes: writes that were not synced are lost or torn.
    Crash,
    /// The leader crashes.
    CrashLeader,
    /// All hosts crash at once, as in a power cut.
    CrashAll,
    /// fsync takes up to half a second.
    SlowSync,
    /// fsync fails; the process ends, as it must.
    FailingSync,
    /// No room for the log-file; the process ends until there is.
    DiskFull,
    /// Monotonic clocks run up to 2 % fast or slow.
    Drift,
    /// Wall clocks jump, back too.
    WallJump,
    /// A host stops for a while and then goes on as if nothing were.
    Pause,
    /// The leader stops for a while.
    PauseLeader,
    /// Leadership is handed over.
    Transfer,
    /// Servers are removed and come back as new ones.
    Churn,
    /// A disk is lost; its host comes back as a new server.
    Wipe,
    /// Bits of a log or a checkpoint rot, on so few servers at a time that the
    /// others have everything: they notice when they read it, and repair
    /// themselves from the others.
    BitRot,
    /// Somebody makes a server campaign for no reason.
    Campaign,
    /// Load balancers form the cluster, and are lost, with their memory or
    /// without, and so is what they were sending.
    LbLoss,
    /// Bits rot anywhere, on any number of servers: what nobody has any more
    /// may be out of reach for good, but not served wrong.
    RotAnywhere,
    /// A bit flips in the memory of a server, in an item, where nobody looks:
    /// it is found when the item is written again and the replicas compare
    /// themselves, or when a checkpoint is written.
    MemoryRot,
    /// Some hosts do not reach a load balancer, or are not reached by it.
    LbCut,
    /// The leader removes voters that are silent for a few seconds.
    DeadAfter,
    /// A disk is put back to what it was at an earlier stop, where the others
    /// know of a later run of its folder.
    Rollback,
}

/// Every kind, in order of declaration.
pub const ALL_FAULTS: [Fault; 30] = [
    Fault::Loss,
    Fault::Delay,
    Fault::Reorder,
    Fault::Duplicate,
    Fault::Partition,
    Fault::OneWay,
    Fault::IsolateLeader,
    Fault::Bridge,
    Fault::LinkLoss,
    Fault::Crash,
    Fault::CrashLeader,
    Fault::CrashAll,
    Fault::SlowSync,
    Fault::FailingSync,
    Fault::DiskFull,
    Fault::Drift,
    Fault::WallJump,
    Fault::Pause,
    Fault::PauseLeader,
    Fault::Transfer,
    Fault::Churn,
    Fault::Wipe,
    Fault::BitRot,
    Fault::Campaign,
    Fault::LbLoss,
    Fault::RotAnywhere,
    Fault::MemoryRot,
    Fault::LbCut,
    Fault::DeadAfter,
    Fault::Rollback,
];

impl Fault {
    /// Whether it happens at some time; the others are there all the time.
    pub fn is_event(self) -> bool {
        !matches!(
            self,
            Fault::Loss | Fault::Delay | Fault::Reorder | Fault::Duplicate | Fault::DeadAfter
        )
    }

    /// Whether it changes who is a member.
    pub fn changes_members(self) -> bool {
        use Fault::{BitRot, Churn, DeadAfter, Rollback, Wipe};
        matches!(self, Churn | Wipe | BitRot | DeadAfter | Rollback)
    }

    /// Whether it is nothing without load balancers.
    pub fn needs_lb(self) -> bool {
        self.changes_members() || matches!(self, Fault::LbLoss | Fault::LbCut | Fault::RotAnywhere)
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Loss => "loss",
            Fault::Delay => "delay",
            Fault::Reorder => "reorder",
            Fault::Duplicate => "duplicate",
            Fault::Partition => "partition",
            Fault::OneWay => "one-way",
            Fault::IsolateLeader => "isolate-leader",
            Fault::Bridge => "bridge",
            Fault::LinkLoss => "link-loss",
            Fault::Crash => "crash",
            Fault::CrashLeader => "crash-leader",
            Fault::CrashAll => "crash-all",
            Fault::SlowSync => "slow-sync",
            Fault::FailingSync => "failing-sync",
            Fault::DiskFull => "disk-full",
            Fault::Drift => "drift",
            Fault::WallJump => "wall-jump",
            Fault::Pause => "pause",
            Fault::PauseLeader => "pause-leader",
            Fault::Transfer => "transfer",
            Fault::Churn => "churn",
            Fault::Wipe => "wipe",
            Fault::BitRot => "bit-rot",
            Fault::Campaign => "campaign",
            Fault::LbLoss => "lb-loss",
            Fault::RotAnywhere => "rot-anywhere",
            Fault::MemoryRot => "memory-rot",
            Fault::LbCut => "lb-cut",
            Fault::DeadAfter => "dead-after",
            Fault::Rollback => "rollback",
        }
    }
}

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultSet(u32);

impl FaultSet {
    /// No fault at all.
    pub const NONE: FaultSet = FaultSet(0);
    /// Every kind.
    pub const ALL: FaultSet = FaultSet((1 << ALL_FAULTS.len()) - 1);

    /// Whether `fault` is in it.
    pub fn has(self, fault: Fault) -> bool {
        self.0 & (1 << fault as u8) != 0
    }

    /// With `fault`.
    #[must_use]
    pub fn with(self, fault: Fault) -> Self {
        FaultSet(self.0 | 1 << fault as u8)
    }

    /// Without `fault`.
    #[must_use]
    pub fn without(self, fault: Fault) -> Self {
        FaultSet(self.0 & !(1 << fault as u8))
    }

    /// What both have.
    #[must_use]
    pub fn and(self, other: FaultSet) -> Self {
        FaultSet(self.0 & other.0)
    }

    /// Its kinds, in order of declaration.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        ALL_FAULTS.into_iter().filter(move |fault| self.has(*fault))
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == FaultSet::NONE {
            return f.write_str("none");
        }
        for (position, fault) in self.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            f.write_str(fault.name())?;
        }
        Ok(())
    }
}

impl fmt::Debug for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for FaultSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => return Ok(FaultSet::NONE),
            "all" => return Ok(FaultSet::ALL),
            _ => {}
        }
        text.split(',').try_fold(FaultSet::NONE, |set, name| {
            let fault = ALL_FAULTS.into_iter().find(|fault| fault.name() == name);
            fault.map(|fault| set.with(fault)).ok_or_else(|| {
                let names: Vec<_> = ALL_FAULTS.iter().map(|fault| fault.name()).collect();
                format!("`{name}` is no kind of fault; there are: none, all, {}", names.join(", "))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_print_and_parse() {
        for (position, fault) in ALL_FAULTS.into_iter().enumerate() {
            assert_eq!(fault as usize, position);
        }
        let set = FaultSet::NONE.with(Fault::Crash).with(Fault::Loss);
        assert_eq!(set.to_string(), "loss,crash");
        assert_eq!("loss,crash".parse(), Ok(set));
        assert_eq!("all".parse(), Ok(FaultSet::ALL));
        assert_eq!("none".parse(), Ok(FaultSet::NONE));
        assert!("lost".parse::<FaultSet>().is_err());
        assert_eq!(FaultSet::ALL.iter().count(), ALL_FAULTS.len());
    }
}
