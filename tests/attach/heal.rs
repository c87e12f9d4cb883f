//! A daemon that follows one that was killed shows its mount again wherever the one before was shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use crate::bundle::Bundle;
use crate::hook::{TOKEN, serve};
use crate::scene::{AGENT, Apart, Container, Scene};
use crate::support::namespace::sandboxed;
use crate::support::{eventually, secs};

#[test]
fn containers_read_again_by_themselves_after_the_daemon_was_killed() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let mut daemon = serve(&scene);
        let container = Bundle::start("runc", &scene);
        scene.attach(&["--container", &container.name, "--door", "agent-1"]).ok();
        let apart: Vec<_> = (0..10).map(|_| Apart::start(&scene)).collect();
        for apart in &apart {
            scene
                .attach(&["--pid", &apart.number(), "--path", "/tmp/token", "--door", "agent-1"])
                .ok();
        }
        let gone = Apart::start(&scene);
        scene.attach(&["--pid", &gone.number(), "--path", "/tmp/token", "--door", "agent-1"]).ok();
        let left = Apart::start(&scene);
        scene.attach(&["--pid", &left.number(), "--path", "/tmp/token", "--door", "agent-1"]).ok();
        scene.detach(&["--pid", &left.number(), "--path", "/tmp/token"]).ok();
        let kept = "/run/molecule/doors.attached";
        assert_eq!(fs::metadata(kept).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(kept).unwrap().count(), 12);
        drop(gone);
        // A death of the worker changes nothing.
        daemon.kill_worker(Signal::SIGKILL);
        let read = "cat /run/molecule/token/token";
        assert_eq!(container.shell(AGENT, read).ok(), TOKEN);
        daemon.process_signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        let dead = container.shell(AGENT, read);
        assert!(!dead.status.success(), "{dead:?}");
        let daemon = serve(&scene);
        eventually("the container reads again", secs(10), || {
            (container.shell(AGENT, read).stdout == TOKEN).then_some(())
        });
        for apart in &apart {
            eventually("it reads again", secs(10), || {
                (apart.line(&scene, "cat /tmp/token/token").stdout == TOKEN).then_some(())
            });
        }
        assert_eq!(left.line(&scene, "ls -A /tmp/token").ok(), "");
        daemon.wait_for_log("the mount is shown again in 11 of 11 containers");
        assert_eq!(fs::read_dir(kept).unwrap().count(), 11);
    });
}
