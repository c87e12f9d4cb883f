//! What cannot be done, and what is said then: nothing is changed in the container.

use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::bundle::Bundle;
use crate::scene::{AGENT, Apart, PLACE, Scene, expect_refusal};
use crate::support::daemon::{Daemon, PROGRAM, tokenfs};
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, User, run};
use crate::support::{eventually, secs};

#[test]
fn a_link_a_file_a_full_directory_or_another_mount_is_refused_and_left_as_it_is() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let apart = Apart::start(&scene);
        let at = |name: &str| scene.dir.join(name).to_str().unwrap().to_owned();
        symlink("/etc", at("link")).unwrap();
        symlink(scene.dir.folder("real"), at("parent")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        fs::write(at("file"), "theirs").unwrap();
        scene.dir.file("full/theirs", "");
        apart.line(&scene, &format!("mkdir {0} && mount -t tmpfs theirs {0}", at("mounted"))).ok();
        for (name, words) in [
            ("link", "/link is a symbolic link in the container"),
            ("link/token", "/link is a symbolic link in the container"),
            ("parent/token", "/parent is a symbolic link in the container"),
            ("dangling", "/dangling is a symbolic link in the container"),
            ("file", "/file is not a directory in the container"),
            ("file/token", "/file is not a directory in the container"),
            ("full", "mounting there would hide `theirs`"),
            ("mounted", "is the root of another file system in the container (tmpfs)"),
        ] {
            let words_of = ["--pid", &apart.number(), "--path", &at(name)];
            expect_refusal(&scene.attach(&words_of), words);
        }
        let mounts = apart.line(&scene, "cat /proc/self/mounts").ok();
        let shown = mounts.lines().filter(|line| line.contains("fuse.molecule-tokenfs")).count();
        assert_eq!(shown, 1, "the host's own: {mounts}");
        assert!(!scene.dir.join("real/token").exists());
        let words = ["--pid", &apart.number(), "--path", &at("mounted")];
        expect_refusal(&scene.detach(&words), "is the root of another file system");
        // What was made on the way is removed where it goes no further.
        let long = format!("{}/made/{}", at("new"), "x".repeat(300));
        let words = ["--pid", &apart.number(), "--path", &long];
        expect_refusal(&scene.attach(&words), "File name too long");
        assert!(!scene.dir.join("new").exists());
    });
}

#[test]
fn a_directory_is_made_on_a_read_only_mount_and_not_on_a_read_only_file_system_or_volume() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let volume = scene.dir.folder("volume");
        let container = Bundle::start_with("runc", &scene, |config| {
            let options = json!(["bind", "ro"]);
            config["mounts"].as_array_mut().unwrap().extend([
                json!({ "destination": "/tmp", "type": "bind", "source": volume, "options": options }),
                json!({ "destination": "/etc", "type": "tmpfs", "source": "x", "options": ["ro"] }),
            ]);
        });
        let attach = |path: &str| scene.attach(&["--container", &container.name, "--path", path]);
        attach("/run/molecule/token").ok();
        assert!(scene.root.join("run/molecule/token").is_dir());
        for path in ["/tmp/token", "/etc/token", "/proc/token", "/sys/fs/token"] {
            let refused = attach(path);
            let words = format!("{path} does not exist in the container, and cannot be made there");
            expect_refusal(&refused, &words);
            assert!(refused.stderr.contains("make the directory in the image"), "{refused:?}");
        }
        assert_eq!(fs::read_dir(volume).unwrap().count(), 0);
    });
}

#[test]
fn what_a_daemon_in_the_container_serves_stays() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let place = scene.dir.join("theirs");
        let place = place.to_str().unwrap();
        let words = [PROGRAM, "mount", "--made-up", "1h", place];
        let apart = Apart::start_with(&scene, &["--propagation", "private"], &words);
        let read = format!("cat {place}/token");
        eventually("it serves", secs(10), || {
            apart.line(&scene, &read).status.success().then_some(())
        });
        let words = ["--pid", &apart.number(), "--path", place];
        for refused in [scene.attach(&words), scene.detach(&words)] {
            expect_refusal(&refused, "is served by a molecule-tokenfs in the container");
        }
        assert!(apart.line(&scene, &read).ok().starts_with("ghs_"));
    });
}

#[test]
fn a_directory_that_is_shared_with_the_host_is_refused() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let shared = scene.dir.folder("shared");
        let flags = nix::mount::MsFlags::MS_BIND;
        let plain = None::<&str>;
        nix::mount::mount(Some(&shared), &shared, plain, flags, plain).unwrap();
        nix::mount::mount(plain, &shared, plain, nix::mount::MsFlags::MS_SHARED, plain).unwrap();
        let apart = Apart::start_with(&scene, &["--propagation", "unchanged"], &["sleep", "600"]);
        let token = shared.join("token");
        let words = ["--pid", &apart.number(), "--path", token.to_str().unwrap()];
        expect_refusal(&scene.attach(&words), "in the container appears outside of it, too");
        assert!(!token.exists());
    });
}

#[test]
fn a_process_or_container_that_is_not_there_is_named() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let refused = scene.attach(&["--container", "no-such-agent"]);
        expect_refusal(&refused, "no running container has the name `no-such-agent`");
        assert!(refused.stderr.contains("docker ps"), "{refused:?}");
        // One that has ended and was not waited for still has its number.
        let mut apart = Apart::start(&scene);
        let pid = apart.number();
        apart.process().signal(Signal::SIGKILL);
        let stat = format!("/proc/{pid}/stat");
        eventually("it has ended", secs(5), || {
            fs::read_to_string(&stat).unwrap().contains(") Z ").then_some(())
        });
        for command in ["attach", "detach"] {
            let act = if command == "attach" { Scene::attach } else { Scene::detach };
            let refused = act(&scene, &["--pid", &pid]);
            expect_refusal(&refused, &format!("process {pid} has ended"));
        }
        apart.process().wait(secs(5));
        expect_refusal(&scene.attach(&["--pid", &pid]), &format!("there is no process {pid}"));
        let own = std::process::id().to_string();
        // The thread of this test is in a namespace of its own, and the process is not.
        let sleep = Apart::start_with(&scene, &["--propagation", "private"], &["sleep", "600"]);
        let line = format!("{PROGRAM} attach --pid {} {PLACE}", sleep.number());
        expect_refusal(&sleep.line(&scene, &line), "is in no container: it has the same mounts");
        expect_refusal(
            &scene.attach(&["--pid", &own, "--path", "/proc/x"]),
            "/proc/x does not exist",
        );
    });
}

#[test]
fn only_a_mount_of_root_s_can_be_shown_and_only_by_root() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let apart = Apart::start(&scene);
        let words = ["--pid", &apart.number()];
        expect_refusal(&scene.attach(&words), "no tokens are mounted");
        let mut ordinary = tokenfs(&scene.dir, User::Number(ORDINARY));
        ordinary.arg("attach").args(words);
        expect_refusal(
            &run(ordinary, &scene.dir, secs(5)),
            "only root of the host, with CAP_SYS_ADMIN",
        );
        let file = scene.dir.join("single");
        let single = Daemon::at(&scene.dir).mountpoint(&file).args(["--made-up", "1h"]);
        let _single = single.args(["--layout", "file"]).start();
        let words = ["--pid", &apart.number(), file.to_str().unwrap()];
        expect_refusal(&scene.attach(&words), "is a single file");
        let files = scene.dir.join("files");
        let kept = Daemon::at(&scene.dir).mountpoint(&files).args(["--made-up", "1h"]);
        let _kept = kept.args(["--backend", "files"]).start();
        let words = ["--pid", &apart.number(), files.to_str().unwrap()];
        expect_refusal(&scene.attach(&words), "are files, and no mount");
    });
}

#[test]
fn a_command_line_that_names_no_container_or_no_place_is_wrong() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        for words in [
            &[PLACE][..],
            &["--pid", "1", "--container", "one"],
            &["--container", ""],
            &["--pid", "one"],
            &["--pid", "1", "--path", "/"],
            &["--pid", "1", "--path", "run/token"],
            &["--pid", "1", "--path", "/run/../etc"],
        ] {
            let wrong = scene.attach(words);
            assert_eq!(wrong.status.code(), Some(2), "{words:?}: {wrong:?}");
        }
    });
}
