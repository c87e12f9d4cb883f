//! What the demo shows, as text: the two lanes side by side, one line of both, and the totals. Pure
//! functions of what happened.

use std::time::Duration;

use crate::cmd::demo::lane::{Kind, Lane, Operation, Tally};
use crate::cmd::demo::tools::Asker;
use crate::demo::Demo;
use crate::secret::{Fingerprint, Secret};
use crate::time::Now;

mod summary;

pub(super) use summary::{Failure, Summary};

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
            Kind::Frozen => ("TOKEN FROZEN AT START", "in the environment, as done today"),
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
        lines.extend(self.failure(width));
        lines
    }

    /// What failed last, in lines of this width.
    fn failure(&self, width: usize) -> Vec<Line> {
        match &self.last_failure {
            None => vec![vec![(Tone::Good, "no failure".to_owned())]],
            Some(said) => wrapped(Tone::Bad, said, width).into_iter().take(MOST_LINES).collect(),
        }
    }
}

/// What screen there is, in characters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) width: usize,
    pub(super) height: usize,
    /// Whether it can show blocks.
    pub(super) blocks: bool,
}

/// The whole screen: the lanes side by side; where there is too little room for that, as the columns of
/// a table; and on the narrowest, one below the other.
pub(super) fn screen(progress: &Progress, notes: &[String], room: Room) -> Vec<Line> {
    let Room { width, height, .. } = room;
    let mut lines = head(progress);
    lines.push(Vec::new());
    let mut foot = vec![Vec::new()];
    foot.extend(notes.iter().flat_map(|note| wrapped(Tone::Dim, note, width)));
    foot.push(vec![(Tone::Dim, "Ctrl-C ends it; nothing is left behind.".to_owned())]);
    let beside = (width >= 2 * MIN_COLUMN + GAP).then(|| beside(progress, room));
    let fits = |body: &Vec<Line>| lines.len() + body.len() + foot.len() <= height;
    lines.extend(match beside.filter(fits) {
        Some(body) => body,
        None if width >= TABLE => table(progress, width),
        None => stacked(progress, room),
    });
    lines.extend(foot);
    if lines.len() > height {
        lines.retain(|line| !line.is_empty());
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

fn head(progress: &Progress) -> Vec<Line> {
    let clock = |time: Duration| format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60);
    let seconds = progress.life.as_secs();
    let moment = clock(progress.elapsed.min(progress.end));
    let about = format!("   tokens live {seconds} s   {moment} of {}", clock(progress.end));
    vec![vec![(Tone::Title, "molecule-tokenfs demo".to_owned()), (Tone::Plain, about)]]
}

fn beside(progress: &Progress, room: Room) -> Vec<Line> {
    let width = ((room.width - GAP) / 2).min(MAX_COLUMN);
    let columns: Vec<_> =
        progress.lanes.iter().map(|lane| lane.column(progress.life, width, room.blocks)).collect();
    let longest = columns.iter().map(Vec::len).max().unwrap_or(0);
    let row = |number: usize| {
        let mut line = Line::new();
        for (place, column) in columns.iter().enumerate() {
            line.push((Tone::Plain, " ".repeat(place * (width + GAP) - length(&line))));
            line.extend(column.get(number).map(|cell| cut(cell, width)).unwrap_or_default());
        }
        line
    };
    (0..longest).map(row).collect()
}

fn stacked(progress: &Progress, room: Room) -> Vec<Line> {
    let mut lines = Vec::new();
    for lane in &progress.lanes {
        let column = lane.column(progress.life, room.width, room.blocks);
        lines.extend(column.into_iter().filter(|line| !line.is_empty()));
        lines.push(Vec::new());
    }
    lines
}

/// The lanes as the columns of a table, for a small screen.
fn table(progress: &Progress, width: usize) -> Vec<Line> {
    let row = |label: &str, cell: &dyn Fn(&LaneView) -> [(Tone, String); 2]| {
        let mut line = vec![(Tone::Plain, format!("{label:<16}"))];
        for lane in &progress.lanes {
            let [(tone, one), (other_tone, other)] = cell(lane);
            line.push((tone, format!("{one:>12}")));
            line.push((other_tone, format!("{other:>8}")));
        }
        line
    };
    // Over both numbers of a lane.
    let wide = |label: &str, tone: Tone, cell: &dyn Fn(&LaneView) -> (Tone, String)| {
        let mut line = vec![(tone, format!("{label:<16}"))];
        let cells = progress.lanes.iter().map(cell);
        line.extend(cells.map(|(tone, text)| (tone, format!("{text:>20}"))));
        line
    };
    let ok = |bad: u64| if bad == 0 { Tone::Good } else { Tone::Bad };
    let plain = |text: String| (Tone::Plain, text);
    let mut lines = vec![
        wide("TOKEN", Tone::Title, &|lane| {
            let from = match lane.kind {
                Kind::Mounted => "FROM THE MOUNT",
                Kind::Frozen => "FROZEN AT START",
            };
            (Tone::Title, from.to_owned())
        }),
        wide("", Tone::Plain, &|lane| plain(lane.token())),
        wide("life", Tone::Plain, &|lane| (ok(lane.dead_for.is_some().into()), lane.life())),
        wide("rotations", Tone::Plain, &|lane| plain(lane.rotations.to_string())),
        row("", &|_| [(Tone::Dim, "worked".to_owned()), (Tone::Dim, "failed".to_owned())]),
    ];
    let operations = progress.lanes.iter().map(|lane| lane.tallies.len()).max().unwrap_or(0);
    for number in 0..operations {
        let tally = |lane: &LaneView| lane.tallies.get(number).copied();
        let label = progress.lanes.first().and_then(tally).map_or("", |(label, _)| label);
        // The one operation that has another name in each lane.
        let label = if label == "cat token" { "read the token" } else { label };
        lines.push(row(label, &|lane| {
            let Tally { worked, failed } = tally(lane).map(|(_, tally)| tally).unwrap_or_default();
            [plain(worked.to_string()), (ok(failed), failed.to_string())]
        }));
    }
    lines.push(row("HTTP ok, 401", &|lane| {
        [plain(lane.accepted.to_string()), (ok(lane.refused), lane.refused.to_string())]
    }));
    for lane in &progress.lanes {
        let name = lane.kind.name();
        lines.extend(match &lane.last_failure {
            None => vec![vec![(Tone::Good, format!("{name}: no failure"))]],
            Some(said) => wrapped(Tone::Bad, &format!("{name}: {said}"), width)
                .into_iter()
                .take(MOST_LINES)
                .collect(),
        });
    }
    lines
}

/// The text in lines of this width, broken between words where there are any.
fn wrapped(tone: Tone, text: &str, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let length = |text: &str| text.chars().count();
    for word in text.split_whitespace() {
        let mut word = word.to_owned();
        if !line.is_empty() && length(&line) + 1 + length(&word) > width {
            lines.push(std::mem::take(&mut line));
        }
        while length(&word) > width.max(1) {
            let rest: String = word.chars().skip(width.max(1)).collect();
            lines.push(word.chars().take(width.max(1)).collect());
            word = rest;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += &word;
    }
    lines.push(line);
    lines.into_iter().map(|line| vec![(tone, line)]).collect()
}

/// The most lines that a failure takes.
const MOST_LINES: usize = 3;

/// What the table needs.
const TABLE: usize = 16 + 2 * 20;

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

    fn room(width: usize, height: usize) -> Room {
        Room { width, height, blocks: false }
    }

    fn text(lines: &[Line]) -> String {
        let join = |line: &Line| line.iter().map(|(_, text)| text.as_str()).collect::<String>();
        lines.iter().map(|line| join(line).trim_end().to_owned() + "\n").collect()
    }

    #[test]
    fn a_wide_screen_shows_the_lanes_side_by_side() {
        let note = ["gh is not installed".to_owned()];
        insta::assert_snapshot!(text(&screen(&progress(0), &note, room(100, 30))));
    }

    #[test]
    fn a_narrow_screen_shows_them_one_below_the_other_and_no_line_is_too_long() {
        for width in [0, 1, 20, 40, 74, 75, 80, 200] {
            let lines = screen(&progress(0), &[], Room { blocks: true, ..room(width, 24) });
            assert!(lines.iter().all(|line| length(line) <= width), "{width}");
        }
        insta::assert_snapshot!(text(&screen(&progress(0), &[], room(40, 24))));
    }

    const NOTES: [&str; 2] = [
        "FUSE serves the mounted token, at /tmp/molecule-demo-01234567/token",
        "gh is not installed, so curl asks in its place: apt-get install gh",
    ];

    #[test]
    fn the_usual_terminal_shows_every_word() {
        let notes = NOTES.map(str::to_owned);
        // The last column is never written to.
        let lines = screen(&progress(0), &notes, room(79, 24));
        assert!(lines.len() <= 24, "{}", lines.len());
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let shown = words(&text(&lines));
        let failure = progress(0).lanes.pop().unwrap().last_failure.unwrap();
        let said = [words(&failure), words("environment, as done today"), words(NOTES[0])].concat();
        for word in said {
            assert!(shown.contains(&word), "{word}: {}", text(&lines));
        }
        insta::assert_snapshot!(text(&lines));
    }

    #[test]
    fn a_small_terminal_shows_both_lanes_and_every_word_too() {
        let lines = screen(&progress(0), &NOTES.map(str::to_owned), room(59, 20));
        assert!(lines.len() <= 20, "{}", lines.len());
        insta::assert_snapshot!(text(&lines));
    }

    #[test]
    fn a_text_is_broken_between_words_and_a_long_word_anywhere() {
        let broken = |text, width| {
            let lines = wrapped(Tone::Plain, text, width);
            lines.iter().map(|line| line[0].1.clone()).collect::<Vec<_>>()
        };
        assert_eq!(broken("one two  three", 7), ["one two", "three"]);
        assert_eq!(broken("a abcdefgh i", 3), ["a", "abc", "def", "gh", "i"]);
        assert_eq!(broken("", 3), [""]);
        assert_eq!(broken("ab", 0), ["a", "b"]);
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
