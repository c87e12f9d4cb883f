//! What is measured of a fleet's life, and what is claimed of it.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use crate::claim::Claim;
use crate::rules::{Kubelet, OldDaemon, Rule, Tokenfs};
use crate::world::{Minting, Plan, Record, live, seconds};

/// The fleet has lived for this long when something happens to it, or up to [`WAVE`] longer.
const BEFORE: Duration = Duration::from_hours(4);

/// Where in the wave the compared scenarios begin. The refreshes of the other rules come in waves of a
/// few minutes, which a short outage can miss: at this moment half an hour meets both.
const COMPARED: Duration = Duration::from_mins(35);

/// And it is watched for this long after: three lives of a token, four echoes.
const AFTER: Duration = Duration::from_hours(3);

/// The wave of a common start comes again after this long: how an outage ends depends on where in it
/// the outage begins.
const WAVE: Duration = Duration::from_mins(45);

/// The background refreshes of a fleet in its stride, were they spread evenly.
pub fn uniform_rate(workspaces: u32) -> f64 {
    f64::from(workspaces) / (45.0 * 60.0)
}

/// What happens to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// The platform is gone for so many minutes.
    Outage(u64),
    Restart,
}

impl Scenario {
    pub const ALL: [Self; 4] = [Self::Outage(5), Self::Outage(30), Self::Outage(90), Self::Restart];

    pub fn plan(self, workspaces: u32, minting: Minting) -> Plan {
        self.plan_at(workspaces, minting, COMPARED)
    }

    /// The same, so much later.
    fn plan_at(self, workspaces: u32, minting: Minting, later: Duration) -> Plan {
        let start = BEFORE + later;
        let outage = match self {
            Self::Outage(minutes) => start..start + Duration::from_mins(minutes),
            Self::Restart => start..start,
        };
        let length = outage.end + AFTER;
        let restart = (self == Self::Restart).then_some(start);
        Plan { workspaces, length, minting, outage, restart, last_read: length }
    }

    fn name(self) -> String {
        match self {
            Self::Outage(minutes) => format!("outage of {minutes} min"),
            Self::Restart => "restart of all".to_owned(),
        }
    }
}

/// The figures of one life. Rates are multiples of [`uniform_rate`]; minutes are counted from the
/// recovery and do not overlap.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    pub workspaces: u32,
    pub scenario: String,
    pub platform: &'static str,
    pub rule: &'static str,
    /// The busiest second from the outage on.
    pub most_requests_in_a_second: u32,
    /// The most workspaces without a token at one time.
    pub most_without_token: u32,
    pub without_token_at_recovery: u32,
    pub without_token_a_minute_after: u32,
    /// From the recovery until the last workspace has a token; `None` if one never has.
    pub seconds_until_all_have_one: Option<usize>,
    /// The sum of the time that workspaces were without a token, per workspace.
    pub seconds_without_token_each: f64,
    /// Of one workspace, in the first minute after the recovery.
    pub most_answered_requests_of_one: u32,
    /// The busiest of the second minute and those after it.
    pub busiest_minute: f64,
    /// The same, from 20 minutes after the recovery on: what comes back together.
    pub echo: f64,
    /// During the outage, after its first minute: seconds from one attempt to the next, on average.
    pub seconds_between_attempts_without_token: Option<f64>,
    pub seconds_between_attempts_with_token: Option<f64>,
    /// From the outage or restart on.
    pub reads_live: u64,
    pub reads_dead: u64,
    pub reads_refused: u64,
}

impl Figures {
    pub fn of<R: Rule>(scenario: Scenario, plan: &Plan, record: &Record) -> Self {
        let (start, end) = (seconds(plan.outage.start), seconds(plan.recovery()));
        let sum = |of: &[u32], range: Range<usize>| of[range].iter().map(|&n| f64::from(n)).sum();
        let busiest = |from: usize| {
            let minutes = record.requests[from..].chunks_exact(60);
            let most = minutes.map(|minute| minute.iter().sum::<u32>()).max().unwrap_or_default();
            f64::from(most) / 60.0 / uniform_rate(plan.workspaces)
        };
        let late = start + 60..end.max(start + 60);
        let length: f64 = f64::from(u32::try_from(late.len()).expect("hours"));
        let needy: f64 = sum(&record.needy, late.clone());
        let attempts: f64 = sum(&record.requests, late.clone());
        let without: f64 = sum(&record.without, late.clone());
        let pause = |time: f64, attempts: f64| (attempts > 0.0).then_some(time / attempts);
        let all: f64 = sum(&record.without, start..record.without.len());
        let most = |of: &[u32]| of[start..].iter().copied().max().unwrap_or_default();
        let last = record.without.iter().rposition(|&without| without > 0);
        Self {
            workspaces: plan.workspaces,
            scenario: scenario.name(),
            platform: platform(plan.minting),
            rule: R::NAME,
            most_requests_in_a_second: most(&record.requests),
            most_without_token: most(&record.without),
            without_token_at_recovery: record.without[end],
            without_token_a_minute_after: record.without[end + 60],
            seconds_until_all_have_one: match last {
                Some(last) if last + 2 >= record.without.len() => None,
                Some(last) => Some((last + 1).saturating_sub(end)),
                None => Some(0),
            },
            seconds_without_token_each: all / f64::from(plan.workspaces),
            most_answered_requests_of_one: record.most_answered,
            busiest_minute: busiest(end + 60),
            echo: busiest(end + 20 * 60),
            seconds_between_attempts_without_token: pause(without, needy),
            seconds_between_attempts_with_token: pause(
                length * f64::from(plan.workspaces) - without,
                attempts - needy,
            ),
            reads_live: record.reads[0],
            reads_dead: record.reads[1],
            reads_refused: record.reads[2],
        }
    }
}

pub fn platform(minting: Minting) -> &'static str {
    match minting {
        Minting::Each => "mints each time",
        Minting::CachePerWorkspace => "caches per workspace",
        Minting::CacheForAll => "caches for all",
    }
}

/// One scenario under each rule, ours first.
pub fn beside_each_other(scenario: Scenario, workspaces: u32) -> Vec<(Figures, Record)> {
    let plan = scenario.plan(workspaces, Minting::Each);
    vec![
        figures::<Tokenfs>(scenario, &plan),
        figures::<OldDaemon>(scenario, &plan),
        figures::<Kubelet>(scenario, &plan),
    ]
}

pub fn figures<R: Rule>(scenario: Scenario, plan: &Plan) -> (Figures, Record) {
    let record = live::<R>(plan);
    (Figures::of::<R>(scenario, plan, &record), record)
}

/// The lives of a scenario that begins at different moments of the wave.
pub fn wherever_in_the_wave<R: Rule>(
    scenario: Scenario,
    workspaces: u32,
    step: Duration,
) -> Vec<Figures> {
    let mut all = Vec::new();
    let mut later = Duration::ZERO;
    while later < WAVE {
        let plan = scenario.plan_at(workspaces, Minting::Each, later);
        let (mut figures, _) = figures::<R>(scenario, &plan);
        let _ = write!(figures.scenario, ", {} min into the wave", later.as_secs() / 60);
        all.push(figures);
        later += step;
    }
    all
}

/// The worst of several lives.
#[derive(Debug, Clone, Serialize)]
pub struct Worst {
    pub scenario: String,
    pub rule: &'static str,
    pub most_without_token: u32,
    /// `None` if one workspace never has a token again.
    pub seconds_until_all_have_one: Option<usize>,
    pub busiest_minute: f64,
    pub echo: f64,
    pub reads_dead: u64,
    pub reads_refused: u64,
}

impl Worst {
    pub fn of(scenario: Scenario, lives: &[Figures]) -> Self {
        let most = |of: fn(&Figures) -> f64| lives.iter().map(of).fold(0.0, f64::max);
        let count = |of: fn(&Figures) -> u64| lives.iter().map(of).max().unwrap_or_default();
        let times = lives.iter().map(|figures| figures.seconds_until_all_have_one);
        Self {
            scenario: scenario.name(),
            rule: lives.first().map_or("", |figures| figures.rule),
            most_without_token: lives
                .iter()
                .map(|f| f.most_without_token)
                .max()
                .unwrap_or_default(),
            seconds_until_all_have_one: times
                .collect::<Option<Vec<_>>>()
                .and_then(|times| times.into_iter().max()),
            busiest_minute: most(|f| f.busiest_minute),
            echo: most(|f| f.echo),
            reads_dead: count(|f| f.reads_dead),
            reads_refused: count(|f| f.reads_refused),
        }
    }
}

/// The same as a table.
pub fn table_of_the_worst(all: &[Worst]) -> String {
    let mut out = format!(
        "{:<18} {:<17} {:>8} {:>13} {:>13} {:>6} {:>11} {:>9}\n",
        "what happens",
        "rule",
        "without",
        "all have one",
        "busiest later",
        "echo",
        "reads: dead",
        "refused"
    );
    for w in all {
        let _ = writeln!(
            out,
            "{:<18} {:<17} {:>8} {:>13} {:>13.2} {:>6.2} {:>11} {:>9}",
            w.scenario,
            w.rule,
            w.most_without_token,
            after(w.seconds_until_all_have_one),
            w.busiest_minute,
            w.echo,
            w.reads_dead,
            w.reads_refused,
        );
    }
    out
}

fn after(seconds: Option<usize>) -> String {
    seconds.map_or("never".to_owned(), |seconds| format!("after {seconds} s"))
}

/// A day in which nothing happens.
#[derive(Debug, Clone, Serialize)]
pub struct Day {
    pub workspaces: u32,
    pub platform: &'static str,
    pub requests_each: f64,
    pub most_requests_of_one: u32,
    pub seconds_without_token_each: f64,
    /// Multiples of the uniform rate, in the second half of the day.
    pub busiest_minute: f64,
}

impl Day {
    pub fn of(workspaces: u32, minting: Minting) -> Self {
        let length = Duration::from_hours(24);
        let plan = Plan { length, last_read: length, ..calm(workspaces, minting) };
        let record = live::<Tokenfs>(&plan);
        let total = |of: &[u32]| of.iter().map(|&n| f64::from(n)).sum::<f64>();
        let minutes = record.requests[seconds(length) / 2..].chunks_exact(60);
        let most = minutes.map(|minute| minute.iter().sum::<u32>()).max().unwrap_or_default();
        Self {
            workspaces,
            platform: platform(minting),
            requests_each: total(&record.requests) / f64::from(workspaces),
            most_requests_of_one: record.most_requests,
            seconds_without_token_each: total(&record.without) / f64::from(workspaces),
            busiest_minute: f64::from(most) / 60.0 / uniform_rate(workspaces),
        }
    }
}

fn calm(workspaces: u32, minting: Minting) -> Plan {
    let never = Duration::ZERO..Duration::ZERO;
    let length = Duration::ZERO;
    Plan { workspaces, length, minting, outage: never, restart: None, last_read: length }
}

/// The requests of a fleet whose readers are gone, a day after the last read and later.
pub fn requests_when_nobody_reads(workspaces: u32) -> u32 {
    let last_read = Duration::from_hours(24);
    let length = Duration::from_hours(96);
    let plan = Plan { length, last_read, ..calm(workspaces, Minting::Each) };
    let record = live::<Tokenfs>(&plan);
    record.requests[seconds(last_read + Duration::from_hours(24))..].iter().sum()
}

/// What is claimed of our rule, whatever happens to the fleet.
pub fn claims_of(figures: &Figures) -> Vec<Claim> {
    let of = |what: &str| format!("{}, {}: {what}", figures.workspaces, figures.scenario);
    let mut claims = vec![
        Claim::new(
            of("workspaces without a token a minute after the recovery"),
            f64::from(figures.without_token_a_minute_after),
            0.0,
        ),
        Claim::new(
            of("answered requests of one workspace in that minute"),
            f64::from(figures.most_answered_requests_of_one),
            1.0,
        ),
        Claim::new(of("busiest minute after it ÷ uniform rate"), figures.busiest_minute, 3.0),
        Claim::new(of("echo ÷ uniform rate"), figures.echo, 2.5),
        Claim::new(of("reads of a dead token"), to_f64(figures.reads_dead), 0.0),
    ];
    // As attempts in 12 s, so that less is better in every claim.
    let in_12_s = |pause: Option<f64>| pause.map(|seconds| 12.0 / seconds);
    if let Some(needy) = in_12_s(figures.seconds_between_attempts_without_token) {
        claims.push(Claim::new(of("attempts in 12 s of a workspace without a token"), needy, 1.0));
        if let Some(calm) = in_12_s(figures.seconds_between_attempts_with_token) {
            claims.push(Claim::new(of("attempts in 12 s of one with a live token"), calm, needy));
        }
    }
    claims
}

pub fn claims_of_a_day(day: &Day) -> Claim {
    let most = if day.platform == platform(Minting::Each) { 34.0 } else { 54.0 };
    Claim::new(
        format!(
            "{}: requests a workspace in a day where the platform {}",
            day.workspaces, day.platform
        ),
        day.requests_each,
        most,
    )
}

pub fn claim_of_the_idle(workspaces: u32, requests: u32) -> Claim {
    let claim = format!("{workspaces}: requests from a day after the last read on");
    Claim::new(claim, f64::from(requests), 0.0)
}

pub fn to_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("a count below four thousand million"))
}

/// The picture's curves: means of so many seconds.
pub const STEP: usize = 20;

/// What a rule did, from half an hour before the outage or restart on.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    pub rule: &'static str,
    pub requests_per_second: Vec<f64>,
    pub without_token: Vec<f64>,
}

/// How long before the outage curves begin.
pub const LEAD: Duration = Duration::from_mins(30);
/// And how long they are.
pub const SPAN: Duration = Duration::from_mins(210);

impl Curve {
    pub fn of(rule: &'static str, plan: &Plan, record: &Record) -> Self {
        let from = seconds(plan.outage.start.saturating_sub(LEAD));
        let until = from + seconds(SPAN);
        let means = |of: &[u32]| {
            let step = f64::from(u32::try_from(STEP).expect("small"));
            let steps = of[from..until].chunks_exact(STEP);
            // To a twentieth: what a step of 20 s can tell.
            steps.map(|step_of| f64::from(step_of.iter().sum::<u32>()) / step).collect()
        };
        Self {
            rule,
            requests_per_second: means(&record.requests),
            without_token: means(&record.without),
        }
    }
}

/// The table for people.
pub fn table(all: &[Figures]) -> String {
    let mut out = String::new();
    let heads = [
        [
            "", "", "", "busiest", "without", "a minute", "all have", "answered", "busiest", "",
            "attempt", "attempt", "reads:", "reads:",
        ],
        [
            "size",
            "what happens",
            "rule",
            "second",
            "at end",
            "later",
            "one",
            "each",
            "later",
            "echo",
            "without",
            "with",
            "dead",
            "refused",
        ],
    ];
    let pause = |seconds: Option<f64>| seconds.map_or("-".to_owned(), |s| format!("{s:.0} s"));
    let rows = all.iter().map(|f| {
        [
            f.workspaces.to_string(),
            f.scenario.clone(),
            f.rule.to_owned(),
            f.most_requests_in_a_second.to_string(),
            f.without_token_at_recovery.to_string(),
            f.without_token_a_minute_after.to_string(),
            after(f.seconds_until_all_have_one),
            f.most_answered_requests_of_one.to_string(),
            format!("{:.2}", f.busiest_minute),
            format!("{:.2}", f.echo),
            pause(f.seconds_between_attempts_without_token),
            pause(f.seconds_between_attempts_with_token),
            f.reads_dead.to_string(),
            f.reads_refused.to_string(),
        ]
    });
    for row in heads.map(|head| head.map(str::to_owned)).into_iter().chain(rows) {
        for (n, (cell, width)) in
            row.iter().zip([8, 17, 16, 8, 8, 9, 12, 9, 8, 6, 8, 8, 9, 9]).enumerate()
        {
            // Names to the left, numbers to the right.
            let _ = if n == 1 || n == 2 {
                write!(out, " {cell:<width$}")
            } else {
                write!(out, " {cell:>width$}")
            };
        }
        out.push('\n');
    }
    out
}
