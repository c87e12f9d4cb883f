//! What the demo shows, as text: the two lanes side by side, one line of both, and the totals. Pure
//! functions of what happened.

use std::fmt;
use std::time::Duration;

use crate::cmd::demo::lane::{Kind, Lane, Operation, Tally};
use crate::cmd::demo::tools::Asker;
use crate::demo::Demo;
use crate::secret::{Fingerprint, Secret};
use crate::time::Now;

/// How a piece of text is meant; colour only underlines what the words say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Title,
    Good,
    Bad,
    Dim,
}

/// A line in pieces.
pub(super) type Line = Vec<(Tone, String)>;

/// One lane at one moment.
#[derive(Debug, Clone)]
pub(super) struct LaneView {
    kind: Kind,
    fingerprint: Option<Fingerprint>,
    left: Duration,
    dead_for: Option<Duration>,
    rotations: u64,
    tallies: Vec<(&'static str, Tally)>,
    accepted: u64,
    refused: u64,
    last_failure: Option<String>,
}

/// Both lanes at one moment.
pub(super) struct Progress {
    pub(super) life: Duration,
    pub(super) elapsed: Duration,
    pub(super) end: Duration,
    pub(super) lanes: Vec<LaneView>,
}

/// What the lanes and the ledger say now. The ledger knows each token that was presented: those of
/// the frozen lane are its one token's, all others the mounted lane's.
pub(super) fn views(lanes: &[Lane; 2], demo: &Demo, asker: Asker, now: &Now) -> Vec<LaneView> {
    let counts = demo.ledger().counts();
    let frozen_token = lanes.iter().find(|lane| lane.kind == Kind::Frozen);
    let frozen_token = frozen_token.and_then(|lane| lane.state().token);
    let frozen = frozen_token.and_then(|token| demo.ledger().entry(token.expose()));
    let (accepted, refused) = frozen.map_or((0, 0), |entry| (entry.accepted, entry.refused));
    let live: u64 = counts.services.values().map(|service| service.live).sum();
    let view = |lane: &Lane| {
        let state = lane.state();
        let entry = state.token.as_ref().and_then(|token| demo.ledger().entry(token.expose()));
        let ends = entry.map_or(Duration::ZERO, |entry| Duration::from_millis(entry.expires_ms));
        let tally = |one: Operation| (one.label(lane.kind, asker), state.tally(one));
        let (accepted, refused) = match lane.kind {
            Kind::Frozen => (accepted, refused),
            Kind::Mounted => {
                (live.saturating_sub(accepted), counts.refused().saturating_sub(refused))
            }
        };
        LaneView {
            kind: lane.kind,
            fingerprint: state.token.as_ref().map(Secret::fingerprint),
            left: ends.saturating_sub(now.boot),
            dead_for: entry.and_then(|_| now.boot.checked_sub(ends)),
            rotations: state.rotations,
            tallies: Operation::ALL.map(tally).into(),
            accepted,
            refused,
            last_failure: state.last_failure.clone(),
        }
    };
    lanes.iter().map(view).collect()
}

impl LaneView {
    fn total(&self) -> Tally {
        let add = |sum: Tally, (_, one): &(_, Tally)| Tally {
            worked: sum.worked + one.worked,
            failed: sum.failed + one.failed,
        };
        self.tallies.iter().fold(Tally::default(), add)
    }

    fn token(&self) -> String {
        self.fingerprint.map_or_else(|| "-".to_owned(), |one| one.to_string())
    }

    fn life(&self) -> String {
        match self.dead_for {
            _ if self.fingerprint.is_none() => "no token yet".to_owned(),
            Some(dead) => format!("dead for {} s", dead.as_secs()),
            None => format!("{} s left", self.left.as_secs()),
        }
    }

    fn brief(&self) -> String {
        let Tally { worked, failed } = self.total();
        let rotations = match self.kind {
            Kind::Mounted => format!(", {}", count(self.rotations, "rotation")),
            Kind::Frozen => String::new(),
        };
        format!(
            "{} {} {}{rotations}, {worked} worked, {failed} failed, {} got 401",
            self.kind.name(),
            self.token(),
            self.life(),
            self.refused
        )
    }

    /// The lane as a column of this width.
    fn column(&self, life: Duration, width: usize, blocks: bool) -> Vec<Line> {
        let (title, about) = match self.kind {
            Kind::Mounted => ("TOKEN FROM THE MOUNT", "read afresh at every use"),
            Kind::Frozen => ("TOKEN FROZEN AT START", "in the environment, as it is done today"),
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
            vec![(Tone::Dim, format!("{:<18}{:>8}{:>8}", "", "worked", "failed"))],
        ];
        for (label, tally) in &self.tallies {
            lines.push(vec![
                (Tone::Plain, format!("{label:<18}{:>8}", tally.worked)),
                (ok(tally.failed), format!("{:>8}", tally.failed)),
            ]);
        }
        lines.push(vec![
            (Tone::Plain, format!("{:<18}{:>8}", "HTTP ok, 401", self.accepted)),
            (ok(self.refused), format!("{:>8}", self.refused)),
        ]);
        lines.push(Vec::new());
        lines.push(match &self.last_failure {
            None => vec![(Tone::Good, "no failure".to_owned())],
            Some(said) => vec![(Tone::Bad, said.clone())],
        });
        lines
    }
}

/// The whole screen, `width` wide: the lanes side by side where there is room, else one below the
/// other.
pub(super) fn screen(
    progress: &Progress,
    notes: &[String],
    width: usize,
    blocks: bool,
) -> Vec<Line> {
    let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let seconds = progress.life.as_secs();
    let mut lines = vec![
        vec![
            (Tone::Title, "molecule-tokenfs demo".to_owned()),
            (
                Tone::Plain,
                format!(
                    "   tokens live {seconds} s   {} of {}",
                    clock(progress.elapsed.min(progress.end)),
                    clock(progress.end)
                ),
            ),
        ],
        Vec::new(),
    ];
    let beside = width >= 2 * MIN_COLUMN + GAP;
    let column_width = if beside { ((width - GAP) / 2).min(MAX_COLUMN) } else { width };
    let columns: Vec<Vec<Line>> = progress
        .lanes
        .iter()
        .map(|lane| lane.column(progress.life, column_width, blocks))
        .collect();
    if let (true, [left, right]) = (beside, columns.as_slice()) {
        for (left, right) in left.iter().zip(right) {
            let mut line = cut(left, column_width);
            line.push((Tone::Plain, " ".repeat(column_width + GAP - length(&line))));
            line.extend(cut(right, column_width));
            lines.push(line);
        }
    } else {
        for column in columns {
            lines.extend(column.into_iter().filter(|line| !line.is_empty()));
            lines.push(Vec::new());
        }
    }
    lines.push(Vec::new());
    lines.extend(notes.iter().map(|note| vec![(Tone::Dim, note.clone())]));
    lines.push(vec![(Tone::Dim, "Ctrl-C ends it; nothing is left behind.".to_owned())]);
    lines.iter().map(|line| cut(line, width)).collect()
}

/// The narrowest column that holds a lane's numbers, and the widest that still reads as one.
const MIN_COLUMN: usize = 36;
const MAX_COLUMN: usize = 52;
const GAP: usize = 3;

/// Both lanes in one line.
pub(super) fn one_line(progress: &Progress) -> String {
    let lanes: Vec<String> = progress.lanes.iter().map(LaneView::brief).collect();
    format!("{:>4} s  {}", progress.elapsed.as_secs(), lanes.join("  |  "))
}

/// Something that is worth a line of its own changes when this does.
pub(super) fn landmarks(progress: &Progress) -> Vec<(u64, bool, bool)> {
    let of = |lane: &LaneView| (lane.rotations, lane.dead_for.is_some(), lane.total().failed > 0);
    progress.lanes.iter().map(of).collect()
}

fn bar(left: Duration, life: Duration, width: usize, blocks: bool) -> String {
    let (full, empty) = if blocks { ("█", "░") } else { ("#", ".") };
    // Rounded up: anything that is left shows.
    let filled = (left.as_millis() * width as u128).div_ceil(life.as_millis().max(1));
    let filled = usize::try_from(filled).map_or(width, |filled| filled.min(width));
    format!("{}{}", full.repeat(filled), empty.repeat(width - filled))
}

fn length(line: &Line) -> usize {
    line.iter().map(|(_, text)| text.chars().count()).sum()
}

/// The line, cut to `width` characters.
fn cut(line: &Line, width: usize) -> Line {
    let mut room = width;
    let mut shorter = Line::new();
    for (tone, text) in line {
        let piece: String = text.chars().take(room).collect();
        room -= piece.chars().count();
        shorter.push((*tone, piece));
    }
    shorter
}

fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The totals at the end.
pub(super) struct Summary {
    elapsed: Duration,
    life: Duration,
    lanes: Vec<LaneView>,
    issued: u64,
}

/// Why a demo showed the opposite of what it should.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Something of the mounted lane failed.
    Requests { failed: u64, refused: u64 },
    /// The mounted lane's token did not rotate as often as lives went by.
    Rotations { seen: u64, expected: u64 },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests { failed, refused } => write!(
                f,
                "with the mounted token {} failed, and {refused} of its requests got 401",
                count(*failed, "operation")
            ),
            Self::Rotations { seen, expected } => {
                write!(f, "the mounted token rotated {seen} times instead of {expected}")
            }
        }
    }
}

impl Summary {
    pub(super) fn of(progress: &Progress, issued: u64) -> Self {
        Self {
            elapsed: progress.elapsed,
            life: progress.life,
            lanes: progress.lanes.clone(),
            issued,
        }
    }

    /// Whether the mounted lane did without a failure what it should: rotate once a lifetime.
    pub(super) fn verdict(&self, lifetimes: u32) -> Result<(), Failure> {
        for lane in self.lanes.iter().filter(|lane| lane.kind == Kind::Mounted) {
            let (failed, refused) = (lane.total().failed, lane.refused);
            if failed + refused > 0 {
                return Err(Failure::Requests { failed, refused });
            }
            let expected = u64::from(lifetimes.saturating_sub(1)).max(1);
            if lane.rotations < expected {
                return Err(Failure::Rotations { seen: lane.rotations, expected });
            }
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} s, tokens that live {} s, {} issued",
            self.elapsed.as_secs(),
            self.life.as_secs(),
            self.issued
        )?;
        let totals = self.lanes.iter().map(|lane| {
            let Tally { worked, failed } = lane.total();
            format!(
                "{} token: {}, {worked} worked, {failed} failed, {} of {} requests got 401",
                lane.kind.name(),
                count(lane.rotations, "rotation"),
                lane.refused,
                lane.accepted + lane.refused
            )
        });
        writeln!(f, "{}", totals.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(kind: Kind, failed: u64, refused: u64) -> LaneView {
        let dead_for = (failed > 0).then_some(Duration::from_secs(7));
        let tally = Tally { worked: 12, failed };
        LaneView {
            kind,
            fingerprint: Some(Fingerprint::of(kind.name().as_bytes())),
            left: if failed > 0 { Duration::ZERO } else { Duration::from_secs(13) },
            dead_for,
            rotations: if kind == Kind::Mounted { 2 } else { 0 },
            tallies: Operation::ALL.map(|one| (one.label(kind, Asker::Gh), tally)).into(),
            accepted: 40,
            refused,
            last_failure: (failed > 0)
                .then(|| "fatal: Authentication failed for 'http://127.0.0.1:1/'".to_owned()),
        }
    }

    fn progress(ours_failed: u64) -> Progress {
        Progress {
            life: Duration::from_secs(20),
            elapsed: Duration::from_secs(27),
            end: Duration::from_mins(1),
            lanes: vec![lane(Kind::Mounted, ours_failed, 0), lane(Kind::Frozen, 4, 9)],
        }
    }

    fn text(lines: &[Line]) -> String {
        let join = |line: &Line| line.iter().map(|(_, text)| text.as_str()).collect::<String>();
        lines.iter().map(|line| join(line).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_wide_screen_shows_the_lanes_side_by_side() {
        let note = ["gh is not installed".to_owned()];
        insta::assert_snapshot!(text(&screen(&progress(0), &note, 100, false)));
    }

    #[test]
    fn a_narrow_screen_shows_them_one_below_the_other_and_no_line_is_too_long() {
        for width in [0, 1, 20, 40, 74, 75, 80, 200] {
            let lines = screen(&progress(0), &[], width, true);
            assert!(lines.iter().all(|line| length(line) <= width), "{width}");
        }
        insta::assert_snapshot!(text(&screen(&progress(0), &[], 40, false)));
    }

    #[test]
    fn the_totals_of_both_are_one_last_line() {
        let summary = Summary::of(&progress(0), 5).to_string();
        let last = summary.lines().last().unwrap();
        assert_eq!(
            last,
            "mounted token: 2 rotations, 48 worked, 0 failed, 0 of 40 requests got 401; \
             frozen token: 0 rotations, 48 worked, 16 failed, 9 of 49 requests got 401"
        );
    }

    #[test]
    fn a_failure_of_ours_or_a_token_that_stands_still_fails_the_demo() {
        let verdict = |failed, lifetimes| Summary::of(&progress(failed), 5).verdict(lifetimes);
        assert_eq!(verdict(0, 3), Ok(()));
        assert_eq!(verdict(0, 4), Err(Failure::Rotations { seen: 2, expected: 3 }));
        assert_eq!(verdict(1, 3), Err(Failure::Requests { failed: 4, refused: 0 }));
    }

    #[test]
    fn a_bar_is_full_at_the_start_and_empty_only_at_the_end() {
        let life = Duration::from_secs(20);
        assert_eq!(bar(life, life, 4, false), "####");
        assert_eq!(bar(Duration::from_millis(1), life, 4, false), "#...");
        assert_eq!(bar(Duration::ZERO, life, 4, false), "....");
    }
}
