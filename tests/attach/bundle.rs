//! Containers of runc and crun.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::scene::{AGENT, Container, Scene};
use crate::support::process::{Finished, Process, User, command, run};
use crate::support::{eventually, secs};

/// A container of a bundle of the Open Container Initiative.
pub struct Bundle<'a> {
    runtime: &'static str,
    pub name: String,
    scene: &'a Scene,
    process: Process,
    pid: i32,
}

impl<'a> Bundle<'a> {
    /// Starts one that only sleeps, without any right, with a read-only root.
    pub fn start(runtime: &'static str, scene: &'a Scene) -> Self {
        Self::start_with(runtime, scene, |_| {})
    }

    /// The same with changes to its configuration.
    pub fn start_with(
        runtime: &'static str,
        scene: &'a Scene,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        Self::start_as(runtime, scene, "bundle", change)
    }

    /// The same with a name that no other of the scene has.
    pub fn start_as(
        runtime: &'static str,
        scene: &'a Scene,
        bundle: &str,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let name = format!("{}-{bundle}", scene.name());
        let bundle = scene.dir.folder(bundle);
        let mut spec = command("runc", User::Own);
        spec.arg("spec").current_dir(&bundle);
        run(spec, &scene.dir, secs(10)).ok();
        let file = bundle.join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        configure(&mut config, &scene.root);
        change(&mut config);
        fs::write(&file, config.to_string()).unwrap();
        let mut start = command(runtime, User::Own);
        start.args(["run", "--bundle"]).arg(&bundle).arg(&name);
        let process = Process::start(start, &name, &scene.dir);
        let mut container = Self { runtime, name, scene, process, pid: 0 };
        container.pid = eventually("the container runs", secs(20), || {
            if let Some(status) = container.process.ended() {
                panic!("{runtime} ended: {status}\n{}", container.process.stderr());
            }
            let state = container.tool(&["state", &container.name]).stdout;
            let state: Value = serde_json::from_str(&state).unwrap_or_default();
            let pid = state["pid"].as_i64().filter(|_| state["status"] == "running")?;
            i32::try_from(pid).ok()
        });
        container
    }

    fn tool(&self, words: &[&str]) -> Finished {
        let mut tool = command(self.runtime, User::Own);
        tool.args(words);
        run(tool, &self.scene.dir, secs(20))
    }
}

/// Takes all rights away, and what the tests cannot give.
fn configure(config: &mut Value, root: &Path) {
    let process = &mut config["process"];
    process["terminal"] = json!(false);
    process["args"] = json!(["sleep", "600"]);
    process["user"] = json!({ "uid": AGENT, "gid": AGENT });
    process["capabilities"] = json!({});
    process["noNewPrivileges"] = json!(true);
    config["root"] = json!({ "path": root, "readonly": true });
}

impl Container for Bundle<'_> {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn shell(&self, user: u32, line: &str) -> Finished {
        let user = format!("{user}:{user}");
        self.tool(&["exec", "--user", &user, &self.name, "sh", "-c", line])
    }
}

impl Drop for Bundle<'_> {
    fn drop(&mut self) {
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.tool(&["delete", "--force", &self.name])
        }));
    }
}
