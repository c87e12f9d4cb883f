//! The machine alone, under simulated time, in a world that carries its actions out as the supervisor
//! does.
#![expect(clippy::unchecked_time_subtraction, reason = "an underflow fails the test")]

use std::collections::{BTreeMap, VecDeque};

use nix::errno::Errno;

use super::*;
use crate::connection::supervisor::watchdog::Signs;

mod chance;
mod end;
mod failures;
mod hanging;
mod upgrade;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
/// How long an open may wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// How the world answers; as it should, unless it is told otherwise.
#[derive(Debug, Clone)]
struct Manners {
    /// Why no worker can be started, and whether that is a refusal.
    no_start: Option<(&'static str, Option<Errno>)>,
    /// Whether the worker takes what it is asked for a sign of life.
    answers: bool,
    /// Whether a worker that is killed ends.
    mortal: bool,
    /// Whether a request was in hand at a crash.
    charged: bool,
    /// What comes of making the mount anew, and whether the old connection is gone then.
    renewed: (Result<Renewal, &'static str>, bool),
}

impl Manners {
    fn good() -> Self {
        let renewed = (Ok(Renewal::Visible), true);
        Self { no_start: None, answers: true, mortal: true, charged: false, renewed }
    }
}

/// Processes, clocks and a kernel, as far as the machine can tell.
struct World {
    machine: Machine,
    now: Duration,
    manners: Manners,
    /// The workers that have not ended, and whether they were killed.
    alive: BTreeMap<u64, bool>,
    most_alive: usize,
    signs: Signs,
    /// What the machine wanted since [`World::wanted`] was called last.
    actions: Vec<Action>,
    is_over: bool,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new(PATIENCE),
            now: SECOND * 1000,
            manners: Manners::good(),
            alive: BTreeMap::new(),
            most_alive: 0,
            signs: Signs::default(),
            actions: Vec::new(),
            is_over: false,
        }
    }

    /// One in which worker 1 serves, and nobody asks anything.
    fn serving() -> Self {
        let mut world = Self::new();
        world.tick();
        world.ready(Init::First);
        world.rest();
        world.wanted();
        world
    }

    /// Lets time pass until the watchdog looks no more.
    fn rest(&mut self) {
        self.pass(2 * SECOND);
        assert!(self.machine.listens());
    }

    /// Tells the machine what happened, and does what it wants, with all that follows.
    fn tell(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.machine.step(event, self.now) {
                assert!(!self.is_over, "{action:?} after the end");
                events.extend(self.act(&action));
                self.actions.push(action);
            }
        }
    }

    fn act(&mut self, action: &Action) -> Option<Event> {
        match action {
            Action::Start { worker, .. } => Some(match self.manners.no_start {
                None => {
                    self.alive.insert(worker.0, false);
                    self.most_alive = self.most_alive.max(self.alive.len());
                    Event::Started { worker: *worker, steps: self.signs.steps }
                }
                Some((why, refused)) => {
                    Event::NotStarted { worker: *worker, why: why.to_owned(), refused }
                }
            }),
            Action::Kill(id) => {
                self.alive.entry(id.0).and_modify(|killed| *killed = true);
                None
            }
            Action::Ping => {
                self.signs.taken += u64::from(self.manners.answers);
                None
            }
            Action::Await(id) => (self.manners.mortal && self.alive.remove(&id.0).is_some())
                .then(|| Event::Closed { worker: *id, ending: Some(killed()) }),
            Action::Go(id) => Some(Event::Went { worker: *id, signs: self.signs }),
            Action::Charge => Some(Event::Charged { anything: self.manners.charged }),
            Action::Remount => {
                let (outcome, is_lost) = self.manners.renewed;
                Some(Event::Renewed { outcome: outcome.map_err(str::to_owned), is_lost })
            }
            Action::End(_) | Action::GiveUp(_) => {
                self.is_over = true;
                None
            }
            _ => None,
        }
    }

    fn tick(&mut self) {
        self.tell(Event::Tick { steps: self.signs.steps });
    }

    /// Lets time pass: whatever is due meanwhile is done in its time.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        // More than any test needs: a machine that is always due would go on for ever.
        for _ in 0..100_000 {
            if self.machine.looks(self.now) {
                self.tell(Event::Looked(self.signs));
            }
            self.tick();
            match self.machine.wake(self.now) {
                _ if self.is_over => return,
                Some(at) if at <= end => self.now = self.now.max(at),
                _ if self.now < end => self.now = end,
                _ => return,
            }
        }
        panic!("something is always due");
    }

    /// What the machine wanted since the last call.
    fn wanted(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The worker or, while there is one, the candidate becomes ready.
    fn ready(&mut self, init: Init) {
        let worker = self.machine.candidate().or(self.machine.worker()).unwrap();
        self.tell(Event::Ready { worker, init });
    }

    /// A worker ends by itself.
    fn dies(&mut self, worker: Id, ending: Ending) {
        self.alive.remove(&worker.0);
        self.tell(Event::Closed { worker, ending: Some(ending) });
    }

    /// What was killed ends at last.
    fn release(&mut self) {
        let killed: Vec<_> =
            self.alive.iter().filter(|(_, killed)| **killed).map(|(id, _)| *id).collect();
        for id in killed {
            self.dies(Id(id), self::killed());
        }
    }

    fn serves(&self) -> bool {
        self.machine.serves()
    }
}

fn killed() -> Ending {
    Ending { is_crash: false, how: "signal: 9 (SIGKILL)".to_owned() }
}

fn crashed() -> Ending {
    Ending { is_crash: true, how: "signal: 6 (SIGABRT)".to_owned() }
}

fn end_of(id: u64) -> [Action; 3] {
    [Action::Kill(Id(id)), Action::AnswerOverdue, Action::Await(Id(id))]
}

fn start(id: u64, role: Role) -> Action {
    Action::Start { worker: Id(id), role }
}

fn failed(failures: u32, how: &str, pause: Duration) -> Action {
    Action::Tell(News::Failed { failures, how: how.to_owned(), pause })
}

fn died(ending: Ending) -> Action {
    Action::Tell(News::Died { how: ending.how })
}

#[test]
fn the_first_worker_answers_the_kernel_and_is_announced() {
    let mut world = World::new();
    world.tick();
    assert_eq!(world.wanted(), [start(1, Role::Worker)]);
    assert!(!world.machine.is_mounted());
    world.ready(Init::First);
    assert_eq!(world.wanted(), [Action::Mount(Id(1)), Action::Go(Id(1)), Action::Announce]);
    assert!(world.machine.is_mounted() && world.serves());
    world.rest();
    assert_eq!(world.wanted(), [Action::Ping, Action::ForgetProgram]);
    assert_eq!(world.machine.wake(world.now), None, "it sleeps while nobody asks anything");
}

#[test]
fn the_next_worker_follows_at_once_and_is_not_announced() {
    let mut world = World::serving();
    world.dies(Id(1), killed());
    world.tick();
    world.ready(Init::Same);
    let follows =
        [died(killed()), start(2, Role::Worker), Action::AnswerOverdue, Action::Go(Id(2))];
    assert_eq!(world.wanted(), follows);
    assert!(world.serves());
}

#[test]
fn renames_are_made_when_the_worker_wants_them() {
    let mut world = World::serving();
    world.tell(Event::RenamesDue);
    assert_eq!(world.wanted(), [Action::Rotate]);
}
