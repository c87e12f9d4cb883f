//! The hook and the device: a container has its tokens before its first instruction.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::engines::WITHOUT_RIGHTS;
use crate::scene::{AGENT, Scene};
use crate::support::daemon::{Daemon, PROGRAM, tokenfs_run};
use crate::support::namespace::sandboxed;
use crate::support::podman::podman;
use crate::support::process::{Finished, User, command, run};
use crate::support::secs;

/// What the doors show: `agent-1` belongs to the containers' user, `agent-2` to somebody else.
const DOORS: &str = "[tokens.t]\nsources = ['env']\n\
                     [doors.agent-1]\ntoken = 't'\nowner = '1000'\n\
                     [doors.agent-2]\ntoken = 't'\nowner = '2000'\n";
pub const TOKEN: &str = "ghp_of_the_door";
/// The first and only act of a container's first process.
const READ: [&str; 2] = ["cat", "/run/molecule/token/token"];

pub fn serve(scene: &Scene) -> Daemon {
    let config = scene.dir.file("tokens.toml", DOORS);
    let daemon =
        Daemon::of_host(&scene.dir).mountpoint("/run/molecule/doors").env("GITHUB_TOKEN", TOKEN);
    daemon.arg_pair("--config", config).log_level("info").start()
}

/// A bundle whose container reads the token, with this hook.
fn bundle(scene: &Scene, hook: &[&str], annotations: &Value) -> PathBuf {
    let bundle = scene.dir.folder("bundle");
    let file = bundle.join("config.json");
    if !file.exists() {
        let mut spec = command("runc", User::Own);
        spec.arg("spec").current_dir(&bundle);
        run(spec, &scene.dir, secs(10)).ok();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let process = &mut config["process"];
    process["terminal"] = json!(false);
    process["args"] = json!(READ);
    process["user"] = json!({ "uid": AGENT, "gid": AGENT });
    process["capabilities"] = json!({});
    process["noNewPrivileges"] = json!(true);
    config["root"] = json!({ "path": scene.root, "readonly": true });
    let words = [&["molecule-tokenfs", "oci-hook"], hook].concat();
    config["hooks"] = json!({ "createRuntime": [{ "path": PROGRAM, "args": words }] });
    config["annotations"] = annotations.clone();
    fs::write(&file, config.to_string()).unwrap();
    bundle
}

fn start(runtime: &str, scene: &Scene, bundle: &std::path::Path) -> Finished {
    let mut start = command(runtime, User::Own);
    start.args(["run", "--bundle"]).arg(bundle).arg(scene.name());
    run(start, &scene.dir, secs(20))
}

#[test]
fn the_first_act_of_a_container_reads_its_token_fifty_times() {
    sandboxed(secs(180), || {
        let scene = Scene::new();
        let daemon = serve(&scene);
        let by_annotation = json!({ "molecule.ai/door": "agent-1" });
        for runtime in ["runc", "crun"] {
            for (hook, annotations) in
                [(&["--door", "agent-1"][..], json!({})), (&[], by_annotation.clone())]
            {
                let bundle = bundle(&scene, hook, &annotations);
                for n in 0..13 {
                    let read = start(runtime, &scene, &bundle);
                    assert_eq!(read.stdout, TOKEN, "{runtime} {n}: {read:?}");
                    if n == 7 {
                        daemon.kill_worker(Signal::SIGKILL);
                    }
                }
            }
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        assert_eq!(mounts.matches(" - fuse").count(), 1, "nothing stays on the host: {mounts}");
    });
}

#[test]
fn a_hook_that_fails_stops_the_container_or_lets_it_start_without() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let daemon = serve(&scene);
        for runtime in ["runc", "crun"] {
            let of = |hook: &[&str], annotations| {
                start(runtime, &scene, &bundle(&scene, hook, &annotations))
            };
            let stopped = of(&["--door", "agent-9"], json!({}));
            assert!(
                !stopped.status.success() && stopped.stdout.is_empty(),
                "{runtime}: {stopped:?}"
            );
            // Without an annotation there is nothing to show.
            for (hook, annotations) in [
                (&["--door", "agent-9", "--optional"][..], json!({})),
                (&[], json!({})),
                (&["--optional"], json!({ "molecule.ai/door": "../agent-1" })),
            ] {
                let without = of(hook, annotations);
                assert!(without.stderr.contains("No such file"), "{runtime} {hook:?}: {without:?}");
            }
            // Another's door is nobody's to read.
            let other = of(&["--door", "agent-2"], json!({}));
            assert!(other.stderr.contains("Permission denied"), "{runtime}: {other:?}");
        }
        drop(daemon);
        let mut hook = command(PROGRAM, User::Own);
        hook.args(["oci-hook", "--door", "agent-1"]);
        let told = run(hook, &scene.dir, secs(10));
        assert!(told.stderr.contains("is not the state of a container"), "{told:?}");
    });
}

#[test]
fn a_door_is_a_device_of_podmans() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = serve(&scene);
        let devices = tokenfs_run(&scene.dir, &["doors", "cdi"]).ok();
        fs::create_dir_all("/run/cdi").unwrap();
        fs::write("/run/cdi/molecule.json", devices).unwrap();
        for n in 0..5 {
            let mut start = podman(&scene.dir, User::Own);
            start.args(["run", "--rm", "--network=none", "--device=molecule.ai/token=agent-1"]);
            start.args(WITHOUT_RIGHTS).arg("--rootfs").arg(&scene.root).args(READ);
            let read = run(start, &scene.dir, secs(30));
            assert_eq!(read.stdout, TOKEN, "{n}: {read:?}");
        }
    });
}
