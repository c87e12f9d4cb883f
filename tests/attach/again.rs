//! What is shown a second time, what is shown of a mount, and what becomes of it when the daemon restarts.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;

use molecule_tokenfs::connection::kernel::Kernel;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::bundle::Bundle;
use crate::scene::{AGENT, Apart, Container, PLACE, Scene};
use crate::support::daemon::Daemon;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, secs};

#[test]
fn a_second_one_takes_the_place_of_the_first_and_readers_do_not_notice() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let apart = Apart::start(&scene);
        let (stop, place) = (scene.dir.join("stop"), scene.dir.join("a/b"));
        let (stop, place) = (stop.to_str().unwrap(), place.to_str().unwrap());
        let words = ["--pid", &apart.number(), "--path", place];
        let told = scene.attach(&words).ok();
        assert!(!told.contains("earlier"), "{told}");
        thread::scope(|scope| {
            let reading = format!(
                "until [ -e {stop} ]; do cat {place}/token >/dev/null || exit; reads=$((reads + 1)); done; \
                 echo $reads"
            );
            let (scene, apart) = (&scene, &apart);
            let reader = crate::support::limit::Adopt::here();
            let reader = scope.spawn(move || {
                reader.enter();
                apart.line(scene, &reading)
            });
            for _ in 0..20 {
                let told = scene.attach(&words).ok();
                assert!(told.ends_with(", in the place of an earlier mount\n"), "{told}");
            }
            fs::write(stop, "").unwrap();
            let told = reader.join().unwrap();
            // Before Linux 6.5 there is a moment without a mount.
            if Kernel::running() >= Kernel(6, 5) {
                assert!(told.ok().trim().parse::<u32>().unwrap() > 20);
            }
        });
        let count = format!("grep -c ' {place} ' /proc/self/mounts");
        assert_eq!(apart.line(&scene, &count).ok(), "1\n");
    });
}

#[test]
fn after_the_daemon_was_killed_the_next_one_heals_the_container() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let mut daemon = scene.daemon(AGENT);
        let container = Bundle::start("runc", &scene);
        let words = ["--container", &container.name];
        scene.attach(&words).ok();
        let worker = daemon.worker().unwrap();
        daemon.process_signal(Signal::SIGKILL);
        daemon.process().wait(secs(5));
        eventually("the worker has ended, too", secs(5), || {
            nix::sys::signal::kill(worker, None).err()
        });
        let read = format!("cat {PLACE}/token");
        let dead = container.shell(AGENT, &read);
        assert!(dead.stderr.contains("not connected"), "{dead:?}");
        let refused = scene.attach(&words);
        crate::scene::expect_refusal(&refused, "the mount at /run/molecule/token is dead");
        let mut daemon = scene.daemon(AGENT);
        daemon.wait_for_log("the mount is shown again in 1 of 1 containers");
        assert!(container.shell(AGENT, &read).ok().starts_with("ghs_"));
        let told = scene.attach(&words).ok();
        assert!(told.ends_with(", in the place of an earlier mount\n"), "{told}");
        assert!(container.shell(AGENT, &read).ok().starts_with("ghs_"));
        // One that ended in order leaves dead mounts in containers, too, which can be taken away.
        assert!(daemon.stop().success());
        assert!(container.shell(AGENT, &read).stderr.contains("not connected"));
        scene.detach(&words).ok();
        assert_eq!(container.shell(AGENT, &format!("ls -A {PLACE}")).ok(), "");
    });
}

#[test]
fn a_container_that_bound_the_mount_is_healed_in_the_same_way() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let mut daemon = scene.daemon(AGENT);
        let container = Bundle::start_with("runc", &scene, |config| {
            let bind = json!({
                "destination": PLACE, "type": "bind", "source": PLACE, "options": ["bind", "ro"]
            });
            config["mounts"].as_array_mut().unwrap().push(bind);
        });
        let read = format!("cat {PLACE}/token");
        assert!(container.shell(AGENT, &read).ok().starts_with("ghs_"));
        assert!(daemon.stop().success());
        let _daemon = scene.daemon(AGENT);
        assert!(container.shell(AGENT, &read).stderr.contains("not connected"));
        scene.attach(&["--container", &container.name]).ok();
        assert!(container.shell(AGENT, &read).ok().starts_with("ghs_"));
    });
}

#[test]
fn a_directory_of_a_mount_shows_that_token_alone() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let mut text = String::new();
        for name in ["default", "acme"] {
            let file = scene.dir.file(name, format!("ghs_of-{name}"));
            let file = file.display();
            write!(
                text,
                "[tokens.{name}]\nsources = ['{name}-file']\n\
                 [sources.{name}-file]\ntype = 'file'\npath = '{file}'\n"
            )
            .unwrap();
        }
        let config = scene.dir.file("tokenfs.toml", text);
        let daemon = Daemon::at(&scene.dir).mountpoint(PLACE).arg_pair("--config", config);
        let _daemon = daemon.arg_pair("--owner", AGENT.to_string()).start();
        let container = Bundle::start("runc", &scene);
        let acme = Path::new(PLACE).join("acme");
        let acme = acme.to_str().unwrap();
        let words = ["--container", &container.name, "--path", "/opt/token", acme];
        assert!(
            scene
                .attach(&words)
                .ok()
                .starts_with("/run/molecule/token/acme is shown at /opt/token")
        );
        let see = "cat /opt/token/token && cd /opt/token && ls .. && ls /opt/token/acme";
        let seen = container.shell(AGENT, see);
        assert_eq!(seen.stdout, "ghs_of-acmetoken\n", "{seen:?}");
        assert!(seen.stderr.contains("No such file"), "{seen:?}");
    });
}

#[test]
fn refresh_can_be_written_to_only_where_that_was_asked_for() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let daemon = Daemon::at(&scene.dir).mountpoint(PLACE).args(["--made-up", "1h"]);
        let _daemon = daemon.arg_pair("--owner", AGENT.to_string()).start();
        let container = Bundle::start("runc", &scene);
        let token = format!("cat {PLACE}/token");
        let ask = format!("echo now >{PLACE}/refresh");
        scene.attach(&["--container", &container.name]).ok();
        let refused = container.shell(AGENT, &ask);
        assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
        scene.attach(&["--container", &container.name, "--allow-refresh"]).ok();
        let before = container.shell(AGENT, &token).ok();
        container.shell(AGENT, &ask).ok();
        eventually("there is another token", secs(5), || {
            (container.shell(AGENT, &token).ok() != before).then_some(())
        });
        // Anybody else is still kept from it by its mode, and views by what they are.
        let stranger = container.shell(AGENT + 1, &format!("echo now >{PLACE}/refresh"));
        assert!(stranger.stderr.contains("Permission denied"), "{stranger:?}");
        let written = container.shell(0, &format!("echo x >{PLACE}/token"));
        assert!(!written.status.success(), "{written:?}");
    });
}
