//! What the packages are filled with works: the Python module on a real mount, the service's unit, what
//! a service manager is told, and the parts that must agree. The packages themselves, installed:
//! scripts/evidence packages.
//! needs: root, fuse, git, gh, python3, systemd-analyze

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use support::daemon::{Daemon, PROGRAM, tokenfs_run};
use support::dir::TestDir;
use support::limit::within;
use support::namespace::sandboxed;
use support::process::{User, command, run};
use support::secs;

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap()
}

/// PATH with the program under test first.
fn path_with_program() -> String {
    let bin = Path::new(PROGRAM).parent().unwrap().display();
    format!("{bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

#[test]
fn the_python_module_passes_its_tests_on_real_mounts() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let mut tests = command("python3", User::Own);
        tests
            .args(["-m", "unittest", "discover", "--verbose"])
            .arg(project("scripts/python/tests"))
            .env("PATH", path_with_program())
            .env("PYTHONPATH", project("scripts/python/src"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("TMPDIR", dir.path());
        let finished = run(tests, &dir, secs(55));
        assert!(finished.stderr.contains("test_a_frozen_token"), "{}", finished.stderr);
        finished.ok();
    });
}

/// What arrived, a line each.
fn told(socket: &UnixDatagram) -> Vec<String> {
    let mut bytes = vec![0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    bytes.truncate(length);
    String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn a_service_manager_is_told_when_the_mount_serves_is_reloaded_and_ends() {
    sandboxed(secs(40), || {
        let dir = TestDir::new();
        let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
        socket.set_read_timeout(Some(secs(10))).unwrap();
        let mut daemon = Daemon::at(&dir)
            .args(["--made-up", "1m"])
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .spawn();
        let serving = format!("STATUS=serving at {}", daemon.mountpoint().display());
        assert_eq!(told(&socket), ["READY=1", &serving]);
        assert!(fs::read(daemon.path("token")).is_ok(), "it serves when it says so");
        let point = daemon.mountpoint().to_str().unwrap().to_owned();
        tokenfs_run(&dir, &["upgrade", &point]).ok();
        let reloading = told(&socket);
        assert_eq!(reloading[0], "RELOADING=1");
        assert!(reloading[1].starts_with("MONOTONIC_USEC="), "{reloading:?}");
        assert_eq!(told(&socket), ["READY=1", &serving]);
        daemon.stop();
        assert_eq!(told(&socket), ["STOPPING=1"]);
    });
}

/// The units of the package, and what each starts.
const UNITS: [(&str, &str); 2] = [
    ("molecule-tokenfs.service", "mount /run/molecule/token"),
    ("molecule-tokenfs-host.service", "serve /run/molecule/doors"),
];

#[test]
fn systemd_understands_the_units() {
    within(secs(30), || {
        let dir = TestDir::new();
        for (name, words) in UNITS {
            let unit = read(&format!("scripts/debian/{name}"));
            let start = format!("ExecStart=/usr/bin/molecule-tokenfs {words}\n");
            assert!(unit.contains(&start), "{name}");
            // The program of the package is not installed here.
            let unit = unit.replace("/usr/bin/molecule-tokenfs", PROGRAM);
            let unit = unit.replace("Documentation=man:molecule-tokenfs(1)\n", "");
            let unit = dir.file(name, unit);
            let mut verify = command("systemd-analyze", User::Own);
            verify.args(["verify", "--recursive-errors=no"]).arg(unit);
            let finished = run(verify, &dir, secs(20));
            assert!(finished.status.success(), "{}", finished.stderr);
            assert!(!finished.stderr.contains(name), "{}", finished.stderr);
        }
    });
}

#[test]
fn the_units_leave_the_mount_where_everybody_sees_it() {
    // Each of these gives a service a mount namespace of its own (systemd.exec(5)).
    for (name, _) in UNITS {
        let unit = read(&format!("scripts/debian/{name}"));
        for line in unit.lines().filter(|line| !line.starts_with('#')) {
            let key = line.split('=').next().unwrap();
            for namespaced in
                ["Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind"]
            {
                assert!(!key.starts_with(namespaced), "{name}: {line}");
            }
        }
    }
}

#[test]
fn the_settings_file_of_the_package_is_one_that_the_program_reads() {
    within(secs(20), || {
        let dir = TestDir::new();
        let shipped = read("scripts/debian/molecule-tokenfs.toml");
        let all = shipped.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
        let set: Vec<_> = all.filter(|line| line.contains(" = ")).collect();
        assert!(set.len() >= 3);
        let set = set.join("\n");
        for (name, text) in [("shipped", shipped), ("set", set.replace("\"agent\"", "\"root\""))] {
            let file = dir.file(name, text);
            let config = format!("--config={}", file.display());
            tokenfs_run(&dir, &["check", &config]).ok();
        }
    });
}

#[test]
fn the_wheel_brings_the_very_scripts_of_the_project() {
    for (inside, original) in [
        ("scripts/python/src/molecule_tokenfs/shims/gh", "scripts/gh"),
        ("scripts/python/data/scripts/git-credential-molecule", "scripts/git-credential-molecule"),
        ("scripts/python/LICENSE-MIT", "LICENSE-MIT"),
        ("scripts/python/LICENSE-APACHE", "LICENSE-APACHE"),
    ] {
        assert_eq!(fs::canonicalize(project(inside)).unwrap(), project(original), "{inside}");
    }
}

/// What follows this in a line of the document about containers.
fn shown(start: &str) -> String {
    let document = read("docs/CONTAINERS.md");
    let line = document.lines().find_map(|line| line.strip_prefix(start));
    line.unwrap_or_else(|| panic!("docs/CONTAINERS.md has no line that starts with {start:?}"))
        .to_owned()
}

#[test]
fn the_health_check_that_is_shown_is_well_with_a_mount_and_ill_without() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let point = dir.join("token");
        let shell = |line: &str| {
            let mut shell = command("sh", User::Own);
            shell.args(["-c", line]).env("PATH", path_with_program());
            shell.env("MOLECULE_TOKENFS_MOUNTPOINT", &point);
            run(shell, &dir, secs(10)).status
        };
        let health = shown("HEALTHCHECK CMD ");
        let wait = shown("molecule-tokenfs wait ");
        let wait = format!("molecule-tokenfs wait {}", wait.replace("60s", "1s"));
        assert_eq!(shell(&health).code(), Some(1));
        assert!(!shell(&wait).success());
        let mut daemon = Daemon::at(&dir).mountpoint(&point).args(["--made-up", "1m"]).start();
        assert!(shell(&health).success(), "nobody has asked yet");
        assert!(shell(&wait).success());
        assert!(shell(&health).success());
        daemon.stop();
        assert_eq!(shell(&health).code(), Some(1));
    });
}
