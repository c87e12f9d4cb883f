//! One lane at one moment: what is known of it, as a column and in a line.

use std::time::Duration;

use super::{Line, MOST_LINES, Tone, bar, count, wrapped};
use crate::cmd::demo::lane::{Kind, Lane, Operation, Tally};
use crate::cmd::demo::tools::Asker;
use crate::demo::Demo;
use crate::demo::ledger::Entry;
use crate::secret::{Fingerprint, Secret};
use crate::time::Now;

/// See the module.
#[derive(Debug, Clone)]
pub(in crate::cmd::demo) struct LaneView {
    pub(super) kind: Kind,
    pub(super) asker: Asker,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) left: Duration,
    pub(super) dead_for: Option<Duration>,
    pub(super) rotations: u64,
    pub(super) tallies: Vec<(Operation, Tally)>,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    /// Refused for a repository that the token is not for.
    pub(super) out_of_scope: u64,
    /// Tokens that the App minted for it.
    pub(super) minted: usize,
    pub(super) last_failure: Option<String>,
}

/// What the lanes and the ledger say now. The ledger knows each token that was presented: those of
/// the frozen lane are its one token's, those for one repository are that lane's, all others the mounted
/// lane's.
pub(in crate::cmd::demo) fn views(
    lanes: &[&Lane],
    demo: &Demo,
    asker: Asker,
    now: &Now,
) -> Vec<LaneView> {
    let counts = demo.ledger().counts();
    let sum = |of: fn(&Entry) -> u64, all: &[Entry]| all.iter().map(of).sum::<u64>();
    let frozen = lanes.iter().find(|lane| lane.kind == Kind::Frozen);
    let frozen = frozen.and_then(|lane| lane.state().token);
    let frozen = frozen.and_then(|token| demo.ledger().entry(token.expose()));
    let frozen: Vec<_> = frozen.into_iter().collect();
    let narrow = demo.ledger().entries_of_scoped();
    let out_of_scope: u64 = counts.services.values().map(|service| service.out_of_scope).sum();
    let live: u64 = counts.services.values().map(|service| service.live).sum();
    let view = |lane: &&Lane| {
        let state = lane.state();
        let entry = state.token.as_ref().and_then(|token| demo.ledger().entry(token.expose()));
        let ends = entry.map_or(Duration::ZERO, |entry| Duration::from_millis(entry.expires_ms));
        let of = |all: &[Entry]| (sum(|it| it.accepted, all), sum(|it| it.refused, all));
        let (accepted, refused) = match lane.kind {
            Kind::Frozen => of(&frozen),
            Kind::Repository => {
                let (accepted, refused) = of(&narrow);
                (accepted, refused.saturating_sub(out_of_scope))
            }
            Kind::Mounted => {
                let (accepted, refused) = of(&[&*frozen, &*narrow].concat());
                (live.saturating_sub(accepted), counts.refused().saturating_sub(refused))
            }
        };
        let is_narrow = lane.kind == Kind::Repository;
        LaneView {
            kind: lane.kind,
            asker,
            fingerprint: state.token.as_ref().map(Secret::fingerprint),
            left: ends.saturating_sub(now.boot),
            dead_for: entry.and_then(|_| now.boot.checked_sub(ends)),
            rotations: state.rotations,
            tallies: lane.kind.operations().iter().map(|&it| (it, state.tally(it))).collect(),
            accepted,
            refused,
            out_of_scope: if is_narrow { out_of_scope } else { 0 },
            minted: if is_narrow { demo.github().minted() } else { 0 },
            last_failure: state.last_failure.clone(),
        }
    };
    lanes.iter().map(view).collect()
}

impl LaneView {
    pub(in crate::cmd::demo) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn tally(&self, operation: Operation) -> Tally {
        let found = self.tallies.iter().find(|(one, _)| *one == operation);
        found.map(|(_, tally)| *tally).unwrap_or_default()
    }

    pub(super) fn total(&self) -> Tally {
        let add = |sum: Tally, (_, one): &(_, Tally)| Tally {
            worked: sum.worked + one.worked,
            failed: sum.failed + one.failed,
        };
        self.tallies.iter().fold(Tally::default(), add)
    }

    pub(super) fn token(&self) -> String {
        self.fingerprint.map_or_else(|| "-".to_owned(), |one| one.to_string())
    }

    pub(super) fn life(&self) -> String {
        match self.dead_for {
            _ if self.fingerprint.is_none() => "no token yet".to_owned(),
            Some(dead) => format!("dead for {} s", dead.as_secs()),
            None => format!("{} s left", self.left.as_secs()),
        }
    }

    pub(super) fn brief(&self) -> String {
        let Tally { worked, failed } = self.total();
        let rotations = match self.kind {
            Kind::Mounted | Kind::Repository => {
                format!(", {}", count(self.rotations, "rotation"))
            }
            Kind::Frozen => String::new(),
        };
        let elsewhere = match self.kind {
            Kind::Mounted | Kind::Frozen => String::new(),
            Kind::Repository => format!(", {} got 404 elsewhere", self.out_of_scope),
        };
        format!(
            "{} {} {}{rotations}, {worked} worked, {failed} failed, {} got 401{elsewhere}",
            self.kind.name(),
            self.token(),
            self.life(),
            self.refused
        )
    }

    /// The lane as a column of this width.
    pub(super) fn column(&self, life: Duration, width: usize, blocks: bool) -> Vec<Line> {
        let (title, about) = match self.kind {
            Kind::Mounted => ("TOKEN FROM THE MOUNT", "read afresh at every use"),
            Kind::Frozen => ("TOKEN FROZEN AT START", "in the environment, as usual"),
            Kind::Repository => ("TOKEN FOR ONE REPOSITORY", "minted when its file is opened"),
        };
        let plain = |text: String| vec![(Tone::Plain, text)];
        let alive = if self.dead_for.is_some() { Tone::Bad } else { Tone::Good };
        let ok = |bad: u64| if bad == 0 { Tone::Good } else { Tone::Bad };
        let bar = bar(self.left, life, width.saturating_sub(24).min(24), blocks);
        let mut lines = vec![
            vec![(Tone::Title, title.to_owned())],
            vec![(Tone::Dim, about.to_owned())],
            Vec::new(),
            vec![
                (Tone::Plain, "life   ".to_owned()),
                (alive, bar),
                (alive, format!("  {}", self.life())),
            ],
            plain(format!("token  {}   {}", self.token(), count(self.rotations, "rotation"))),
            Vec::new(),
            vec![(Tone::Dim, format!("{:<16}{:>7}{:>7}", "", "worked", "failed"))],
        ];
        for (operation, tally) in &self.tallies {
            let label = operation.label(self.kind, self.asker);
            lines.push(vec![
                (Tone::Plain, format!("{label:<16}{:>7}", tally.worked)),
                (ok(tally.failed), format!("{:>7}", tally.failed)),
            ]);
        }
        lines.push(vec![
            (Tone::Plain, format!("{:<16}{:>7}", "HTTP ok, 401", self.accepted)),
            (ok(self.refused), format!("{:>7}", self.refused)),
        ]);
        lines.push(Vec::new());
        lines.extend(self.failure(width));
        lines
    }

    /// What failed last, in lines of this width.
    pub(super) fn failure(&self, width: usize) -> Vec<Line> {
        match &self.last_failure {
            None => vec![vec![(Tone::Good, "no failure".to_owned())]],
            Some(said) => wrapped(Tone::Bad, said, width).into_iter().take(MOST_LINES).collect(),
        }
    }
}
