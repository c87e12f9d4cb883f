//! The command line as a person meets it: what is printed where, and the exit codes. Nothing here
//! needs a mount.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cli/settings.rs"]
mod settings;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use molecule_tokenfs::config::Key;
use molecule_tokenfs::files::MARKER;
use support::daemon::{PROGRAM, tokenfs, tokenfs_run};
use support::dir::TestDir;
use support::limit::within;
use support::process::{Finished, User, command, run};
use support::secs;

/// What no output may hold.
const CANARY: &str = "ghs_canary";

/// Everything that a command printed and its exit code, with the test's directory as `DIR`.
fn shown(dir: &TestDir, finished: &Finished) -> String {
    let text = format!(
        "{}{}exit code {}",
        finished.stdout,
        finished.stderr,
        finished.status.code().unwrap()
    );
    assert!(!text.contains(CANARY), "{text}");
    text.replace(dir.path().to_str().unwrap(), "DIR")
}

fn run_with(dir: &TestDir, environment: &[(&str, &str)], args: &[&str]) -> String {
    let mut command = tokenfs(dir, User::Own);
    command.envs(environment.iter().copied()).args(args);
    shown(dir, &run(command, dir, secs(10)))
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Files as a daemon keeps them, as far as `get` and `exec` can tell.
fn with_token(dir: &TestDir) -> String {
    let mountpoint = dir.join("mount");
    fs::create_dir(&mountpoint).unwrap();
    fs::write(mountpoint.join("token"), CANARY).unwrap();
    fs::write(mountpoint.join(MARKER), "").unwrap();
    mountpoint.to_str().unwrap().to_owned()
}

#[test]
fn a_wrong_command_line_is_exit_code_2_and_a_help_is_not() {
    within(secs(20), || {
        let dir = TestDir::new();
        for args in [&[][..], &["no-such"], &["get", "--no-such"], &["wait", "--for", "45"]] {
            assert_eq!(tokenfs_run(&dir, args).status.code(), Some(2), "{args:?}");
        }
        for args in [&["--help"][..], &["--version"], &["get", "--help"]] {
            let finished = tokenfs_run(&dir, args);
            assert_eq!(finished.stderr, "");
            assert!(finished.ok().contains("tokenfs"), "{args:?}");
        }
    });
}

#[test]
fn check_shows_each_setting_its_value_and_its_origin() {
    within(secs(20), || {
        let dir = TestDir::new();
        let config = dir.join("tokenfs.toml");
        fs::write(
            &config,
            "# ours\nmin-life = \"4s\"\nhost = [\"github.com\", \"git.example:8443\"]\n",
        )
        .unwrap();
        let text = run_with(
            &dir,
            &[
                ("PLATFORM_URL", "http://user:ghs_canary@platform:8080/"),
                ("WORKSPACE_ID", "ws-1"),
                ("CONFIGS_DIR", "/no/configs"),
                ("TOKEN_REFRESH_INTERVAL_SEC", "600"),
                ("GITHUB_TOKEN", ""),
                ("GH_TOKEN", CANARY),
                ("XDG_RUNTIME_DIR", "/run/user/0"),
                ("MOLECULE_TOKENFS_MOUNTPOINT", "/somewhere"),
            ],
            &["check", "--owner", "1000", "--group", "1000", "--config", config.to_str().unwrap()],
        );
        // What is set here; the defaults are in the test of each setting.
        let set: Vec<_> = text.lines().filter(|line| !line.ends_with("  default")).collect();
        insta::assert_snapshot!(set.join("\n"), @r"
            SETTING                VALUE                          FROM
            platform-url           http://…@platform:8080         PLATFORM_URL
            workspace-id           ws-1                           WORKSPACE_ID
            configs-dir            /no/configs                    CONFIGS_DIR
            refresh-interval       10m                            TOKEN_REFRESH_INTERVAL_SEC
            min-life               4s                             DIR/tokenfs.toml:2
            owner                  1000                           --owner
            group                  1000                           --group
            host                   github.com, git.example:8443   DIR/tokenfs.toml:3
            token                  fingerprint df683ed0           GH_TOKEN

            Configuration file: DIR/tokenfs.toml
            Mountpoint unless one is named: /somewhere
            A token is asked of these, in this order:
              1. platform: GET http://…@platform:8080/workspaces/ws-1/github-installation-token, with the bearer in /no/configs/.auth_token (now the bearer file is missing or empty: the workspace has not registered with the platform yet)
              2. env: the token of GH_TOKEN, taken to live 1h
            exit code 0
            ");
    });
}

#[test]
fn a_variable_that_is_no_setting_is_a_warning_with_the_one_that_was_meant() {
    within(secs(20), || {
        let dir = TestDir::new();
        let variables = [
            ("MOLECULE_TOKENFS_MINLIFE", CANARY),
            ("MOLECULE_TOKENFS_MOUNTPOINT", "/somewhere"),
            ("MOLECULE_TOKENFS_COLOUR", "red"),
            ("MOLECULE_TOKENFS_MODE", "0440"),
            ("MOLECULE_TOKENFS_VEIW", ""),
        ];
        let text = run_with(&dir, &variables, &["check"]);
        let warnings: Vec<_> = text.lines().filter(|line| line.contains("is no setting")).collect();
        insta::assert_snapshot!(warnings.join("\n"), @r"
            warning: the variable MOLECULE_TOKENFS_COLOUR is no setting, and ignored: molecule-tokenfs check shows all settings
            warning: the variable MOLECULE_TOKENFS_MINLIFE is no setting, and ignored: did you mean MOLECULE_TOKENFS_MIN_LIFE?
            ");
    });
}

#[test]
fn every_help_tells_the_exit_codes_and_where_a_command_stands() {
    within(secs(60), || {
        let dir = TestDir::new();
        let help = |words: &[&str]| tokenfs_run(&dir, words).ok();
        for name in commands(&help(&["--help"])) {
            let text = help(&[&name, "--help"]);
            let told = text.contains("\nExit codes:\n") || text.contains("\nCommands:\n");
            assert!(told, "{name}: {text}");
        }
        for name in ["setup", "setup git", "setup gh"] {
            let words: Vec<_> = name.split(' ').chain(["--help"]).collect();
            assert!(help(&words).contains("\nExit codes:\n"), "{name}");
        }
        let run = help(&["run", "--help"]);
        let (before, settings) = run.split_once("\nSettings:\n").unwrap();
        assert!(before.contains("[COMMAND]...") && !settings.contains("[COMMAND]..."), "{run}");
    });
}

#[test]
fn a_command_without_dashes_before_it_is_told_where_it_stands() {
    within(secs(20), || {
        let dir = TestDir::new();
        for (words, right) in [
            (&["run", "sh", "-c", "true"][..], "molecule-tokenfs run -- sh …"),
            (&["run", "--user", "agent", "sh"], "molecule-tokenfs run -- sh …"),
            (&["exec", "true"], "molecule-tokenfs exec -- true …"),
        ] {
            let told = tokenfs_run(&dir, words);
            assert_eq!(told.status.code(), Some(2), "{told:?}");
            let tip = format!("tip: the command and its arguments stand after --: {right}\n");
            assert!(told.stderr.contains(&tip), "{told:?}");
        }
        for words in [&["get", "a", "b"][..], &["run", "--no-such"]] {
            let told = tokenfs_run(&dir, words);
            assert!(!told.stderr.contains("stand after --: "), "{told:?}");
        }
    });
}

#[test]
fn what_cannot_be_unmounted_for_it_is_not_there_is_exit_code_1_however_it_is_named() {
    within(secs(20), || {
        let dir = TestDir::new();
        let nowhere = dir.join("nowhere");
        let nowhere = nowhere.to_str().unwrap();
        let environment = [("MOLECULE_TOKENFS_MOUNTPOINT", nowhere)];
        insta::assert_snapshot!(run_with(&dir, &environment, &["umount"]), @r"
            error: no tokens are mounted (DIR/nowhere: it does not exist)
            hint: see what is mounted: findmnt -t fuse.molecule-tokenfs
            exit code 1
            ");
        insta::assert_snapshot!(run_with(&dir, &[], &["umount", nowhere]), @r"
            error: nothing of molecule-tokenfs is mounted at DIR/nowhere
            hint: see what is mounted: findmnt -t fuse.molecule-tokenfs
            exit code 1
            ");
    });
}

#[test]
fn check_can_be_read_by_a_program() {
    within(secs(20), || {
        let dir = TestDir::new();
        let mut command = tokenfs(&dir, User::Own);
        command.env("GH_TOKEN", CANARY).args(["check", "--json", "--mode", "0440"]);
        let text = run(command, &dir, secs(10)).ok();
        assert!(!text.contains(CANARY), "{text}");
        let check: serde_json::Value = serde_json::from_str(&text).unwrap();
        let setting = |name: &str| {
            check["settings"]
                .as_array()
                .unwrap()
                .iter()
                .find(|s| s["name"] == name)
                .unwrap()
                .clone()
        };
        assert_eq!(setting("mode")["value"], "0440");
        assert_eq!(setting("mode")["from"], "--mode");
        assert_eq!(setting("token")["from"], "GH_TOKEN");
        assert_eq!(check["sources"][0]["name"], "platform");
    });
}

#[test]
fn what_is_wrong_in_the_configuration_is_told_with_its_place() {
    within(secs(30), || {
        let dir = TestDir::new();
        let config = dir.join("tokenfs.toml");
        let with_file = |text: &str| {
            fs::write(&config, text).unwrap();
            run_with(&dir, &[], &["check", "--config", config.to_str().unwrap()])
        };
        insta::assert_snapshot!(with_file("\nmin_life = \"4s\"\n"), @r"
            error: DIR/tokenfs.toml:2: unknown key `min_life`
            hint: did you mean `min-life`?
            exit code 2
            ");
        let keys = Key::ALL.map(Key::name).join(", ");
        let unlike_all = with_file("colour = \"red\"\n").replace(&keys, "KEYS");
        insta::assert_snapshot!(unlike_all, @r"
            error: DIR/tokenfs.toml:1: unknown key `colour`
            hint: the keys are KEYS
            exit code 2
            ");
        insta::assert_snapshot!(with_file("idle = 86400\n"), @r#"
            error: DIR/tokenfs.toml:1: wrong type for `idle`: expected a string in quotes, found an integer
            hint: write the value in quotes: idle = "86400"
            exit code 2
            "#);
        insta::assert_snapshot!(with_file("mode = 0440\n"), @r#"
            error: DIR/tokenfs.toml:1: this is not TOML: unexpected leading zero, expected nothing
            hint: write the value in quotes: mode = "0440"
            exit code 2
            "#);
        insta::assert_snapshot!(with_file("idle = \"one day\"\n"), @r"
            error: DIR/tokenfs.toml:1: invalid value `one day` for `idle`: expected a span of time such as 90s, 45m or 1h30m, at most a year
            exit code 2
            ");
        insta::assert_snapshot!(with_file("idle = \n"), @r"
            error: DIR/tokenfs.toml:1: this is not TOML: string values must be quoted, expected literal string
            exit code 2
            ");
        insta::assert_snapshot!(
            run_with(&dir, &[("TOKEN_REFRESH_JITTER_SEC", "2m")], &["check"]), @r"
            error: invalid value `2m` for TOKEN_REFRESH_JITTER_SEC: expected a whole number of seconds, at most a year
            exit code 2
            ");
        insta::assert_snapshot!(
            run_with(&dir, &[("PLATFORM_URL", "user:ghs_canary@platform")], &["check"]), @r"
            error: invalid value for PLATFORM_URL: expected an http:// or https:// URL without query
            exit code 2
            ");
        insta::assert_snapshot!(run_with(&dir, &[], &["check", "--log-level", "inof"]), @r"
            error: invalid value `inof` for --log-level: expected off, error, warn, info, debug, trace, or directives such as info,fuser=debug
            exit code 2
            ");
        insta::assert_snapshot!(run_with(&dir, &[], &["check", "--owner", "nobody-here"]), @r"
            error: invalid value `nobody-here` for --owner: expected a user of this machine, by name or number
            exit code 2
            ");
        insta::assert_snapshot!(run_with(&dir, &[], &["check", "--config", "/no/such.toml"]), @r"
            error: cannot read the file of --config, /no/such.toml
              caused by: No such file or directory (os error 2)
            exit code 2
            ");
    });
}

#[test]
fn a_token_variable_that_holds_none_is_a_warning() {
    within(secs(20), || {
        let dir = TestDir::new();
        let text = run_with(&dir, &[("GITHUB_TOKEN", "ghs_canary with a blank")], &["check"]);
        let warning = text.lines().find(|line| line.contains("GITHUB_TOKEN is ignored")).unwrap();
        insta::assert_snapshot!(warning, @r"warning: the value of GITHUB_TOKEN is ignored: the token holds a byte that no token may hold (0x20 at offset 10)");
    });
}

#[test]
fn a_reader_is_told_where_no_mount_was_found() {
    within(secs(20), || {
        let dir = TestDir::new();
        let nowhere = dir.join("nowhere");
        let environment = [("MOLECULE_TOKENFS_MOUNTPOINT", nowhere.to_str().unwrap())];
        insta::assert_snapshot!(run_with(&dir, &environment, &["get"]), @r"
            error: no tokens are mounted (DIR/nowhere: it does not exist)
            hint: mount them: molecule-tokenfs mount --background
            exit code 3
            ");
        insta::assert_snapshot!(run_with(&dir, &environment, &["wait", "--for", "500ms"]), @r"
            error: no token could be read within 500ms
              caused by: no tokens are mounted (DIR/nowhere: it does not exist)
            hint: mount them: molecule-tokenfs mount --background
            exit code 3
            ");
        insta::assert_snapshot!(run_with(&dir, &environment, &["exec", "--", "true"]), @r"
            error: no tokens are mounted (DIR/nowhere: it does not exist)
            hint: mount them: molecule-tokenfs mount --background
            exit code 3
            ");
        insta::assert_snapshot!(run_with(&dir, &environment, &["refresh"]), @r"
            error: no tokens are mounted (DIR/nowhere: it does not exist)
            hint: mount them: molecule-tokenfs mount --background
            exit code 3
            ");
    });
}

#[test]
fn get_prints_the_bytes_and_nothing_else() {
    within(secs(20), || {
        let dir = TestDir::new();
        let mountpoint = with_token(&dir);
        assert_eq!(tokenfs_run(&dir, &["get", &mountpoint]).ok(), CANARY);
        let unknown = run_with(&dir, &[], &["get", "--view", "tokn", &mountpoint]);
        assert!(unknown.starts_with("error: there is no view `tokn`\nhint: the views are token, "));
        assert!(unknown.ends_with("exit code 2"));
    });
}

#[test]
fn a_reader_that_leaves_is_no_error_to_talk_about() {
    within(secs(20), || {
        let dir = TestDir::new();
        let mut shell = command("bash", User::Own);
        let script = "\"$0\" completions bash | true; echo \"${PIPESTATUS[0]}\"";
        shell.args(["-c", script, PROGRAM]);
        // The other end may close before or after the script is written.
        let finished = run(shell, &dir, secs(10));
        assert_eq!(finished.stderr, "");
        assert!(["0\n", "141\n"].contains(&finished.stdout.as_str()), "{}", finished.stdout);

        let mut shell = command("bash", User::Own);
        let script = "set -o pipefail; \"$0\" completions bash | (exec <&-; sleep 0.2); \"$0\" completions bash > /dev/full";
        shell.args(["-c", script, PROGRAM]);
        let finished = run(shell, &dir, secs(10));
        assert!(finished.stderr.starts_with("error: cannot write to standard output\n"));
        assert_eq!(finished.status.code(), Some(1));
    });
}

#[test]
fn wait_waits_for_the_mount_too() {
    within(secs(20), || {
        let dir = TestDir::new();
        let mountpoint = dir.join("mount");
        let mut wait = tokenfs(&dir, User::Own);
        wait.args(["wait", "--for", "10s"]).arg(&mountpoint);
        let mut waiting = support::process::Process::start(wait, "wait", &dir);
        std::thread::sleep(support::millis(300));
        assert!(waiting.ended().is_none(), "{}", waiting.stderr());
        with_token(&dir);
        assert!(waiting.wait(secs(5)).success());
    });
}

/// Runs `exec` with a fake mount.
fn exec(dir: &TestDir, mountpoint: &str, args: &[&str]) -> Finished {
    let mut command = tokenfs(dir, User::Own);
    command.args(["exec", "--mountpoint", mountpoint]).args(args);
    run(command, dir, secs(10))
}

#[test]
fn exec_puts_the_token_into_the_environment_and_nowhere_else() {
    within(secs(20), || {
        let dir = TestDir::new();
        let mountpoint = with_token(&dir);
        let script = "printf %s \"$GH_TOKEN\"; tr '\\0' ' ' < /proc/self/cmdline >&2";
        let finished = exec(&dir, &mountpoint, &["--", "sh", "-c", script]);
        assert!(!finished.stderr.contains(CANARY), "{}", finished.stderr);
        assert_eq!(finished.ok(), CANARY);

        let script = "printf '%s %s %s' \"$A\" \"$B\" \"${GH_TOKEN-unset}\"";
        let args = ["--env", "A", "--env", "B", "--", "sh", "-c", script];
        let both = exec(&dir, &mountpoint, &args).ok();
        assert_eq!(both, format!("{CANARY} {CANARY} unset"));
    });
}

#[test]
fn exec_ends_as_its_command_does() {
    within(secs(20), || {
        let dir = TestDir::new();
        let mountpoint = with_token(&dir);
        let plain = dir.join("plain");
        fs::write(&plain, "not a program").unwrap();
        fs::set_permissions(&plain, PermissionsExt::from_mode(0o644)).unwrap();
        let code = |args: &[&str]| exec(&dir, &mountpoint, args).status.code();
        assert_eq!(code(&["--", "sh", "-c", "exit 42"]), Some(42));
        assert_eq!(code(&["--", "no-such-program-here"]), Some(127));
        assert_eq!(code(&["--", plain.to_str().unwrap()]), Some(126));
        assert_eq!(code(&["--env", "A=B", "--", "true"]), Some(2));
        assert_eq!(code(&["true"]), Some(2), "the command stands after --");
        // A command that is not told otherwise dies of a closed pipe, as from any shell.
        let script = "yes | head -n 1 > /dev/null; echo ${PIPESTATUS[0]}";
        assert_eq!(exec(&dir, &mountpoint, &["--", "bash", "-c", script]).ok(), "141\n");
    });
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    within(secs(30), || {
        let dir = TestDir::new();
        let commands = commands(&tokenfs_run(&dir, &["--help"]).ok());
        assert!(commands.len() >= 8, "{commands:?}");

        let pages = dir.join("man/man1");
        tokenfs_run(&dir, &["man", pages.to_str().unwrap()]).ok();
        let page = fs::read_to_string(pages.join("molecule-tokenfs.1")).unwrap();
        assert!(page.contains("Exit codes"), "{page}");
        for shell in ["bash", "zsh", "fish"] {
            let script = tokenfs_run(&dir, &["completions", shell]).ok();
            for name in &commands {
                assert!(script.contains(name.as_str()), "{shell}: {name}");
            }
            for hidden in [
                "run-command",
                "read-foreign",
                "demo-platform",
                "--made-up",
                "tell-parent",
                "--started",
            ] {
                assert!(!script.contains(hidden), "{shell}: {hidden}");
            }
            for value in ["0440", "git-credential", "gh/hosts.yml", "fuse", "trace", "directory"] {
                assert!(script.contains(value), "{shell}: {value}");
            }
        }
        for name in &commands {
            assert!(pages.join(format!("molecule-tokenfs-{name}.1")).exists(), "{name}");
        }
        let mut syntax = Command::new("bash");
        let script = dir.join("completions");
        fs::write(&script, tokenfs_run(&dir, &["completions", "bash"]).ok()).unwrap();
        assert!(syntax.arg("-n").arg(&script).status().unwrap().success());

        // As a person at a shell sees it.
        let mut complete = command("bash", User::Own);
        let ask = "source \"$1\"; COMP_WORDS=(molecule-tokenfs mount --backend f); COMP_CWORD=3
            _molecule__tokenfs molecule-tokenfs f --backend; echo \"${COMPREPLY[@]}\"";
        complete.args(["-c", ask, "bash"]).arg(&script);
        assert_eq!(run(complete, &dir, secs(10)).ok(), "fuse files\n");
    });
}
