//! One GitHub App for many: the identities of a daemon (tokens for an installation or for a repository),
//! each run by the engine's policy, share the very budget and queue that the source mints by.
//!
//! What one of them mints is missing to another, so they live in one queue of events.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use molecule_tokenfs::error::FetchErrorKind;
use molecule_tokenfs::refresh::policy::Verdict;
use molecule_tokenfs::source::github_app::{Awaited, MintQueue, NotNow};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::claim::Claim;
use crate::report::to_f64;
use crate::rules::{Minted, OPEN_TIMEOUT, Rule, Tokenfs, uniform};
use crate::world::{LIFE, pause};

/// What the budget counts over.
const MINUTE: Duration = Duration::from_mins(1);

/// A source that has no leave to mint answers after this time.
const AT_ONCE: Duration = Duration::from_millis(1);

/// Who would wait longer for a turn is refused at once: `request-timeout` where nobody sets it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whoever waits looks again after this time at the latest, since others may have given up.
const LOOK: Duration = Duration::from_millis(100);

/// What happens to the App and its identities.
#[derive(Debug, Clone)]
pub struct Plan {
    pub what: &'static str,
    pub identities: u32,
    pub mints_a_minute: usize,
    /// The first open of each comes within this time.
    pub start: Duration,
    pub length: Duration,
    /// Opens count from then on.
    pub from: Duration,
    /// GitHub refuses every connection.
    pub outage: Range<Duration>,
    /// GitHub answers 429 with the rest of it as `Retry-After`.
    pub limit: Range<Duration>,
}

/// Nothing happens, for so many hours after as many in which the start is forgotten.
pub fn in_its_stride(identities: u32, mints_a_minute: usize, hours: u64) -> Plan {
    let from = Duration::from_hours(hours);
    Plan {
        what: "in its stride",
        identities,
        mints_a_minute,
        start: Duration::from_mins(45),
        length: from * 2,
        from,
        outage: Duration::ZERO..Duration::ZERO,
        limit: Duration::ZERO..Duration::ZERO,
    }
}

/// What an App and its identities may meet.
pub fn disturbed(identities: u32, mints_a_minute: usize) -> [Plan; 4] {
    let calm = in_its_stride(identities, mints_a_minute, 4);
    let from = calm.from;
    let outage = |minutes| from..from + Duration::from_mins(minutes);
    [
        Plan {
            what: "all start at once",
            start: Duration::from_secs(1),
            from: Duration::ZERO,
            ..calm.clone()
        },
        Plan { what: "outage of 30 min", outage: outage(30), ..calm.clone() },
        Plan { what: "outage of 90 min", outage: outage(90), ..calm.clone() },
        Plan { what: "left alone for 5 min", limit: outage(5), ..calm },
    ]
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub what: &'static str,
    pub identities: u32,
    pub budget_a_minute: usize,
    /// Requests for a token that GitHub got, in the busiest 60 seconds wherever they begin.
    pub most_mints_in_60_s: usize,
    /// Requests that GitHub got after it had asked to be left alone; `None` if it did not ask.
    pub asked_although_told: Option<usize>,
    /// Tokens a minute on average, from the moment on from which opens count.
    pub mints_a_minute: f64,
    pub opens: u64,
    /// Opens that had to wait for a token and got it.
    pub opens_that_waited: u64,
    pub longest_wait_ms: u128,
    pub opens_refused: u64,
    /// From the start, or from the end of what happened, until each has a token; `None` if one has none in
    /// the end.
    pub seconds_until_all_have_one: Option<u64>,
}

/// Lets the identities live; no further than to the first refused open if that is all that counts.
pub fn live(plan: &Plan, until_one_is_refused: bool) -> Figures {
    let mut app = App::new(plan);
    let mut seats: Vec<Seat> = (0..plan.identities).map(|number| Seat::new(plan, number)).collect();
    let mut queue: BinaryHeap<_> =
        seats.iter().zip(0..).map(|(seat, number)| Reverse((seat.due, number))).collect();
    while let Some(Reverse((now, number))) =
        queue.pop().filter(|Reverse((at, _))| *at < plan.length)
    {
        let seat: &mut Seat = &mut seats[number];
        seat.happen(now, &mut app);
        queue.push(Reverse((seat.due, number)));
        if until_one_is_refused && app.refused > 0 {
            break;
        }
    }
    app.figures(&seats)
}

/// How many identities are carried: `enough` are, `too_many` are not, and the answer, with the least that
/// was seen to be too many, is exact to a fiftieth.
fn most(carries: impl Fn(u32) -> bool, mut enough: u32, mut too_many: u32) -> (u32, u32) {
    assert!(carries(enough), "{enough} are too many already");
    assert!(!carries(too_many), "{too_many} are not too many");
    while too_many - enough > (enough / 50).max(1) {
        let middle = enough.midpoint(too_many);
        if carries(middle) {
            enough = middle;
        } else {
            too_many = middle;
        }
    }
    (enough, too_many)
}

/// What an App carries.
#[derive(Debug, Serialize)]
pub struct Carries {
    pub mints_a_minute: usize,
    /// For so long without a refused open, where nothing happens.
    pub hours: u64,
    pub in_its_stride: u32,
    pub too_many_in_its_stride: u32,
    /// Each has a token within [`RECOVERY`], whatever of [`disturbed`] happens.
    pub through_anything: u32,
    pub too_many_through_anything: u32,
}

impl Carries {
    pub fn find(mints_a_minute: usize, hours: u64) -> Self {
        let budget = u32::try_from(mints_a_minute).expect("a small number");
        // More than one token an hour for each can be no App's.
        let (few, never) = (budget * 10, budget * 61);
        let is_calm = |n| live(&in_its_stride(n, mints_a_minute, hours), true).opens_refused == 0;
        let (in_its_stride, too_many_in_its_stride) = most(is_calm, few, never);
        let recovers = |identities| {
            let mut lives = disturbed(identities, mints_a_minute).into_iter();
            is_calm(identities)
                && lives.all(|plan| claim_of_the_recovery(&live(&plan, false)).holds)
        };
        let (through_anything, too_many_through_anything) =
            most(recovers, few, too_many_in_its_stride);
        Self {
            mints_a_minute,
            hours,
            in_its_stride,
            too_many_in_its_stride,
            through_anything,
            too_many_through_anything,
        }
    }
}

pub fn claims_of(figures: &Figures) -> Vec<Claim> {
    let of = |what: &str| format!("{} of one App, {}: {what}", figures.identities, figures.what);
    let count = |number: usize| f64::from(u32::try_from(number).expect("a count"));
    vec![
        Claim::new(
            of("mints in the busiest minute"),
            count(figures.most_mints_in_60_s),
            count(figures.budget_a_minute),
        ),
        Claim::new(
            of("requests while GitHub wants none"),
            count(figures.asked_although_told.unwrap_or_default()),
            0.0,
        ),
        Claim::new(
            of("seconds of the longest wait"),
            to_f64(u64::try_from(figures.longest_wait_ms).expect("seconds")) / 1000.0,
            OPEN_TIMEOUT.as_secs_f64(),
        ),
    ]
}

pub fn claim_of_the_carried(figures: &Figures) -> Claim {
    Claim::new(
        format!("{} of one App, {}: refused opens", figures.identities, figures.what),
        to_f64(figures.opens_refused),
        0.0,
    )
}

/// Whatever happened, each has a token again within this time.
const RECOVERY: Duration = Duration::from_hours(1);

pub fn claim_of_the_recovery(figures: &Figures) -> Claim {
    let never = 1e9;
    Claim::new(
        format!("{} of one App, {}: seconds until all have one", figures.identities, figures.what),
        figures.seconds_until_all_have_one.map_or(never, to_f64),
        RECOVERY.as_secs_f64(),
    )
}

/// The App: its budget, and GitHub behind it.
struct App<'a> {
    plan: &'a Plan,
    queue: MintQueue,
    /// What GitHub got in the last minute.
    last_minute: VecDeque<Duration>,
    most_in_a_minute: usize,
    /// Requests since GitHub asked to be left alone.
    since_told: Option<usize>,
    minted: u32,
    opens: u64,
    waited: u64,
    longest: Duration,
    refused: u64,
    /// When somebody last got a token who had none.
    last_relief: Duration,
}

/// A place in the queue.
struct Turn {
    ticket: u64,
    awaited: Awaited,
    sent: Duration,
}

/// What becomes of a request.
enum Request {
    /// It waits for its turn, and looks again then.
    Waits(Duration),
    /// It ends then, in this way.
    Ends(Duration, Outcome),
}

/// How a request ends.
type Outcome = Result<Minted, (FetchErrorKind, Option<Duration>)>;

impl<'a> App<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            queue: MintQueue::default(),
            last_minute: VecDeque::new(),
            most_in_a_minute: 0,
            since_told: None,
            minted: 0,
            opens: 0,
            waited: 0,
            longest: Duration::ZERO,
            refused: 0,
            last_relief: Duration::ZERO,
        }
    }

    /// What the source does: it waits for its turn, if that comes in time, and then asks GitHub.
    fn ask(&mut self, turn: &Turn, now: Duration, rng: &mut StdRng) -> Request {
        match self.queue.take(turn.ticket, self.plan.mints_a_minute, now) {
            Err(NotNow::UsedUp(wait)) if now + wait <= turn.sent + PATIENCE => {
                return Request::Waits(now + wait.min(LOOK));
            }
            Err(not_now) => {
                self.queue.leave(turn.ticket);
                let wait = match not_now {
                    NotNow::UsedUp(wait) => wait.min(MINUTE),
                    NotNow::Asked(wait) => wait,
                };
                return Request::Ends(
                    now + AT_ONCE,
                    Err((FetchErrorKind::RateLimited, Some(wait))),
                );
            }
            Ok(()) => self.queue.leave(turn.ticket),
        }
        let (at, outcome) = self.mint(now, rng);
        Request::Ends(at, outcome)
    }

    fn mint(&mut self, now: Duration, rng: &mut StdRng) -> (Duration, Outcome) {
        self.note_mint(now);
        if self.plan.outage.contains(&now) {
            return (now + AT_ONCE, Err((FetchErrorKind::Unreachable, None)));
        }
        let answered = now + Duration::from_millis(20) + uniform(rng, Duration::from_millis(180));
        if self.plan.limit.contains(&now) {
            self.since_told.get_or_insert_default();
            let wish = self.plan.limit.end.saturating_sub(now);
            self.queue.leave_alone(self.plan.limit.end);
            return (answered, Err((FetchErrorKind::RateLimited, Some(wish))));
        }
        if now >= self.plan.from {
            self.minted += 1;
        }
        let number = u32::try_from(now.as_millis()).expect("weeks fit");
        (answered, Ok(Minted { number, expires: now + LIFE }))
    }

    fn note_mint(&mut self, now: Duration) {
        if let Some(requests) = self.since_told.as_mut().filter(|_| self.plan.limit.contains(&now))
        {
            *requests += 1;
        }
        while self.last_minute.front().is_some_and(|at| now.saturating_sub(*at) >= MINUTE) {
            self.last_minute.pop_front();
        }
        self.last_minute.push_back(now);
        self.most_in_a_minute = self.most_in_a_minute.max(self.last_minute.len());
    }

    /// An open that began then has ended.
    fn note_open(&mut self, began: Duration, now: Duration, is_served: bool) {
        if began < self.plan.from {
            return;
        }
        self.opens += 1;
        self.longest = self.longest.max(now.saturating_sub(began));
        self.refused += u64::from(!is_served);
        self.waited += u64::from(is_served && now > began);
    }

    fn figures(self, seats: &[Seat]) -> Figures {
        let plan = self.plan;
        let happened = plan.outage.end.max(plan.limit.end);
        let minutes = plan.length.saturating_sub(plan.from).as_secs_f64() / 60.0;
        let have = |seat: &Seat| seat.rule.good_until(plan.length).is_some();
        Figures {
            what: plan.what,
            identities: plan.identities,
            budget_a_minute: plan.mints_a_minute,
            most_mints_in_60_s: self.most_in_a_minute,
            asked_although_told: self.since_told,
            mints_a_minute: f64::from(self.minted) / minutes,
            opens: self.opens,
            opens_that_waited: self.waited,
            longest_wait_ms: self.longest.as_millis(),
            opens_refused: self.refused,
            seconds_until_all_have_one: seats
                .iter()
                .all(have)
                .then(|| self.last_relief.saturating_sub(happened).as_secs()),
        }
    }
}

/// An identity and its readers.
struct Seat {
    rng: StdRng,
    rule: Tokenfs,
    next_read: Duration,
    /// The place in the queue of the request that is sent, and what becomes of it.
    in_flight: Option<(Turn, Request)>,
    /// When the opens that wait began.
    waiting: VecDeque<Duration>,
    due: Duration,
}

impl Seat {
    fn new(plan: &Plan, number: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(u64::from(number));
        let start = uniform(&mut rng, plan.start);
        Self {
            rng,
            rule: Tokenfs::start(start),
            next_read: start,
            in_flight: None,
            waiting: VecDeque::new(),
            due: start,
        }
    }

    fn happen(&mut self, now: Duration, app: &mut App) {
        let had = self.rule.good_until(now).is_some();
        let sends = match self.in_flight.take() {
            Some((turn, Request::Ends(at, outcome))) if at <= now => match outcome {
                Ok(token) => self.rule.answered(turn.sent, Some(token), now, &mut self.rng),
                Err((kind, wish)) => self.rule.failed(kind, wish, now, &mut self.rng),
            },
            Some((turn, Request::Waits(at))) if at <= now => {
                let request = app.ask(&turn, now, &mut self.rng);
                self.in_flight = Some((turn, request));
                false
            }
            in_flight => {
                self.in_flight = in_flight;
                if self.next_read <= now {
                    self.next_read = now + pause(&mut self.rng);
                    self.waiting.push_back(now);
                    self.rule.opened(now, &mut self.rng)
                } else {
                    self.rule.tick(now, &mut self.rng)
                }
            }
        };
        if sends {
            let awaited = Awaited::default();
            let turn = Turn { ticket: app.queue.enter(&awaited), awaited, sent: now };
            // Whose open it is has not been judged yet: it is asked in a moment.
            self.in_flight = Some((turn, Request::Waits(now)));
        }
        if !had && self.rule.good_until(now).is_some() {
            app.last_relief = now;
        }
        let rule = &self.rule;
        self.waiting.retain(|&began| match rule.verdict(now, began + OPEN_TIMEOUT) {
            Verdict::Wait => true,
            verdict => {
                app.note_open(began, now, verdict == Verdict::Serve);
                false
            }
        });
        let answer = self.in_flight.as_ref().map(|(turn, request)| {
            turn.awaited.store(!self.waiting.is_empty(), Ordering::Relaxed);
            match request {
                Request::Waits(at) | Request::Ends(at, _) => *at,
            }
        });
        let deadline = self.waiting.front().map(|began| *began + OPEN_TIMEOUT);
        let times = [answer, deadline, self.rule.wake(now), Some(self.next_read)];
        let next = times.into_iter().flatten().min().expect("it is read again");
        // What is due now and did not happen yet comes next, never before now.
        self.due = next.max(now);
    }
}
