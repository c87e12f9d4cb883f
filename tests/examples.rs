//! What the documents show to paste or to copy works: lines of the README, and the files in docs/examples.
//! Compose files and Kubernetes manifests are checked against their schemas, since neither can be started
//! here; all else runs.
//! needs: root, fuse, git, gh, curl, python3, systemd-analyze, check-jsonschema, kubernetes-validate

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use support::daemon::{Daemon, PROGRAM, tokenfs_run};
use support::dir::TestDir;
use support::eventually;
use support::limit::within;
use support::namespace::{private_copy, private_network, sandboxed};
use support::process::{Process, User, command, registry_tool, run};
use support::secs;
use support::template::project;

/// The examples whose names begin with this.
fn examples(prefix: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(project("docs/examples")).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
    let found: Vec<_> = entries.filter(named).collect();
    assert!(!found.is_empty(), "no example {prefix}*");
    found
}

/// The first block of the README in this language that holds `part`.
fn shown(language: &str, part: &str) -> String {
    let readme = fs::read_to_string(project("README.md")).unwrap();
    let start = format!("```{language}\n");
    let blocks = readme.split(&start).skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(part)).expect("a block in README.md").to_owned()
}

#[test]
fn the_lines_for_git_can_be_pasted_twice() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        let daemon = Daemon::at(&dir).args(["--made-up", "10m"]).start();
        let point = daemon.mountpoint().to_str().unwrap();
        let lines = shown("sh", "credential.https://github.com.helper")
            .replace("/run/molecule/token", point);
        let shell = |script: &str| {
            let mut shell = command("sh", User::Own);
            shell.args(["-ec", script]).env("HOME", dir.path()).env("GIT_TERMINAL_PROMPT", "0");
            run(shell, &dir, secs(10)).ok()
        };
        for time in ["once", "twice"] {
            shell(&lines);
            let helpers =
                shell("git config --global --get-all credential.https://github.com.helper");
            let expected = format!("\n!cat {point}/git-credential #\n");
            assert_eq!(helpers, expected, "pasted {time}");
            let filled =
                shell("printf 'protocol=https\\nhost=github.com\\n\\n' | git credential fill");
            let token = fs::read_to_string(daemon.path("token")).unwrap();
            assert!(filled.contains(&format!("password={token}\n")), "pasted {time}");
        }
    });
}

#[test]
fn the_settings_in_the_readme_are_read() {
    within(secs(20), || {
        let dir = TestDir::new();
        let file = dir.file("settings.toml", shown("toml", "platform-url"));
        let config = format!("--config={}", file.display());
        let checked = tokenfs_run(&dir, &["check", &config]).ok();
        assert!(checked.contains("https://platform.example.com"), "{checked}");
    });
}

/// The example's platform on a port that is free; its bearer is in the directory.
fn platform(dir: &TestDir, configs: &Path) -> (Process, String) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut platform = command("python3", User::Own);
    platform.arg(project("docs/examples/platform.py")).arg(port.to_string()).arg(configs);
    let platform = Process::start(platform, "platform", dir);
    eventually("the platform listens", secs(10), || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    (platform, format!("http://127.0.0.1:{port}"))
}

#[test]
fn the_platform_of_the_example_is_one_that_gives_tokens() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        private_network(&dir);
        let configs = dir.folder("configs");
        let (_platform, url) = platform(&dir, &configs);
        let daemon = Daemon::at(&dir).env("PLATFORM_URL", &url).start();
        let token = fs::read_to_string(daemon.path("token")).unwrap();
        assert!(token.starts_with("ghs_"), "{token}");
        fs::write(configs.join(".auth_token"), "another").unwrap();
        fs::write(daemon.path("refresh"), "now").unwrap();
        let point = daemon.mountpoint().to_str().unwrap();
        eventually("the refusal is told", secs(10), || {
            let status = tokenfs_run(&dir, &["status", point]).stdout;
            (status.starts_with("degraded") && status.contains("401 Unauthorized")).then_some(())
        });
    });
}

#[test]
fn the_line_about_a_401_tells_what_the_server_thinks_of_the_mounts_token() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        private_network(&dir);
        let configs = dir.folder("there");
        let (_platform, url) = platform(&dir, &configs);
        let asked = format!("{url}/admin/github-installation-token");
        let line = shown("sh", "rate_limit");
        let line = line.replace("https://api.github.com/rate_limit", &asked);
        let ask = |mount: &str| {
            let mut shell = command("sh", User::Own);
            shell.args(["-c", &line.replace("/run/molecule/token", mount)]);
            run(shell, &dir, secs(10))
        };
        // The server takes its own bearer, and no other token.
        let bearer = fs::read_to_string(configs.join(".auth_token")).unwrap();
        let mut daemon = Daemon::at(&dir).env("GITHUB_TOKEN", &bearer).start();
        let point = daemon.mountpoint().to_str().unwrap().to_owned();
        assert_eq!(ask(&point).ok(), "200\n");
        daemon.stop();
        let refused = Daemon::at(&dir).args(["--made-up", "10m"]).start();
        assert_eq!(ask(refused.mountpoint().to_str().unwrap()).ok(), "401\n");
        let nowhere = ask("/nowhere");
        assert!(!nowhere.status.success() && nowhere.stdout.is_empty(), "{}", nowhere.stderr);
        assert!(nowhere.stderr.contains("No such file"), "{}", nowhere.stderr);
    });
}

/// A checker of the registry has nothing to say against the examples with this prefix, and finds the mistake
/// when `right` is `wrong` in one of them.
fn checked(
    tool: &'static str,
    flags: &'static [&str],
    prefix: &'static str,
    right: &str,
    wrong: &str,
) {
    let dir = TestDir::new();
    let check = |files: &[PathBuf]| {
        let mut check = command(registry_tool(tool), User::Own);
        check.args(flags).args(files);
        run(check, &dir, secs(30))
    };
    let files = examples(prefix);
    check(&files).ok();
    let text = fs::read_to_string(files.first().unwrap()).unwrap();
    assert!(text.contains(right));
    let broken = dir.file("wrong.yaml", text.replace(right, wrong));
    assert!(!check(&[broken]).status.success(), "{tool} finds no mistake");
}

#[test]
fn the_compose_files_follow_the_specification() {
    within(secs(60), || {
        let flags = &["--builtin-schema", "vendor.compose-spec"];
        checked("check-jsonschema", flags, "compose", "services:", "service:");
    });
}

#[test]
fn the_manifests_are_ones_that_kubernetes_takes() {
    within(secs(60), || {
        checked("kubernetes-validate", &["--strict"], "kubernetes", "mountPath", "mountpath");
    });
}

#[test]
fn systemd_understands_the_units() {
    within(secs(60), || {
        let dir = TestDir::new();
        for unit in ["molecule-tokenfs.user.service", "agent.service"] {
            let text = fs::read_to_string(project("docs/examples").join(unit)).unwrap();
            // Where the program will be, it is not here.
            let text = text.replace("%h/.local/bin/molecule-tokenfs", PROGRAM);
            let text = text.replace("/usr/bin/molecule-tokenfs", PROGRAM);
            let path = dir.file(unit, text);
            let mut verify = command("systemd-analyze", User::Own);
            verify.args(["verify", "--recursive-errors=no"]).env("XDG_RUNTIME_DIR", dir.path());
            verify.args(unit.contains(".user.").then_some("--user")).arg(path);
            let finished = run(verify, &dir, secs(20));
            assert!(finished.status.success(), "{unit}: {}", finished.stderr);
            assert!(!finished.stderr.contains(unit), "{}", finished.stderr);
        }
    });
}

#[test]
fn the_feature_of_the_dev_container_installs_mounts_and_wires() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        private_network(&dir);
        for path in ["/usr/local", "/etc"] {
            private_copy(Path::new(path), &dir);
        }
        mount(None::<&str>, "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        let configs = dir.folder("configs");
        let (_platform, url) = platform(&dir, &configs);

        // The feature with the tarball beside it, as far as this test needs it.
        let feature = dir.folder("feature");
        let source = project("docs/examples/devcontainer/molecule-tokenfs");
        let json = fs::read(source.join("devcontainer-feature.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json.get("version").unwrap(), env!("CARGO_PKG_VERSION"));
        fs::copy(source.join("install.sh"), feature.join("install.sh")).unwrap();
        fs::create_dir_all(dir.join("top/bin")).unwrap();
        fs::copy(PROGRAM, dir.join("top/bin/molecule-tokenfs")).unwrap();
        let mut pack = command("tar", User::Own);
        pack.arg("-C").arg(dir.path()).arg("-czf");
        pack.arg(feature.join("molecule-tokenfs-0-x86_64-linux.tar.gz")).arg("top");
        run(pack, &dir, secs(30)).ok();
        let mut install = command("sh", User::Own);
        install.arg(feature.join("install.sh")).env("_REMOTE_USER", "nobody");
        run(install, &dir, secs(30)).ok();

        let start = json.get("entrypoint").unwrap().as_str().unwrap();
        let script =
            "stat -c %U /run/molecule/token/token; git credential fill </request; command -v gh";
        let request = dir.file("request", "protocol=https\nhost=github.com\n\n");
        let script = script.replace("/request", request.to_str().unwrap());
        // All that the container would end with its first process ends with this one.
        let mut container = command("unshare", User::Own);
        container.args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation=unchanged",
        ]);
        container.args([start, "sh", "-ec", &script]).env("PATH", "/usr/local/bin:/usr/bin:/bin");
        container.env("PLATFORM_URL", &url).env("CONFIGS_DIR", &configs).env("HOME", dir.path());
        let said = run(container, &dir, secs(30)).ok();
        assert!(said.contains("nobody\n"), "{said}");
        assert!(said.contains("\npassword=ghs_"), "{said}");
        assert!(said.ends_with("/usr/local/bin/gh\n"), "{said}");
    });
}
