//! The runtimes, each with the one way to start a container and to open a shell in it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::site::{AGENT, Site, Wiring, tool};
use crate::support::docker::{self, Engine};
use crate::support::limit::OnTimeout;
use crate::support::podman::{an_ordinary_user, end_pause, outside, podman};
use crate::support::process::{Finished, Process, User, run};
use crate::support::{eventually, secs};

/// A program that makes containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Docker,
    Runc,
    Crun,
    Podman,
    /// By an ordinary user, whose containers live in a user namespace.
    PodmanRootless,
}

/// Everything that Docker leaves a container by default.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// What is started, and how.
pub struct Order {
    pub wiring: Wiring,
    pub environment: Vec<(String, String)>,
    pub words: Vec<String>,
    pub root: PathBuf,
    pub configs: PathBuf,
}

/// A container that runs.
pub trait Container {
    /// Runs a line of the shell in it, as the agent.
    fn shell(&self, line: &str) -> Finished;

    /// Whether its first process has ended.
    fn has_ended(&mut self) -> bool;

    /// Its exit code, what it said to stdout, and to stderr. It must have ended.
    fn told(&mut self) -> (i32, String, String);
}

impl Runtime {
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Podman => "podman",
            Self::PodmanRootless => "podman-rootless",
        }
    }

    /// The number that the container's agent has on this machine.
    pub fn agent(self) -> u32 {
        if self == Self::PodmanRootless { outside(AGENT) } else { AGENT }
    }

    /// Starts a container, and hands it over until `body` is done with it.
    pub fn with(self, site: &Site, order: &Order, body: impl FnOnce(&mut dyn Container)) {
        match self {
            Self::Docker => {
                let engine = Engine::start(&site.dir);
                engine.import("workspace", &order.root);
                body(&mut InDocker::start(&engine, order));
            }
            Self::Runc | Self::Crun => body(&mut Bundle::start(self, "workspace", site, order)),
            Self::Podman | Self::PodmanRootless => body(&mut InPodman::start(self, site, order)),
        }
    }
}

/// Starts a container of this name with runc, and hands it over until `body` is done with it.
pub fn with_runc(site: &Site, name: &str, order: &Order, body: impl FnOnce(&mut Bundle<'_>)) {
    body(&mut Bundle::start(Runtime::Runc, name, site, order));
}

/// The options that Docker and podman share.
fn options(order: &Order) -> Vec<String> {
    let mut options = vec!["--network=host".to_owned()];
    if order.wiring == Wiring::Run {
        options.extend(["--device=/dev/fuse", "--cap-add=SYS_ADMIN"].map(str::to_owned));
        options.push("--security-opt=apparmor=unconfined".to_owned());
    }
    for (name, value) in &order.environment {
        options.push(format!("--env={name}={value}"));
    }
    options.push(format!("--volume={}:/configs", order.configs.display()));
    options
}

fn words(order: &Order) -> Vec<&str> {
    order.words.iter().map(String::as_str).collect()
}

struct InDocker<'a>(docker::Container<'a>, &'a Engine<'a>);

impl<'a> InDocker<'a> {
    fn start(engine: &'a Engine<'a>, order: &Order) -> Self {
        let options = options(order);
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        Self(engine.run(&options, "workspace", &words(order)), engine)
    }
}

impl Container for InDocker<'_> {
    fn shell(&self, line: &str) -> Finished {
        self.0.exec_with(&["--user=agent"], &["sh", "-c", line])
    }

    fn has_ended(&mut self) -> bool {
        let state = self.1.docker(&["inspect", "--format={{.State.Running}}", self.0.id()]).ok();
        state.trim() == "false"
    }

    fn told(&mut self) -> (i32, String, String) {
        let code = self.0.wait();
        let (stdout, stderr) = self.0.logs();
        (code, stdout, stderr)
    }
}

/// A bundle of the Open Container Initiative, for runc and crun.
pub struct Bundle<'a> {
    runtime: &'static str,
    name: String,
    site: &'a Site,
    state: PathBuf,
    process: Process,
}

impl<'a> Bundle<'a> {
    fn start(runtime: Runtime, name: &str, site: &'a Site, order: &Order) -> Self {
        let (runtime, name) = (runtime.name(), name.to_owned());
        let (bundle, state) = (
            site.dir.folder(&format!("{runtime}-bundle-of-{name}")),
            site.dir.folder(&format!("{runtime}-state-of-{name}")),
        );
        let mut spec = tool("runc");
        spec.arg("spec").current_dir(&bundle);
        run(spec, &site.dir, secs(10)).ok();
        let file = bundle.join("config.json");
        let config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        fs::write(&file, configured(config, order).to_string()).unwrap();
        let mut start = tool(runtime);
        start.arg("--root").arg(&state).args(["run", "--bundle"]).arg(&bundle).arg(&name);
        let process = Process::start(start, &format!("{runtime}-{name}"), &site.dir);
        let mut container = Self { runtime, name, site, state, process };
        eventually("the container runs", secs(20), || {
            if let Some(status) = container.process.ended() {
                panic!("{runtime} ended: {status}\n{}", container.process.stderr());
            }
            container.tool(&["state", &container.name]).stdout.contains("running").then_some(())
        });
        container
    }

    fn tool(&self, words: &[&str]) -> Finished {
        let mut tool = tool(self.runtime);
        tool.arg("--root").arg(&self.state).args(words);
        run(tool, &self.site.dir, secs(30))
    }
}

/// What `runc spec` proposes, with what the order asks for.
fn configured(mut config: Value, order: &Order) -> Value {
    let environment: Vec<_> =
        order.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut capabilities: Vec<_> = CAPABILITIES.to_vec();
    if order.wiring == Wiring::Run {
        capabilities.push("CAP_SYS_ADMIN");
        config["linux"]["devices"] = json!([{
            "path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666,
            "uid": 0, "gid": 0
        }]);
        config["linux"]["resources"]["devices"].as_array_mut().unwrap().push(
            json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm" }),
        );
    }
    let process = &mut config["process"];
    process["terminal"] = json!(false);
    process["args"] = json!(order.words);
    process["env"] = json!(environment);
    process["noNewPrivileges"] = json!(false);
    for set in ["bounding", "effective", "permitted"] {
        process["capabilities"][set] = json!(capabilities);
    }
    config["root"] = json!({ "path": order.root, "readonly": false });
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|it| it["type"] != "network");
    config["mounts"].as_array_mut().unwrap().push(json!({
        "destination": "/configs", "type": "bind", "source": order.configs, "options": ["rbind", "rw"]
    }));
    config
}

impl Bundle<'_> {
    /// Waits for its end; its exit code, what it said to stdout, and to stderr.
    pub fn wait(&mut self, limit: Duration) -> (i32, String, String) {
        let code = self.process.wait(limit).code().unwrap_or(-1);
        (code, self.process.stdout(), self.process.stderr())
    }
}

impl Container for Bundle<'_> {
    fn shell(&self, line: &str) -> Finished {
        let user = format!("{AGENT}:{AGENT}");
        self.tool(&["exec", "--user", &user, &self.name, "sh", "-c", line])
    }

    fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    fn told(&mut self) -> (i32, String, String) {
        self.wait(secs(5))
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.tool(&["delete", "--force", &self.name])
        }));
    }
}

struct InPodman<'a> {
    site: &'a Site,
    user: User,
    process: Process,
    _pause: OnTimeout,
}

impl<'a> InPodman<'a> {
    fn start(runtime: Runtime, site: &'a Site, order: &Order) -> Self {
        let user = match runtime {
            Runtime::PodmanRootless => User::Number(AGENT),
            _ => User::Own,
        };
        let mut start = podman(&site.dir, user);
        start.args(["run", "--rm", "--name=workspace"]).args(options(order));
        if user == User::Own {
            start.arg("--rootfs").arg(&order.root);
        } else {
            start.arg("--cgroups=disabled");
            start.arg("--rootfs").arg(given_away(site, order));
        }
        start.args(&order.words);
        let process = Process::start(start, "podman", &site.dir);
        let place = site.dir.path().to_owned();
        let pause = OnTimeout::new(move || end_pause(&place));
        let mut container = Self { site, user, process, _pause: pause };
        eventually("the container runs", secs(30), || {
            if let Some(status) = container.process.ended() {
                panic!("podman ended: {status}\n{}", container.process.stderr());
            }
            container.shell("true").status.success().then_some(())
        });
        container
    }
}

/// A copy of the root that belongs to an ordinary user and to the numbers that this user gives out; the
/// user itself is made, for this namespace.
fn given_away(site: &Site, order: &Order) -> PathBuf {
    an_ordinary_user(&site.dir);
    let copy = site.dir.join("given-away");
    let script = r#"
        set -e
        cp -a "$1" "$2"
        chown -Rh --from="$3:$3" "$4:$4" "$2"
        chown -Rh --from=0 "$3" "$2"
        chown -Rh --from=:0 ":$3" "$2"
        chown -R "$3:$3" "$5"
        chmod 0700 "$5""#;
    let place = site.dir.join("podman");
    let mut give = tool("sh");
    give.args(["-c", script, "sh"]).arg(&order.root).arg(&copy);
    give.args([AGENT, Runtime::PodmanRootless.agent()].map(|number| number.to_string()));
    give.arg(place);
    run(give, &site.dir, secs(60)).ok();
    copy
}

impl Container for InPodman<'_> {
    fn shell(&self, line: &str) -> Finished {
        let mut exec = podman(&self.site.dir, self.user);
        exec.args(["exec", "--user=agent", "workspace", "sh", "-c", line]);
        run(exec, &self.site.dir, secs(30))
    }

    fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    fn told(&mut self) -> (i32, String, String) {
        let code = self.process.wait(secs(5)).code().unwrap_or(-1);
        (code, self.process.stdout(), self.process.stderr())
    }
}

impl Drop for InPodman<'_> {
    fn drop(&mut self) {
        let mut remove = podman(&self.site.dir, self.user);
        remove.args(["rm", "--force", "--ignore", "--time=0", "workspace"]);
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run(remove, &self.site.dir, secs(30))
        }));
        end_pause(self.site.dir.path());
    }
}
