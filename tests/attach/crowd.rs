//! Many containers that read without a pause while workers die, newer ones take over, and the daemon is killed.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::hook::serve;
use crate::scene::{Apart, Scene};
use crate::support::daemon::Daemon;
use crate::support::namespace::sandboxed;
use crate::support::process::{Process, User, command};
use crate::support::{eventually, millis, secs};

/// How many containers: in the gate, and where `scripts/evidence` asks.
#[expect(clippy::disallowed_methods, reason = "asked for by a variable")]
fn containers() -> usize {
    std::env::var("MOLECULE_CROWD").ok().and_then(|number| number.parse().ok()).unwrap_or(10)
}

/// A container whose shell reads without a pause, and notes each failure and each hundredth success.
struct Reader {
    apart: Apart,
    errors: PathBuf,
    _shell: Process,
}

impl Reader {
    fn start(scene: &Scene, number: usize) -> Self {
        let apart = Apart::start(scene);
        scene.attach(&["--pid", &apart.number(), "--path", "/tmp/token", "--door", "agent-1"]).ok();
        let errors = scene.dir.join(format!("errors-{number}"));
        let stop = scene.dir.join("stop");
        let line = format!(
            "until [ -e {} ]; do read t </tmp/token/token || [ -n \"$t\" ] || echo failed; t=; sleep 0.01; done 2>&1 >>{1} 2>>{1}",
            stop.display(),
            errors.display()
        );
        let mut enter = command("nsenter", User::Own);
        enter.args(["--target", &apart.number(), "--mount", "--", "sh", "-c", &line]);
        let shell = Process::start(enter, &format!("reader-{number}"), &scene.dir);
        Self { apart, errors, _shell: shell }
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
        let daemon = serve(&scene);
        let served = Instant::now();
        for reader in &readers {
            eventually("it reads again", secs(20), || {
                let read = reader.apart.line(&scene, "cat /tmp/token/token >/dev/null");
                read.status.success().then_some(())
            });
        }
        println!("{number} containers read again {:?} after the daemon served", served.elapsed());
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
    });
}
