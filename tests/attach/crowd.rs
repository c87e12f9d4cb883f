//! Many containers that read without a pause while workers die, newer ones take over, and the daemon is killed.

use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::json;

use crate::hook::serve;
use crate::scene::{Apart, Scene};
use crate::support::claim::{Claim, assert_all};
use crate::support::daemon::Daemon;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command};
use crate::support::{eventually, millis, secs};

/// How many containers: in the gate, and where `scripts/evidence` asks.
#[expect(clippy::disallowed_methods, reason = "asked for by a variable")]
fn containers() -> usize {
    std::env::var("MOLECULE_CROWD").ok().and_then(|number| number.parse().ok()).unwrap_or(10)
}

/// Where `scripts/evidence` wants the figures.
#[expect(clippy::disallowed_methods, reason = "asked for by a variable")]
fn wanted() -> Option<PathBuf> {
    std::env::var_os("MOLECULE_CROWD_JSON").map(PathBuf::from)
}

/// A container whose shell reads a hundred times a second, without starting any program. It notes each
/// failure, and writes a file at the first success after one.
struct Reader {
    errors: PathBuf,
    again: PathBuf,
    _apart: Apart,
    _shell: Process,
}

impl Reader {
    fn start(scene: &Scene, number: usize) -> Self {
        let apart = Apart::start(scene);
        scene.attach(&["--pid", &apart.number(), "--path", "/tmp/token", "--door", "agent-1"]).ok();
        let file = |what: &str| scene.dir.join(format!("{what}-{number}"));
        let (errors, again, pause) = (file("errors"), file("again"), file("pause"));
        nix::unistd::mkfifo(&pause, Mode::S_IRWXU).unwrap();
        let line = format!(
            "exec 2>>{errors} 9<>{pause}
             until [ -e {stop} ]; do
                 if read -r t </tmp/token/token || [ -n \"$t\" ]; then
                     if [ $bad ]; then echo >{again}; bad=; fi
                 else
                     echo failed >&2; bad=1
                 fi
                 t=; read -r -t 0.01 -u 9
             done",
            errors = errors.display(),
            again = again.display(),
            pause = pause.display(),
            stop = scene.dir.join("stop").display(),
        );
        let mut enter = command("nsenter", User::Own);
        enter.args(["--target", &apart.number(), "--mount", "--", "bash", "-c", &line]);
        let shell = Process::start(enter, &format!("reader-{number}"), &scene.dir);
        Self { errors, again, _apart: apart, _shell: shell }
    }

    fn failures(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

fn replaced(daemon: &Daemon, by: impl FnOnce()) {
    let worker = daemon.worker();
    by();
    eventually("another worker", secs(10), || (daemon.worker()? != worker?).then_some(()));
    std::thread::sleep(millis(500));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn a_crowd_of_containers_reads_on_through_deaths_upgrades_and_a_restart() {
    let number = containers();
    sandboxed(secs(300), move || {
        let scene = Scene::new();
        let mut daemon = serve(&scene);
        let readers: Vec<_> = (0..number).map(|n| Reader::start(&scene, n)).collect();
        std::thread::sleep(secs(1));
        for _ in 0..5 {
            replaced(&daemon, || daemon.kill_worker(Signal::SIGKILL));
        }
        for _ in 0..3 {
            replaced(&daemon, || daemon.process_signal(Signal::SIGHUP));
        }
        for reader in &readers {
            assert_eq!(reader.failures(), "", "{}", daemon.log());
        }
        daemon.process_signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        // Long enough for all of them to fail.
        std::thread::sleep(millis(200));
        let started = SystemTime::now();
        let daemon = serve(&scene);
        let again = readers.iter().map(|reader| {
            let written = || fs::metadata(&reader.again).and_then(|file| file.modified()).ok();
            let read = eventually("it reads again", secs(20), written);
            read.duration_since(started).unwrap_or_default()
        });
        let last = again.max().unwrap_or_default();
        println!("{number} containers read again {last:?} after the next daemon started");
        // From now on nothing fails, and before it was the errno of a mount that is dead.
        std::thread::sleep(millis(200));
        let before: Vec<_> = readers.iter().map(Reader::failures).collect();
        std::thread::sleep(secs(1));
        for (reader, before) in readers.iter().zip(before) {
            assert_eq!(reader.failures(), before);
            let other = before.lines().find(|line| {
                *line != "failed"
                    && !line.contains("not connected")
                    && !line.contains("connection abort")
            });
            assert_eq!(other, None);
        }
        fs::write(scene.dir.join("stop"), "").unwrap();
        drop(daemon);
        if let Some(file) = wanted() {
            let what = format!("{number} containers read again after a restart, s");
            let claims = [Claim::new(what, last.as_secs_f64(), 2.0)];
            let figures = json!({ "containers": number, "read_again_s": last.as_secs_f64() });
            let text = json!({ "figures": { "crowd": figures }, "claims": claims }).to_string();
            fs::write(file, text).unwrap();
            assert_all(&claims);
        }
    });
}
