//! scripts/test leaves out what cannot be had here, says so, and never leaves out anything else.
//! needs: root, git
//! tests `where_fuse_cannot_be_used`, `where_everything_is_there` need: fuse

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use support::dir::TestDir;
use support::namespace::sandboxed;
use support::process::{Finished, User, command, require, run};
use support::secs;

/// Stands in for cargo and for the checkers: it notes how it was called, and passes.
const STUB: &str = "#!/bin/sh
echo \"${0##*/} $*\" >>\"$CALLS\"
case \"$*\" in what-fails) exit 1 ;; esac
case \"$*\" in test*--lib*) echo 'test result: ok. 3 passed; 0 failed; 0 ignored' ;; esac
";

/// What scripts/test uses besides the tools that it can leave out.
const BASICS: &[&str] = &[
    "awk", "bash", "cat", "dirname", "env", "grep", "id", "mktemp", "nice", "rm", "sed", "sh",
    "tail", "tee", "tr", "true", "unshare", "wc",
];

/// A PATH with the basics, stubs, and no other tool.
struct Gate {
    dir: TestDir,
}

impl Gate {
    fn new() -> Self {
        let dir = TestDir::new();
        let path = dir.folder("path");
        for tool in BASICS {
            let mut which = command("sh", User::Own);
            which.args(["-c", &format!("command -v {tool}")]);
            let found = run(which, &dir, secs(5)).ok();
            // `true` may be the shell's own.
            let found = if found.starts_with('/') { found.trim() } else { "/bin/true" };
            std::os::unix::fs::symlink(found, path.join(tool)).unwrap();
        }
        let gate = Self { dir };
        gate.stub(&["cargo", "cargo-deny", "shellcheck", "cc", "readelf"]);
        for profile in ["release", "dist"] {
            gate.dir.file(&format!("target/{profile}/molecule-tokenfs"), "as if it were built");
        }
        gate
    }

    fn stub(&self, names: &[&str]) {
        for name in names {
            let stub = self.dir.file(&format!("path/{name}"), STUB);
            fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test");
        let mut test = command("env", User::Own);
        test.arg(format!("PATH={}", self.dir.join("path").display()))
            .arg("bash")
            .arg(script)
            .args(arguments)
            .env("CARGO_TARGET_DIR", self.dir.join("target"))
            .env("CALLS", self.dir.join("calls"));
        run(test, &self.dir, secs(20))
    }

    /// The call that ran the tests.
    fn tests_run(&self) -> String {
        let calls = fs::read_to_string(self.dir.join("calls")).unwrap();
        let run = calls.lines().find(|call| call.contains("--no-fail-fast"));
        run.expect("the tests were run").to_owned() + " "
    }
}

/// The lines under `=== not run`.
fn not_run(output: &str) -> Vec<&str> {
    let list = output.split("=== not run\n").nth(1).expect("a list of what was not run");
    list.lines().take_while(|line| !line.is_empty()).collect()
}

/// Puts something that nobody can open, a socket, in the device's place.
fn close_fuse_device(dir: &TestDir) {
    let socket = dir.join("socket");
    UnixListener::bind(&socket).unwrap();
    mount(Some(&socket), "/dev/fuse", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
fn where_fuse_cannot_be_used_its_targets_are_left_out_and_named_and_the_rest_runs() {
    sandboxed(secs(60), || {
        let gate = Gate::new();
        gate.stub(&["git", "gh", "curl", "jq", "busybox", "fusermount3", "python3"]);
        close_fuse_device(&gate.dir);
        let output = gate.run(&["--no-install"]).ok();
        assert!(!gate.tests_run().contains("--test mount "), "{}", gate.tests_run());
        for target in ["--lib ", "--test architecture ", "--test harness ", "--test cli "] {
            assert!(gate.tests_run().contains(target), "{target}: {}", gate.tests_run());
        }
        assert!(not_run(&output).iter().any(|line| line.starts_with("tests/mount: /dev/fuse ")));
        assert!(output.contains("total: 3 passed, 0 failed"), "{output}");
    });
}

#[test]
fn a_missing_tool_is_named_with_the_line_that_installs_it() {
    sandboxed(secs(60), || {
        let gate = Gate::new();
        gate.stub(&["git", "busybox"]);
        let output = gate.run(&["--no-install"]).ok();
        let line = "tests/wiring: gh is missing (apt-get install gh)";
        assert!(not_run(&output).contains(&line), "{output}");
        assert!(!gate.tests_run().contains("--test wiring "));
    });
}

#[test]
fn strict_allows_nothing_to_be_left_out() {
    sandboxed(secs(60), || {
        let gate = Gate::new();
        let finished = gate.run(&["--no-install", "--strict"]);
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stdout.contains("--strict allows nothing"), "{}", finished.stdout);
    });
}

#[test]
fn every_target_runs_where_everything_is_there() {
    sandboxed(secs(60), || {
        let gate = Gate::new();
        let script =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/test")).unwrap();
        let list = |start, end| script.split(start).nth(1).unwrap().split(end).next().unwrap();
        let tools = list("\ntools=(\n", "\n)");
        for line in tools.lines() {
            gate.stub(&[line.trim().trim_matches('"').split(' ').next().unwrap()]);
        }
        for tool in list("registry_tools=(", ")").split_whitespace() {
            let path = gate.dir.file(&format!("target/tools/bin/{tool}"), STUB);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let output = gate.run(&["--no-install", "--strict"]).ok();
        assert_eq!(not_run(&output), ["nothing was left out"]);
        let run = gate.tests_run();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")).unwrap() {
            let path = entry.unwrap().path();
            let is_target = path.extension().is_some() || path.join("main.rs").exists();
            let name = path.file_stem().unwrap().to_str().unwrap();
            assert!(!is_target || run.contains(&format!("--test {name} ")), "{name}: {run}");
        }
    });
}

#[test]
fn a_program_that_holds_what_only_tests_need_fails_the_gate() {
    sandboxed(secs(60), || {
        let gate = Gate::new();
        gate.dir.file("target/release/molecule-tokenfs", "takes --made-up");
        let finished = gate.run(&["--no-install"]);
        assert_eq!(finished.status.code(), Some(1));
        let failed = "FAILED: the program as it is shipped";
        assert!(finished.stdout.contains(failed), "{}", finished.stdout);
    });
}

#[test]
fn a_stage_that_fails_fails_the_whole_and_the_others_run() {
    sandboxed(secs(60), || {
        let gate = Gate::new();
        // What comes first fails: `cargo fmt --check`.
        gate.dir.file("path/cargo", STUB.replace("what-fails", "'fmt --check'*"));
        let finished = gate.run(&["--no-install"]);
        assert_eq!(finished.status.code(), Some(1));
        assert!(finished.stdout.contains("FAILED: format"), "{}", finished.stdout);
        assert!(gate.tests_run().contains("--lib"));
    });
}

/// In the place of mmdebstrap: fails as often as a file has lines, with what apt says then.
const MIRROR: &str = "#!/bin/sh
for root; do :; done
mkdir \"$root\"
sed -i 1d \"$FAILURES\" && [ -s \"$FAILURES\" ] || exit 0
echo 'E: Failed to fetch InRelease  503  Service Unavailable'
exit 100
";

#[test]
fn a_mirror_that_fails_is_asked_again_and_its_words_are_shown() {
    sandboxed(secs(60), || {
        for (failures, made) in [(0, true), (2, true), (3, false)] {
            let dir = TestDir::new();
            let stub = dir.file("path/mmdebstrap", MIRROR);
            fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).unwrap();
            // One line more than it fails: it takes one away first.
            let count = dir.file("failures", "x\n".repeat(failures + 1));
            let rootfs = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/rootfs");
            let mut make = command("bash", User::Own);
            make.arg(rootfs).arg("debian").env("XDG_CACHE_HOME", dir.path()).env("FAILURES", count);
            make.env("PATH", format!("{}:/usr/bin:/bin", stub.parent().unwrap().display()));
            let told = run(make, &dir, secs(20));
            assert_eq!(told.status.success(), made, "{failures}: {told:?}");
            assert_eq!(told.stderr.matches("503  Service Unavailable").count(), failures);
            let root = Path::new(told.stdout.trim());
            assert_eq!(made, !told.stdout.is_empty() && root.is_dir(), "{told:?}");
            let left = fs::read_dir(dir.join("molecule-tokenfs/rootfs")).unwrap();
            let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let left: Vec<_> = left.filter(|name| name.starts_with("new.")).collect();
            assert_eq!(left, [""; 0], "{failures}");
        }
    });
}

#[test]
fn every_way_to_break_the_engine_still_applies() {
    sandboxed(secs(30), || {
        require("git", "git");
        let dir = TestDir::new();
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let patches = fs::read_dir(project.join("tests/simulation/mutations")).unwrap();
        let patches: Vec<_> = patches.map(|entry| entry.unwrap().path()).collect();
        assert!(patches.len() > 20);
        for patch in patches {
            let mut apply = command("git", User::Own);
            apply.args(["apply", "--check", "--whitespace=nowarn"]).arg(&patch);
            apply.current_dir(project);
            run(apply, &dir, secs(10)).ok();
        }
    });
}
