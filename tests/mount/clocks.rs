//! Clocks that stand still, jump, or are wrong: what a process, a machine or a platform can do to
//! time between two opens.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::{Ledger, Verdict};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::errno::Errno;

use crate::Workspace;
use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::wall_clock::WallClock;
use crate::support::{eventually, millis, secs};

/// Tokens that live for up to four seconds.
const LIFE: Duration = secs(4);

const HOUR: i64 = 3600;

/// A workspace whose daemon has a wall clock of its own, on the right time.
fn with_clock(setup: Setup) -> (Workspace, WallClock) {
    let dir = TestDir::new();
    let clock = WallClock::new(&dir);
    let demo = Demo::start(setup).expect("the demo platform starts");
    demo.register(&dir.join("configs")).expect("the workspace registers");
    let mut daemon = Daemon::at(&dir)
        .env("PLATFORM_URL", demo.url())
        .env("WORKSPACE_ID", &demo.address().workspace_id);
    for (name, value) in clock.environment() {
        daemon = daemon.env(name, value);
    }
    (Workspace { daemon: daemon.start(), demo, dir }, clock)
}

/// Reads a token and asks its issuer about it at once.
fn read_live(path: &Path, ledger: &Ledger) -> Vec<u8> {
    let token = fs::read(path).expect("an open gets a token");
    assert_eq!(ledger.verdict(&token), Verdict::Live, "{} gives a dead token", path.display());
    token
}

/// Reads until the time is up; a dead token, or a refusal, ends the test.
#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn keep_reading(workspace: &Workspace, time: Duration) -> usize {
    let mut tokens = std::collections::HashSet::new();
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        tokens.insert(read_live(&workspace.path("token"), workspace.demo.ledger()));
    }
    tokens.len()
}

/// What the daemon takes for the time, in seconds since the epoch.
fn daemons_time(workspace: &Workspace) -> i64 {
    let written_at = workspace.status()["written_at"].as_str().unwrap().to_owned();
    written_at.parse::<jiff::Timestamp>().unwrap().as_second()
}

#[test]
fn after_a_stop_longer_than_its_life_no_open_gives_the_dead_token() {
    sandboxed(secs(30), || {
        let workspace = Workspace::start(Setup::with_life(LIFE));
        let (path, ledger) = (workspace.path("token"), workspace.demo.ledger());
        let before = read_live(&path, ledger);
        let paused = workspace.daemon.pause();
        let waiting = thread::spawn({
            let path = path.clone();
            move || fs::read(path)
        });
        eventually("the token is dead", secs(10), || {
            (ledger.verdict(&before) == Verdict::Dead).then_some(())
        });
        drop(paused);
        read_live(&path, ledger);
        // It had asked before the token died; it is answered after.
        let waited = waiting.join().unwrap().expect("an open gets a token");
        assert_eq!(ledger.verdict(&waited), Verdict::Live);
    });
}

#[test]
fn an_hour_forward_and_back_gives_no_dead_token_and_keeps_none_alive() {
    sandboxed(secs(40), || {
        let (workspace, clock) = with_clock(Setup::with_life(LIFE));
        let (path, ledger) = (workspace.path("token"), workspace.demo.ledger());
        let right = daemons_time(&workspace);
        let first = read_live(&path, ledger);

        clock.set_ahead(HOUR);
        let second = read_live(&path, ledger);
        assert_ne!(second, first, "what may be an hour old is not served");
        assert!(daemons_time(&workspace) >= right + HOUR, "the clock was set");

        // Now the wall clock says that the token was issued in the future, and will live for an hour.
        clock.set_ahead(0);
        read_live(&path, ledger);
        assert!(daemons_time(&workspace) < right + HOUR);
        assert!(keep_reading(&workspace, LIFE + secs(1)) >= 2, "the boot clock ends its life");

        clock.set_ahead(-HOUR);
        read_live(&path, ledger);
        let paused = workspace.daemon.pause();
        thread::sleep(LIFE);
        drop(paused);
        read_live(&path, ledger);
    });
}

#[test]
fn a_clock_that_is_set_moves_the_expiry_that_views_show_without_a_fetch() {
    sandboxed(secs(30), || {
        let (workspace, clock) = with_clock(Setup::default());
        let token = fs::read(workspace.path("token")).unwrap();
        let expires_at = || {
            let text = fs::read_to_string(workspace.path("expires_at")).unwrap();
            text.trim().parse::<jiff::Timestamp>().unwrap().as_second()
        };
        let before = expires_at();
        clock.set_ahead(-HOUR);
        // Nobody asks: the daemon is told, and tells whoever watches the file.
        eventually("the expiry follows the clock", secs(5), || {
            let moved = before - expires_at();
            ((HOUR - 2..=HOUR + 2).contains(&moved)).then_some(())
        });
        assert_eq!(fs::read(workspace.path("token")).unwrap(), token);
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 1);
    });
}

/// How far, in seconds, the platform's clock is off in the tests below.
const OFF: i64 = 600;

/// What `status.json` says of the token.
fn fact(workspace: &Workspace, key: &str) -> serde_json::Value {
    workspace.status()["tokens"][0][key].clone()
}

#[test]
fn a_platform_clock_ten_minutes_behind_is_seen_by_this_machines_and_costs_nothing() {
    sandboxed(secs(60), || {
        let setup = Setup::with_life(LIFE).minting(|minting| minting.platform_offset = -OFF);
        let workspace = Workspace::start(setup);
        assert!(keep_reading(&workspace, LIFE * 2) >= 3);
        let note = "behind this machine's: one of them is wrong, and lives are shortened by ";
        let notes = fact(&workspace, "notes").to_string();
        assert!(notes.contains(note), "{notes}");
        let skew = fact(&workspace, "clock_skew_seconds").as_i64().unwrap();
        assert!((OFF - 2..=OFF + 5).contains(&skew), "{skew} s");
    });
}

#[test]
fn where_both_clocks_are_ten_minutes_behind_the_first_fresh_token_proves_it() {
    sandboxed(secs(60), || {
        // The issuer's clock is ahead of this machine's, which is also the platform's.
        let setup = Setup::default().minting(|minting| {
            (minting.clock_offset, minting.platform_offset) = (OFF, -OFF);
        });
        let workspace = Workspace::start(setup);
        read_live(&workspace.path("token"), workspace.demo.ledger());
        // The first one says 70 minutes by these clocks, and no installation token lives that long.
        let note = "behind the issuer's: lives are shortened by that";
        eventually("the lag is named", secs(2), || {
            fact(&workspace, "notes").to_string().contains(note).then_some(())
        });

        // By these clocks they live for ten minutes and four seconds.
        let ledger = workspace.demo.ledger();
        ledger.set_minting(|minting| minting.life = LIFE);
        // What was learnt is known to the next worker, too.
        workspace.daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
        eventually("a short one", secs(5), || {
            let _ = fs::write(workspace.path("refresh"), "now");
            (ledger.counts().platform.issued >= 2).then_some(())
        });
        workspace.demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
        thread::sleep(millis(100));
        let error = eventually("it is refused", LIFE * 2, || {
            let token = fs::read(workspace.path("token"));
            if let Ok(token) = &token {
                assert_ne!(ledger.verdict(token), Verdict::Dead, "served beyond its end");
            }
            token.err()
        });
        assert_eq!(errno(&error), Some(Errno::EKEYEXPIRED));
        workspace.demo.faults().heal();
        eventually("it heals", secs(10), || {
            // Without waiting for the back-off; EAGAIN within a second of the last time.
            let _ = fs::write(workspace.path("refresh"), "now");
            fs::read(workspace.path("token")).ok()
        });
        assert!(keep_reading(&workspace, LIFE) >= 2);
        let skew = fact(&workspace, "clock_skew_seconds").as_i64().unwrap();
        assert!((OFF - 2..=OFF + 5).contains(&skew), "{skew} s");
    });
}

#[test]
fn a_wrong_date_two_of_them_or_an_old_answer_serve_no_dead_token() {
    let since_1970 = jiff::Timestamp::now().as_second();
    let faults = [
        Fault::DateOff(-since_1970),
        Fault::DateOff(-30 * 60),
        Fault::DateOff(-HOUR),
        Fault::DateOff(-3),
        Fault::TwoDates(-30 * 60),
        Fault::TwoDates(-HOUR),
        Fault::NoDate,
        Fault::Age(3),
        Fault::Age(30),
    ];
    sandboxed(secs(100), move || {
        each(
            &faults,
            |fault| fault.to_string(),
            |fault| {
                let workspace = Workspace::start(Setup::with_life(LIFE));
                workspace.demo.faults().stick(Service::Platform, Some(fault));
                let (mut live, mut dead, mut refused) = (0, 0, 0);
                for _ in 0..100 {
                    match fs::read(workspace.path("token")) {
                        Ok(token) if workspace.demo.ledger().verdict(&token) == Verdict::Live => {
                            live += 1;
                        }
                        Ok(_) => dead += 1,
                        Err(_) => refused += 1,
                    }
                    thread::sleep(LIFE / 40);
                }
                println!("{fault}: {live} live, {dead} dead, {refused} refused");
                assert_eq!((dead, refused), (0, 0), "{live} live");
            },
        );
    });
}

#[test]
fn one_wrong_date_is_forgotten_also_across_deaths_of_workers() {
    sandboxed(secs(60), || {
        let workspace = Workspace::start(Setup::default());
        workspace.demo.faults().once(Service::Platform, Fault::DateOff(-2 * HOUR));
        read_live(&workspace.path("token"), workspace.demo.ledger());
        for _ in 0..2 {
            workspace.daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
            let before = workspace.demo.ledger().counts().platform.issued;
            eventually("another token", secs(5), || {
                let _ = fs::write(workspace.path("refresh"), "now");
                (workspace.demo.ledger().counts().platform.issued > before).then_some(())
            });
            eventually("it has its whole life", secs(5), || {
                read_live(&workspace.path("token"), workspace.demo.ledger());
                let left = fact(&workspace, "left_seconds").as_i64()?;
                let skew = fact(&workspace, "clock_skew_seconds").as_i64()?;
                (left > HOUR - 30 && skew == 0).then_some(())
            });
        }
    });
}

#[test]
fn a_clock_here_that_is_hours_ahead_from_the_start_is_an_error_that_names_both_clocks() {
    sandboxed(secs(40), || {
        // This machine's clock is two hours ahead of everybody's.
        let setup = Setup::default().minting(|minting| minting.clock_offset = -2 * HOUR);
        let workspace = Workspace::start(setup);
        let error = fs::read(workspace.path("token")).unwrap_err();
        // The other one where an attempt is under way at the very deadline.
        assert!(matches!(errno(&error), Some(Errno::ENOKEY | Errno::ETIMEDOUT)), "{error}");
        let failure = fact(&workspace, "last_failure");
        assert_eq!(failure["kind"], "clocks_disagree", "{failure}");
        let detail = failure["detail"].as_str().unwrap();
        assert!(
            detail.contains("the source's clock says ") && detail.contains("this machine's "),
            "{detail}"
        );
        assert!(failure["remedy"].as_str().unwrap().contains("date -u"), "{failure}");
    });
}

#[test]
fn a_platform_clock_ten_minutes_ahead_costs_life_and_no_dead_token() {
    sandboxed(secs(40), || {
        // By that clock these live for three seconds.
        let setup =
            Setup::with_life(secs(600) + LIFE).minting(|minting| minting.platform_offset = OFF);
        let workspace = Workspace::start(setup);
        assert!(keep_reading(&workspace, LIFE * 2) >= 3);
        let notes = fact(&workspace, "notes").to_string();
        assert!(notes.contains("ahead of this machine's: one of them is wrong"), "{notes}");
        let ahead = fact(&workspace, "platform_clock_ahead_seconds").as_i64();
        assert!(ahead.is_some_and(|ahead| (OFF - 2..=OFF).contains(&ahead)), "{ahead:?}");
    });
}
