//! The operator's part: servers that join, leave, lose their disk and come
//! back, and leadership that is handed over, one order at a time.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::arena::{Arena, Life};
use super::dice::Dice;
use super::log::Log;
use super::support::process::STORE;

/// A command ends by itself before that.
const COMMAND: Duration = Duration::from_secs(10);

/// How long one that was removed may take to hear of it and end.
const HEARS: Duration = Duration::from_secs(3);

/// Longer than a load balancer may be behind.
const WHOLE: Duration = Duration::from_millis(1300);

/// How long others wait for all to be well, at most.
const CALM: Duration = Duration::from_secs(10);

/// What an order is about.
#[derive(Clone, Copy, Debug)]
enum Then {
    Nothing,
    /// This server was removed, if the command says so.
    Removed(usize),
}

/// A command that runs.
struct Running {
    child: Child,
    what: String,
    until: Duration,
    then: Then,
}

/// See the module's page.
pub(crate) struct Orders {
    /// When the next one may be given.
    at: Duration,
    running: Option<Running>,
    /// One that was removed, and when it is ended if it has not by itself.
    leaving: Option<(Duration, usize)>,
    /// When servers may come and go again: only while all are where they belong.
    shake_at: Duration,
    /// Since when they are. A load balancer may be a second behind, so that
    /// one look is not enough.
    whole_since: Option<Duration>,
}

impl Orders {
    pub(crate) fn new(at: Duration) -> Orders {
        Orders { at, running: None, leaving: None, shake_at: at, whole_since: None }
    }

    pub(crate) fn mind(
        &mut self,
        now: Duration,
        arena: &mut Arena,
        log: &mut Log,
        dice: &mut Dice,
    ) {
        self.mind_command(now, arena, log);
        self.mind_leaving(now, arena, log);
        if self.running.is_some() || self.leaving.is_some() || now < self.at {
            return;
        }
        self.at = now + dice.millis(200, 600);
        if dice.one_in(12) {
            return self.transfer(now, arena, log, dice);
        }
        match arena.whole() {
            Ok(()) => {
                let since = *self.whole_since.get_or_insert(now);
                if now - since >= WHOLE && now >= self.shake_at {
                    self.shake(now, arena, log, dice);
                }
            }
            Err(_) => self.whole_since = None,
        }
        // Who somebody was that lost its disk, or was removed.
        let ghost = arena.view().and_then(|view| arena.ghost(&view));
        if let Some(ghost) = ghost.filter(|_| self.running.is_none()) {
            let what = format!("removesrv {ghost}");
            self.command(now, arena, log, "RemoveGhost", &what, Then::Nothing);
        }
    }

    /// Whether it is time that servers come and go, for which all must be well
    /// for a moment.
    pub(crate) fn wants_calm(&self, now: Duration) -> bool {
        (self.shake_at..self.shake_at + CALM).contains(&now)
    }

    /// All servers are voters: one may go, or come.
    fn shake(&mut self, now: Duration, arena: &mut Arena, log: &mut Log, dice: &mut Dice) {
        let spare = arena.spare();
        let mut running = arena.servers(Life::Runs);
        running.retain(|number| *number != spare);
        let Some(one) = dice.pick(&running) else { return };
        let name = arena.nodes[one].name.clone();
        // Whoever was removed has heard of it, and is back.
        arena.nodes.iter_mut().for_each(|node| node.dismissed = false);
        self.whole_since = None;
        self.shake_at = now + dice.millis(3000, 9000);
        let id = arena.id(one);
        match dice.below(3) {
            0 => {
                log.begin(&name, "Wipe", &format!("{name} loses its disk"));
                arena.kill(one);
                arena.wipe(one);
                arena.nodes[one].was = id;
                arena.start(one);
                log.end(&name);
            }
            1 if arena.nodes[spare].is_there() => self.remove(now, arena, log, spare),
            1 => {
                log.note_of("Join", &format!("{} joins", arena.nodes[spare].name));
                arena.start(spare);
            }
            _ => self.remove(now, arena, log, one),
        }
    }

    fn remove(&mut self, now: Duration, arena: &mut Arena, log: &mut Log, number: usize) {
        let what = format!("removesrv {}", arena.nodes[number].name);
        arena.nodes[number].dismissed = true;
        arena.nodes[number].was = arena.id(number);
        self.command(now, arena, log, "Remove", &what, Then::Removed(number));
    }

    fn transfer(&mut self, now: Duration, arena: &mut Arena, log: &mut Log, dice: &mut Dice) {
        let to = match dice.one_in(2) {
            true => dice.pick(&arena.servers(Life::Runs)).map(|one| &arena.nodes[one].name),
            false => None,
        };
        let what = format!("transfer {}", to.map_or("", |name| name));
        self.command(now, arena, log, "Transfer", what.trim(), Then::Nothing);
    }

    fn command(
        &mut self,
        now: Duration,
        arena: &Arena,
        log: &mut Log,
        kind: &str,
        what: &str,
        then: Then,
    ) {
        log.note_of(kind, &format!("`{what}`"));
        let child = Command::new(STORE)
            .args(what.split(' '))
            .arg("--dir")
            .arg(arena.home())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.running = Some(Running { child, what: what.to_owned(), until: now + COMMAND, then });
    }

    fn mind_command(&mut self, now: Duration, arena: &mut Arena, log: &mut Log) {
        let Some(running) = &mut self.running else { return };
        let status = match running.child.try_wait().unwrap() {
            Some(status) => status,
            None if now < running.until => return,
            None => {
                log.wrong(&format!("`{}` does not end", running.what));
                let _ = running.child.kill();
                running.child.wait().unwrap()
            }
        };
        let Some(Running { mut child, what, then, .. }) = self.running.take() else { return };
        let mut text = String::new();
        let _ = child.stdout.take().map(|mut out| out.read_to_string(&mut text));
        let _ = child.stderr.take().map(|mut err| err.read_to_string(&mut text));
        log.note(&format!("`{what}` ({status}): {}", text.trim().replace('\n', " ")));
        if let Then::Removed(number) = then {
            match status.success() {
                true => self.leaving = Some((now + HEARS, number)),
                // Nobody knows: it may be done all the same.
                false if status.code() == Some(3) => arena.nodes[number].was = None,
                false => arena.nodes[number].was = None,
            }
        }
    }

    /// One that was removed ends by itself, unless it cannot hear of it.
    fn mind_leaving(&mut self, now: Duration, arena: &mut Arena, log: &mut Log) {
        let Some((until, number)) = self.leaving else { return };
        if arena.nodes[number].life == Life::Runs && now < until {
            return;
        }
        self.leaving = None;
        if arena.nodes[number].life == Life::Runs {
            log.note(&format!("{} runs still, and is killed", arena.nodes[number].name));
        }
        arena.kill(number);
        match number == arena.spare() {
            true => arena.wipe(number),
            false => arena.start(number),
        }
    }

    /// No order is under way any more.
    pub(crate) fn finish(&mut self, arena: &mut Arena, log: &mut Log) {
        while self.running.is_some() {
            self.mind_command(log.now(), arena, log);
            std::thread::sleep(Duration::from_millis(10));
        }
        self.mind_leaving(Duration::MAX, arena, log);
    }
}
