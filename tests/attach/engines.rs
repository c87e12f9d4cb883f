//! Each runtime once: a mount lives in its container, which was started with every capability dropped,
//! `no_new_privs`, the default filter of system calls, a read-only root, and no device.

use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::bundle::Bundle;
use crate::scene::{AGENT, Container, Scene, lives};
use crate::support::docker::{self, Engine};
use crate::support::limit::OnTimeout;
use crate::support::namespace::{private_copy, sandboxed};
use crate::support::podman::{an_ordinary_user, end_pause, outside, podman};
use crate::support::process::{Finished, User, command, run};
use crate::support::secs;

/// What Docker and podman are told.
pub const WITHOUT_RIGHTS: [&str; 4] =
    ["--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--user=1000:1000"];

#[test]
fn a_container_of_runc() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let container = Bundle::start("runc", &scene);
        lives(&scene, &container, &["--container", &container.name]);
    });
}

#[test]
fn a_container_of_crun() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let container = Bundle::start("crun", &scene);
        lives(&scene, &container, &["--container", &container.name]);
    });
}

impl Container for docker::Container<'_> {
    fn pid(&self) -> i32 {
        self.pid().as_raw()
    }

    fn shell(&self, user: u32, line: &str) -> Finished {
        self.exec_with(&[&format!("--user={user}:{user}")], &["sh", "-c", line])
    }
}

#[test]
fn a_container_of_docker_by_its_id_and_its_name() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let engine = Engine::start(&scene.dir);
        engine.import("busybox", &scene.root);
        let options = [&WITHOUT_RIGHTS[..], &["--name=agent-of-docker"]].concat();
        let container = engine.run(&options, "busybox", &["sleep", "600"]);
        // Its files are not where an engine of the machine has them, so this goes by control groups.
        lives(&scene, &container, &["--container", &container.id()[..12]]);
        private_copy("/var/lib".as_ref(), &scene.dir);
        for (from, to) in
            [("exec", "/run/docker"), ("data/containers", "/var/lib/docker/containers")]
        {
            std::fs::create_dir_all(to).unwrap();
            let from = scene.dir.join("docker").join(from);
            mount(Some(&from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        let told = scene.attach(&["--container", "agent-of-docker"]).ok();
        assert!(told.contains(container.id()), "{told}");
    });
}

/// A container of podman's.
pub struct InPodman<'a> {
    scene: &'a Scene,
    user: User,
    _pause: OnTimeout,
}

impl<'a> InPodman<'a> {
    /// One whose root is a directory.
    pub fn start(scene: &'a Scene, user: User, options: &[&str]) -> Self {
        let root = ["--rootfs", scene.root.to_str().unwrap()];
        Self::new(scene, user).run(&[options, &root].concat())
    }

    /// One of an image, as it needs to be where podman gives it users.
    pub fn start_of_image(scene: &'a Scene, options: &[&str]) -> Self {
        let container = Self::new(scene, User::Own);
        let archive = scene.dir.join("image.tar");
        let mut tar = command("tar", User::Own);
        tar.arg("-cf").arg(&archive).arg("-C").arg(&scene.root).arg(".");
        run(tar, &scene.dir, secs(10)).ok();
        let mut import = container.tool();
        import.arg("import").arg(archive).arg("busybox");
        run(import, &scene.dir, secs(30)).ok();
        container.run(&[options, &["busybox"]].concat())
    }

    fn new(scene: &'a Scene, user: User) -> Self {
        let place = scene.dir.path().to_owned();
        let pause = OnTimeout::new(move || end_pause(&place));
        Self { scene, user, _pause: pause }
    }

    fn run(self, words: &[&str]) -> Self {
        let mut start = self.tool();
        start.args(["run", "--detach", "--name=workspace", "--network=none"]);
        start.args(WITHOUT_RIGHTS).args(words).args(["sleep", "600"]);
        run(start, &self.scene.dir, secs(30)).ok();
        self
    }

    fn tool(&self) -> Command {
        podman(&self.scene.dir, self.user)
    }

    pub fn inspect(&self, what: &str) -> String {
        let mut inspect = self.tool();
        inspect.args(["inspect", "--format", what, "workspace"]);
        run(inspect, &self.scene.dir, secs(20)).ok().trim().to_owned()
    }
}

impl Container for InPodman<'_> {
    fn pid(&self) -> i32 {
        self.inspect("{{.State.Pid}}").parse().unwrap()
    }

    fn shell(&self, user: u32, line: &str) -> Finished {
        let mut exec = self.tool();
        exec.args(["exec", &format!("--user={user}:{user}"), "workspace", "sh", "-c", line]);
        run(exec, &self.scene.dir, secs(30))
    }
}

impl Drop for InPodman<'_> {
    fn drop(&mut self) {
        let mut remove = self.tool();
        remove.args(["rm", "--force", "--ignore", "--time=0", "workspace"]);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(remove, &self.scene.dir, secs(20))
        }));
        end_pause(self.scene.dir.path());
    }
}

#[test]
fn a_container_of_podman_by_its_id_and_its_name() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let container = InPodman::start(&scene, User::Own, &[]);
        let id = container.inspect("{{.Id}}");
        lives(&scene, &container, &["--container", &id[..10]]);
        private_copy("/var/lib".as_ref(), &scene.dir);
        let to = "/var/lib/containers/storage";
        std::fs::create_dir_all(to).unwrap();
        let from = scene.dir.join("podman/root");
        mount(Some(&from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        let told = scene.attach(&["--container", "workspace"]).ok();
        assert!(told.contains(&id), "{told}");
    });
}

#[test]
fn a_container_of_podman_for_an_ordinary_user() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(outside(AGENT));
        an_ordinary_user(&scene.dir);
        let place = scene.dir.folder("podman");
        let mut give = command("chown", User::Own);
        give.args(["-Rh", &format!("{AGENT}:{AGENT}")]).arg(&scene.root).arg(place);
        run(give, &scene.dir, secs(10)).ok();
        let container = InPodman::start(&scene, User::Number(AGENT), &["--cgroups=disabled"]);
        let pid = container.pid().to_string();
        lives(&scene, &container, &["--pid", &pid]);
        // What was made on the way is root's, as the container sees it.
        let made = "[ \"$(stat -c %u:%g:%a /run/molecule)\" = 0:0:755 ] && echo root";
        assert_eq!(container.shell(AGENT, made).ok(), "root\n");
    });
}
