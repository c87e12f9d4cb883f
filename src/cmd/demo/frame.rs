//! What the demo shows, as text: the lanes side by side, one line of all, and the totals. Pure functions
//! of what happened.

use std::time::Duration;

use crate::cmd::demo::lane::{Kind, Operation, Tally};

mod summary;
mod view;

pub(super) use summary::{Failure, Summary};
pub(super) use view::{LaneView, views};

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

/// The lanes at one moment.
pub(super) struct Progress {
    pub(super) life: Duration,
    pub(super) elapsed: Duration,
    pub(super) end: Duration,
    pub(super) lanes: Vec<LaneView>,
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
/// a table; and on the narrowest, in sentences.
pub(super) fn screen(progress: &Progress, notes: &[String], room: Room) -> Vec<Line> {
    let Room { width, height, .. } = room;
    let mut lines = head(progress);
    lines.push(Vec::new());
    let mut foot = vec![Vec::new()];
    foot.extend(notes.iter().flat_map(|note| wrapped(Tone::Dim, note, width)));
    foot.push(vec![(Tone::Dim, "Ctrl-C ends it; nothing is left behind.".to_owned())]);
    let number = progress.lanes.len();
    let beside = (width >= number * (MIN_COLUMN + GAP) - GAP).then(|| beside(progress, room));
    let fits = |body: &Vec<Line>| lines.len() + body.len() + foot.len() <= height;
    lines.extend(match beside.filter(fits) {
        Some(body) => body,
        None if width >= LABEL + number * SMALL_CELL => table(progress, width),
        None => briefly(progress, width),
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
    let number = progress.lanes.len().max(1);
    let width = ((room.width + GAP) / number).saturating_sub(GAP).min(MAX_COLUMN);
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

/// The lanes in sentences, for the smallest screen.
fn briefly(progress: &Progress, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for lane in &progress.lanes {
        lines.extend(wrapped(Tone::Plain, &lane.brief(), width));
        lines.extend(lane.failure(width));
        lines.push(Vec::new());
    }
    lines
}

/// The lanes as the columns of a table, for a small screen.
fn table(progress: &Progress, width: usize) -> Vec<Line> {
    let wide = LABEL + progress.lanes.len() * CELL;
    let cell = if width >= wide { CELL } else { SMALL_CELL };
    // Over both numbers of a lane.
    let row = |label: &str, text: &dyn Fn(&LaneView) -> (Tone, String)| {
        let mut line = vec![(Tone::Plain, format!("{label:<LABEL$}"))];
        let cells = progress.lanes.iter().map(text);
        line.extend(cells.map(|(tone, text)| (tone, format!("{text:>cell$}"))));
        line
    };
    let pairs = |label: &str, pair: &dyn Fn(&LaneView) -> [(Tone, String); 2]| {
        let mut line = vec![(Tone::Plain, format!("{label:<LABEL$}"))];
        for [(tone, one), (other_tone, other)] in progress.lanes.iter().map(pair) {
            line.push((tone, format!("{one:>0$}", cell - PAIR)));
            line.push((other_tone, format!("{other:>PAIR$}")));
        }
        line
    };
    let ok = |bad: u64| if bad == 0 { Tone::Good } else { Tone::Bad };
    let plain = |text: String| (Tone::Plain, text);
    let mut lines = vec![
        row("TOKEN", &|lane| {
            let from = match lane.kind {
                Kind::Mounted => "FROM THE MOUNT",
                Kind::Frozen => "FROZEN",
                Kind::Repository => "ONE REPOSITORY",
            };
            (Tone::Title, from.to_owned())
        }),
        row("", &|lane| plain(lane.token())),
        row("life", &|lane| (ok(lane.dead_for.is_some().into()), lane.life())),
        row("rotations", &|lane| plain(lane.rotations.to_string())),
        pairs("", &|_| [(Tone::Dim, "worked".to_owned()), (Tone::Dim, "failed".to_owned())]),
    ];
    for operation in Operation::ALL {
        let tally = |lane: &LaneView| {
            lane.tallies.iter().find(|(one, _)| *one == operation).map(|(_, tally)| *tally)
        };
        let Some(asker) = progress.lanes.iter().find(|it| tally(it).is_some()).map(|it| it.asker)
        else {
            continue;
        };
        lines.push(pairs(operation.short(asker), &|lane| match tally(lane) {
            Some(Tally { worked, failed }) => {
                [plain(worked.to_string()), (ok(failed), failed.to_string())]
            }
            None => [plain("-".to_owned()), plain("-".to_owned())],
        }));
    }
    lines.push(pairs("HTTP ok, 401", &|lane| {
        [plain(lane.accepted.to_string()), (ok(lane.refused), lane.refused.to_string())]
    }));
    let (failed, good): (Vec<_>, Vec<_>) =
        progress.lanes.iter().partition(|lane| lane.last_failure.is_some());
    if !good.is_empty() {
        let names: Vec<_> = good.iter().map(|lane| lane.kind.name()).collect();
        lines.push(vec![(Tone::Good, format!("{}: no failure", names.join(", ")))]);
    }
    for lane in failed {
        let said = lane.last_failure.as_deref().unwrap_or_default();
        let said = format!("{}: {said}", lane.kind.name());
        lines.extend(wrapped(Tone::Bad, &said, width).into_iter().take(MOST_LINES));
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

/// What the table needs: its labels, a lane in two widths, and of that the second number.
const LABEL: usize = 14;
const CELL: usize = 20;
const SMALL_CELL: usize = 15;
const PAIR: usize = 7;

/// The narrowest column that holds a lane's numbers, and the widest that still reads as one.
const MIN_COLUMN: usize = 31;
const MAX_COLUMN: usize = 52;
const GAP: usize = 3;

/// All lanes in one line.
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
    use crate::cmd::demo::tools::Asker;
    use crate::secret::Fingerprint;

    fn lane(kind: Kind, failed: u64, refused: u64) -> LaneView {
        let dead_for = (failed > 0).then_some(Duration::from_secs(7));
        let tally = Tally { worked: 12, failed };
        LaneView {
            kind,
            fingerprint: Some(Fingerprint::of(kind.name().as_bytes())),
            left: if failed > 0 { Duration::ZERO } else { Duration::from_secs(13) },
            dead_for,
            asker: Asker::Gh,
            rotations: if kind == Kind::Frozen { 0 } else { 2 },
            tallies: kind.operations().iter().map(|&one| (one, tally)).collect(),
            accepted: 40,
            refused,
            out_of_scope: if kind == Kind::Repository { 12 } else { 0 },
            minted: if kind == Kind::Repository { 3 } else { 0 },
            last_failure: (failed > 0)
                .then(|| "fatal: Authentication failed for 'http://127.0.0.1:1/'".to_owned()),
        }
    }

    fn progress(ours_failed: u64) -> Progress {
        Progress {
            life: Duration::from_secs(20),
            elapsed: Duration::from_secs(27),
            end: Duration::from_mins(1),
            lanes: vec![
                lane(Kind::Mounted, ours_failed, 0),
                lane(Kind::Frozen, 4, 9),
                lane(Kind::Repository, 0, 0),
            ],
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
    fn a_narrow_screen_tells_of_them_in_sentences_and_no_line_is_too_long() {
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
        let failure = progress(0).lanes.swap_remove(1).last_failure.unwrap();
        let said = [words(&failure), words("FROZEN ONE REPOSITORY other repo"), words(NOTES[0])];
        let said = said.concat();
        for word in said {
            assert!(shown.contains(&word), "{word}: {}", text(&lines));
        }
        insta::assert_snapshot!(text(&lines));
    }

    #[test]
    fn a_small_terminal_shows_all_lanes_and_every_word_too() {
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
    fn where_there_is_no_third_lane_the_others_have_its_room() {
        let mut two = progress(0);
        two.lanes.truncate(2);
        assert!(text(&screen(&two, &[], room(79, 24))).contains("TOKEN FROZEN AT START"));
        assert!(!Summary::of(&two, 5).to_string().contains("acme"));
        assert_eq!(Summary::of(&two, 5).verdict(3), Ok(()));
    }

    #[test]
    fn the_totals_of_the_first_two_are_one_last_line_after_that_of_the_third() {
        let summary = Summary::of(&progress(0), 5).to_string();
        let [.., narrow, last] = *summary.lines().collect::<Vec<_>>() else { panic!("{summary}") };
        let fingerprint = Fingerprint::of(b"repository");
        assert_eq!(
            narrow,
            format!(
                "token for acme/web alone ({fingerprint}): 12 opens, 3 minted, 48 worked, 0 failed, \
                 0 got 401; 12 requests got 404 for acme/api, as they should"
            )
        );
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
    fn a_token_that_another_repository_takes_or_that_none_was_asked_with_fails_the_demo() {
        let verdict = |narrow: LaneView| {
            let mut progress = progress(0);
            progress.lanes[2] = narrow;
            Summary::of(&progress, 5).verdict(3)
        };
        let good = lane(Kind::Repository, 0, 0);
        assert_eq!(verdict(good.clone()), Ok(()));
        assert_eq!(verdict(LaneView { out_of_scope: 0, ..good }), Err(Failure::Untried));
        let failed = Failure::Repository { failed: 5, refused: 2 };
        assert_eq!(verdict(lane(Kind::Repository, 1, 2)), Err(failed));
    }

    #[test]
    fn a_bar_is_full_at_the_start_and_empty_only_at_the_end() {
        let life = Duration::from_secs(20);
        assert_eq!(bar(life, life, 4, false), "####");
        assert_eq!(bar(Duration::from_millis(1), life, 4, false), "#...");
        assert_eq!(bar(Duration::ZERO, life, 4, false), "....");
    }
}
