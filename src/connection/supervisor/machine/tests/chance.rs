//! Walks of chance: what holds after any sequence of events.

use proptest::prelude::*;

use super::*;

fn any_init() -> impl Strategy<Value = Init> {
    prop_oneof![
        1 => Just(Init::First),
        4 => Just(Init::Same),
        1 => Just(Init::Other),
        1 => Just(Init::Missing("no".to_owned())),
    ]
}

fn any_ending() -> impl Strategy<Value = Option<Ending>> {
    prop_oneof![Just(None), Just(Some(killed())), Just(Some(crashed()))]
}

prop_compose! {
    fn any_signs()(
        taken in 0_u64..8,
        pending in 0_u64..2,
        steps in 0_u64..4,
        looks in 0_u64..4,
        is_overdue: bool,
        is_readable: bool,
    ) -> Signs {
        Signs { taken, pending, steps, looks, is_overdue, is_readable }
    }
}

prop_compose! {
    fn any_outcome()(
        renewal in prop_oneof![Just(Ok(Renewal::Visible)), Just(Ok(Renewal::AwaitsWorker)), Just(Err("no"))],
        is_lost: bool,
    ) -> (Result<Renewal, &'static str>, bool) {
        // What was made anew has cost the old connection.
        (renewal, is_lost || renewal.is_ok())
    }
}

prop_compose! {
    fn any_manners()(
        no_start in prop::option::weighted(0.2, prop_oneof![
            Just(("no", None)),
            Just(("refused", Some(Errno::EPERM))),
        ]),
        answers: bool,
        mortal in prop::bool::weighted(0.7),
        charged: bool,
        renewed in any_outcome(),
    ) -> Manners {
        Manners { no_start, answers, mortal, charged, renewed }
    }
}

/// Any event at all, about a worker of any number.
fn any_event() -> impl Strategy<Value = Event> {
    let worker = || (1_u64..12).prop_map(Id);
    prop_oneof![
        8 => (0_u64..4).prop_map(|steps| Event::Tick { steps }),
        1 => (worker(), 0_u64..4).prop_map(|(worker, steps)| Event::Started { worker, steps }),
        1 => worker().prop_map(|worker| {
            Event::NotStarted { worker, why: "no".to_owned(), refused: None }
        }),
        4 => (worker(), any_init()).prop_map(|(worker, init)| Event::Ready { worker, init }),
        2 => (worker(), any_signs()).prop_map(|(worker, signs)| Event::Went { worker, signs }),
        4 => (worker(), any_ending()).prop_map(|(worker, ending)| Event::Closed { worker, ending }),
        1 => any::<bool>().prop_map(|anything| Event::Charged { anything }),
        1 => Just(Event::RenamesDue),
        2 => (0_u64..8).prop_map(|taken| Event::Requested { taken }),
        1 => Just(Event::RequestWaits),
        4 => any_signs().prop_map(Event::Looked),
        2 => Just(Event::UpgradeAsked),
        1 => any_outcome().prop_map(|(outcome, is_lost)| {
            Event::Renewed { outcome: outcome.map_err(str::to_owned), is_lost }
        }),
    ]
}

/// What can happen in a world that answers each action.
#[derive(Debug, Clone)]
enum Happens {
    Manners(Manners),
    Time(Duration),
    Steps,
    Taken,
    Ready(Init),
    WorkerDies(Ending),
    CandidateDies(Ending),
    Released,
    Event(Event),
}

fn any_happening() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => any_manners().prop_map(Happens::Manners),
        6 => prop_oneof![0_u64..100, 0_u64..10_000]
            .prop_map(|time| Happens::Time(Duration::from_millis(time))),
        1 => Just(Happens::Steps),
        2 => Just(Happens::Taken),
        4 => any_init().prop_map(Happens::Ready),
        2 => prop_oneof![Just(killed()), Just(crashed())].prop_map(Happens::WorkerDies),
        1 => prop_oneof![Just(killed()), Just(crashed())].prop_map(Happens::CandidateDies),
        1 => Just(Happens::Released),
        2 => Just(Happens::Event(Event::UpgradeAsked)),
        2 => Just(Happens::Event(Event::Requested { taken: 0 })),
        1 => Just(Happens::Event(Event::RequestWaits)),
    ]
}

impl World {
    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Manners(manners) => self.manners = manners,
            Happens::Time(time) => self.pass(time),
            Happens::Steps => self.signs.steps += 1,
            Happens::Taken => self.signs.taken += 1,
            Happens::Ready(init) => {
                // Whoever is the first on a connection answers as the first.
                let init = if self.machine.is_mounted { init } else { Init::First };
                if let Some(worker) = self.machine.candidate().or(self.machine.worker()) {
                    self.tell(Event::Ready { worker, init });
                }
            }
            Happens::WorkerDies(ending) => {
                if let Some(worker) = self.machine.worker() {
                    self.dies(worker, ending);
                }
            }
            Happens::CandidateDies(ending) => {
                if let Some(candidate) = self.machine.candidate() {
                    self.dies(candidate, ending);
                }
            }
            Happens::Released => self.release(),
            Happens::Event(event) => self.tell(event),
        }
    }

    /// Whether one of the workers is there, or will be tried at a known time, or cannot be, as long as
    /// two that were killed have not ended.
    fn wants_a_worker(&self) -> bool {
        self.machine.worker().is_some()
            || self.machine.wake(self.now).is_some()
            || self.machine.dying().number() == MOST_WORKERS
    }
}

proptest! {
    /// Even of events that make no sense: about workers that are not there, or in no possible order.
    #[test]
    fn any_events_at_all_lead_to_no_more_than_two_workers_and_to_none_after_the_end(
        events in prop::collection::vec((any_event(), 0_u64..10_000), 0..80),
        end in prop::option::of(prop_oneof![Just(Event::StopAsked), Just(Event::ConnectionEnded)]),
        end_at in 0_usize..80,
    ) {
        let (mut machine, mut now) = (Machine::new(PATIENCE), SECOND);
        let mut alive = Vec::new();
        let mut is_over = false;
        for (place, (event, time)) in events.into_iter().enumerate() {
            now += Duration::from_millis(time);
            let event = if place == end_at { end.clone().unwrap_or(event) } else { event };
            if let Event::Closed { worker, .. } | Event::NotStarted { worker, .. } = &event {
                alive.retain(|id| id != worker);
            }
            for action in machine.step(event, now) {
                prop_assert!(!is_over, "{:?} after the end", action);
                match action {
                    Action::Start { worker, .. } => alive.push(worker),
                    Action::End(_) | Action::GiveUp(_) => is_over = true,
                    _ => {}
                }
                prop_assert!(alive.len() <= 2, "{:?}", alive);
            }
        }
    }

    #[test]
    fn a_worker_is_always_wanted_and_serves_as_soon_as_the_world_lets_it(
        happenings in prop::collection::vec(any_happening(), 0..60),
    ) {
        let mut world = World::new();
        for happens in happenings {
            world.happen(happens);
            world.tick();
            prop_assert!(world.most_alive <= 2);
            if world.is_over {
                // It gave up, which it may before anything has ever been served.
                prop_assert!(!world.machine.has_served);
                return Ok(());
            }
            prop_assert!(world.wants_a_worker());
        }
        world.manners = Manners::good();
        world.release();
        // The longest back-off.
        for _ in 0..31 {
            world.signs.taken += 1;
            world.pass(SECOND);
            if let Some(worker) = world.machine.worker()
                && !world.serves()
            {
                let init = if world.machine.is_mounted { Init::Same } else { Init::First };
                world.tell(Event::Ready { worker, init });
            }
        }
        prop_assert!(world.serves(), "{:?}", world.machine);
    }
}
