//! Programs that read, copy, list and search the whole mount in loops while tokens rotate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use molecule_tokenfs::view;
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::limit::Adopt;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, User, command, run};
use crate::support::{millis, secs};
use crate::{Seen, evidence, generation, read, report, rotating, status};

/// The longest that one run of a program may take: it would hang.
const HANGS: Duration = secs(60);

/// One program: how it runs once, with `MOUNT` and an empty `WORK` of its own.
struct Program {
    name: &'static str,
    script: &'static str,
    /// What it may print to standard error, each line ending so, with exit code 1: it looks at a file
    /// twice, and says that it was replaced in between, as it would of any file.
    may_say: &'static [&'static str],
    /// Whether it leaves a copy of the mount in `WORK/copy`.
    copies: bool,
}

impl Program {
    const fn looks(name: &'static str, script: &'static str) -> Self {
        Self { name, script, may_say: &[], copies: false }
    }

    const fn copies(name: &'static str, script: &'static str) -> Self {
        Self { name, script, may_say: &[], copies: true }
    }
}

/// Every made-up token is longer than these 12 bytes, so the file never ends earlier than fio was told.
/// With each loop the file is opened again.
macro_rules! fio {
    ($engine:literal, $views:literal) => {
        Program::looks(
            concat!("fio ", $engine),
            concat!(
                "for view in ",
                $views,
                "; do fio --readonly --name=x --rw=randread --size=12 --bs=4 --loops=50 \
                 --output=/dev/null --ioengine=",
                $engine,
                r#" --filename="$MOUNT/$view"; done"#
            ),
        )
    };
}

const PROGRAMS: &[Program] = &[
    fio!("sync", "token live/token"),
    fio!("vsync", "token live/token"),
    fio!("pvsync2", "token live/token"),
    // What a live view shows belongs to a handle: it has no pages that could be shared.
    fio!("mmap", "token"),
    fio!("splice", "token live/token"),
    fio!("libaio", "token live/token"),
    fio!("io_uring", "token live/token"),
    Program {
        may_say: &[": file changed as we read it", "; padding with zeros"],
        ..Program::copies(
            "tar",
            r#"mkdir "$WORK/copy"; code=0; tar -C "$MOUNT" -cf "$WORK/tar" . || code=$?
               tar -C "$WORK/copy" -xf "$WORK/tar"; exit "$code""#,
        )
    },
    Program::copies("rsync", r#"rsync -a "$MOUNT/" "$WORK/copy/""#),
    Program {
        may_say: &[", as it was replaced while being copied"],
        ..Program::copies("cp", r#"cp -a "$MOUNT" "$WORK/copy""#)
    },
    Program::looks("find", r#"find "$MOUNT" -ls; find "$MOUNT" -type f -exec cat {} +"#),
    Program::looks("grep", r#"grep -r ghs_ "$MOUNT""#),
    Program::looks("du", r#"du -a "$MOUNT""#),
    Program::looks("ls", r#"ls -lR "$MOUNT""#),
];

/// How the runs of a program went.
#[derive(Default)]
struct Tally {
    runs: u64,
    /// Runs in which it said what it may say.
    said: u64,
    wrong: Vec<String>,
}

impl Program {
    fn run(&self, mountpoint: &Path, dir: &TestDir, tally: &mut Tally) {
        let work = dir.folder(&format!("work/{}", self.name.replace(' ', "-")));
        let mut shell = command("sh", User::Own);
        shell.args(["-ec", self.script]).current_dir(&work);
        shell.env("MOUNT", mountpoint).env("WORK", &work);
        let finished = run(shell, dir, HANGS);
        tally.runs += 1;
        let excused = match self.judge(&finished) {
            Ok(excused) => excused,
            Err(wrong) => return tally.wrong.push(format!("{}: {wrong}", self.name)),
        };
        tally.said += u64::from(!excused.is_empty());
        if self.copies {
            for view in view::ALL.iter().map(|view| view.path()) {
                for name in [view.to_owned(), format!("live/{view}")] {
                    let bytes = std::fs::read(work.join("copy").join(&name)).unwrap_or_default();
                    let is_excused = excused.iter().any(|line| line.contains(&name));
                    if !is_excused && !is_whole(view, &bytes) {
                        tally.wrong.push(format!("{}: its {name} is not whole", self.name));
                    }
                }
            }
        }
        std::fs::remove_dir_all(&work).expect("its directory");
    }

    /// The lines that it may say, or what is wrong.
    fn judge<'a>(&self, finished: &'a Finished) -> Result<Vec<&'a str>, String> {
        let is_excuse = |line: &&str| self.may_say.iter().any(|end| line.ends_with(end));
        let lines: Vec<_> = finished.stderr.lines().collect();
        let excuses: Vec<_> = lines.iter().copied().filter(is_excuse).collect();
        let code = i32::from(!excuses.is_empty());
        if finished.status.code() == Some(code) && excuses.len() == lines.len() {
            return Ok(excuses);
        }
        Err(format!("{}: {}", finished.status, finished.stderr))
    }
}

/// Whether a copy of a view has whole made-up tokens in it, the same everywhere, or a time.
fn is_whole(view: &str, bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let is_of_token = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let tokens: Vec<_> =
        text.split(|letter| !is_of_token(letter)).filter(|word| word.starts_with("ghs_")).collect();
    match view {
        "expires_at" => text.trim_end().parse::<jiff::Timestamp>().is_ok(),
        "gh/config.yml" => text.contains("version:"),
        _ => tokens.first().is_some_and(|first| {
            let seen = Seen { size: bytes.len() as u64, bytes: first.as_bytes().to_vec() };
            seen.is_whole() && tokens.iter().all(|token| token == first)
        }),
    }
}

/// What readers of ours saw.
#[derive(Default)]
struct Readers {
    opens: u64,
    size_differences: u64,
    torn: u64,
    errors: Vec<String>,
}

/// Opens each view by both of its paths, in turn.
fn keep_reading(daemon: &Daemon, stop: &AtomicBool) -> Readers {
    let mut seen = Readers::default();
    let paths: Vec<(&str, PathBuf)> = view::ALL
        .iter()
        .map(|view| view.path())
        .flat_map(|view| [(view, daemon.path(view)), (view, daemon.path("live").join(view))])
        .collect();
    for (view, path) in paths.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return seen;
        }
        seen.opens += 1;
        match read(path) {
            Ok(read) => {
                seen.size_differences += u64::from(read.differs());
                seen.torn += u64::from(!is_whole(view, &read.bytes));
            }
            Err(error) => seen.errors.push(format!("{}: {error}", path.display())),
        }
    }
    seen
}

#[test]
fn programs_that_read_copy_list_and_search_the_mount_notice_no_rotation() {
    // The first one by the life of its tokens.
    let (intervals, each): (&[&str], _) = match evidence() {
        Some(_) => (&["1h", "200ms", "60ms"], secs(40)),
        None => (&["60ms"], secs(4)),
    };
    sandboxed(secs(600), move || {
        let phases: Vec<_> = intervals.iter().map(|interval| phase(interval, each)).collect();
        report(&json!({ "phases": phases }));
    });
}

fn phase(interval: &str, time: Duration) -> serde_json::Value {
    let dir = TestDir::new();
    let daemon = rotating(&dir, interval).log_level("info").start();
    read(&daemon.path("token")).expect("a first token");
    let first_worker = daemon.worker();
    let stop = AtomicBool::new(false);
    let test = Adopt::here();
    let (tallies, readers) = thread::scope(|scope| {
        let programs: Vec<_> = PROGRAMS
            .iter()
            .map(|program| {
                let (test, dir, daemon, stop) = (test.clone(), &dir, &daemon, &stop);
                scope.spawn(move || {
                    test.enter();
                    let mut tally = Tally::default();
                    while !stop.load(Ordering::Relaxed) && tally.wrong.is_empty() {
                        program.run(daemon.mountpoint(), dir, &mut tally);
                        // Else two cores would do nothing but start programs.
                        thread::sleep(millis(50));
                    }
                    (program.name, tally)
                })
            })
            .collect();
        let readers: Vec<_> =
            (0..2).map(|_| scope.spawn(|| keep_reading(&daemon, &stop))).collect();
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        let tallies: Vec<_> =
            programs.into_iter().map(|thread| thread.join().expect("a loop")).collect();
        let readers: Vec<_> =
            readers.into_iter().map(|thread| thread.join().expect("a reader")).collect();
        (tallies, readers)
    });

    let runs: BTreeMap<_, _> = tallies.iter().map(|(name, tally)| (*name, tally.runs)).collect();
    let said: u64 = tallies.iter().map(|(_, tally)| tally.said).sum();
    let wrong: Vec<_> = tallies.iter().flat_map(|(_, tally)| &tally.wrong).collect();
    let errors: Vec<_> = readers.iter().flat_map(|reader| &reader.errors).collect();
    let sum = |count: fn(&Readers) -> u64| readers.iter().map(count).sum::<u64>();
    let figures = json!({
        "refresh_interval": interval,
        "rotations": generation(&daemon),
        "runs": runs,
        "runs_in_which_tar_or_cp_saw_a_file_replaced": said,
        "failed_runs": wrong.len(),
        "opens_by_readers": sum(|reader| reader.opens),
        "errors_of_readers": errors.len(),
        "size_differences": sum(|reader| reader.size_differences),
        "torn": sum(|reader| reader.torn),
        "refused_by_the_daemon": status(&daemon)["tokens"][0]["refusals"],
    });
    println!("{figures:#}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(errors.is_empty(), "{errors:#?}");
    assert_eq!((&figures["size_differences"], &figures["torn"]), (&json!(0), &json!(0)));
    let refusals = figures["refused_by_the_daemon"].as_object().expect("refusals");
    assert!(refusals.values().all(|number| *number == 0), "{refusals:?}");
    assert_eq!(daemon.worker(), first_worker, "the worker that began\n{}", daemon.log());
    assert!(runs.values().all(|runs| *runs > 0), "{runs:?}");
    figures
}
