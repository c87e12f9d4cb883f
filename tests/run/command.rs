//! The command: its exit code, its user, its environment.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::container::own_root;
use crate::support::daemon::PROGRAM;
use crate::support::dir::{TestDir, mounts_below};
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, Process, User, command, run};
use crate::support::{eventually, secs};
use crate::{MOUNTPOINT, run_with};

#[test]
fn the_exit_code_is_that_of_the_command_as_a_shell_tells_it() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let text = dir.file("text", "no program");
        for (words, code) in [
            (&["true"][..], 0),
            (&["sh", "-c", "exit 3"], 3),
            (&["sh", "-c", "kill -TERM $$"], 143),
            (&["sh", "-c", "kill -KILL $$"], 137),
            // A real-time signal.
            (&["sh", "-c", "kill -34 $$"], 162),
            (&["no-such-program"], 127),
            (&["/no/such/program"], 127),
            (&[text.to_str().unwrap()], 126),
            (&["/"], 126),
        ] {
            let told = run(run_with(&dir, &[&["--"], words].concat()), &dir, secs(20));
            assert_eq!(told.status.code(), Some(code), "{words:?}: {told:?}");
            let explained = told.stderr.contains("error: cannot run");
            assert_eq!(explained, matches!(code, 126 | 127), "{words:?}: {told:?}");
        }
    });
}

#[test]
fn a_program_that_the_user_cannot_see_is_not_found_either() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        // execvp(3) says EACCES when PATH leads through a closed directory, a shell says 127.
        let hidden = dir.folder("closed/bin");
        fs::set_permissions(
            dir.join("closed"),
            std::os::unix::fs::PermissionsExt::from_mode(0o700),
        )
        .unwrap();
        let mut command = run_with(&dir, &["--user", "1000", "--", "no-such-program"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", hidden.display()));
        assert_eq!(run(command, &dir, secs(20)).status.code(), Some(127));
    });
}

#[test]
fn the_command_is_the_user_s_with_home_groups_and_no_way_to_unmount() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let agent = format!("agent-of-test:x:{ORDINARY}:{ORDINARY}::/home/of-test:/bin/sh\n");
        fs::write("/etc/passwd", agent + &passwd).unwrap();
        let group = fs::read_to_string("/etc/group").unwrap();
        let groups =
            format!("helpers-of-test:x:4711:agent-of-test\nothers-of-test:x:4712:\n{group}");
        fs::write("/etc/group", groups).unwrap();

        let script = "echo $(id -u) $(id -g) $(id -G) $HOME $USER $LOGNAME
            grep Cap /proc/self/status; cat $GH_TOKEN_FILE; stat -c %u:%a $GH_TOKEN_FILE";
        let tell = |user: &str| {
            let command = run_with(&dir, &["--user", user, "--", "sh", "-c", script]);
            run(command, &dir, secs(20)).ok()
        };
        let said = tell("agent-of-test");
        let mut lines = said.lines();
        assert_eq!(
            lines.next().unwrap(),
            "1000 1000 1000 4711 /home/of-test agent-of-test agent-of-test"
        );
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let (name, value) = lines.next().unwrap().split_once(":\t").unwrap();
            let value = u64::from_str_radix(value, 16).unwrap();
            // Bounded by what a container engine leaves.
            let most = if set == "CapBnd" { 0xa804_25fb } else { 0 };
            assert_eq!((name, value & !most), (set, 0), "{said}");
        }
        assert!(lines.next().unwrap().starts_with("ghs_"), "{said}");
        assert!(said.ends_with("1000:400\n"), "{said}");

        assert!(tell("1000:others-of-test").starts_with("1000 4712 4712 /home/of-test agent"));
        assert!(tell("4242424").starts_with("4242424 0 0 / 4242424 4242424\n"));
        let command = run_with(&dir, &["--user", "nobody-of-test", "--", "true"]);
        let refused = run(command, &dir, secs(20));
        assert_eq!(refused.status.code(), Some(2));
        assert!(refused.stderr.contains("there is no user \"nobody-of-test\" here"), "{refused:?}");
    });
}

#[test]
fn git_and_gh_are_wired_through_the_environment_and_frozen_tokens_are_gone() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let real = dir.file("bin/gh", "#!/bin/sh\necho \"gh has $GH_TOKEN\"\n");
        fs::set_permissions(&real, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let script = "git config user.name; git config --get-all credential.helper
            printf 'protocol=https\\nhost=github.com\\n\\n' | git credential fill | grep ^password=
            printf 'protocol=https\\nhost=other.example\\n\\n' | git credential fill
            gh api; cat $GH_TOKEN_FILE; echo; git config lfs.cachecredentials
            echo ${GITHUB_TOKEN-none} ${GH_TOKEN-none} $GIT_TERMINAL_PROMPT $CARGO_NET_GIT_FETCH_WITH_CLI";
        for (given, (github, gh)) in [
            ([("GITHUB_TOKEN", "ghs_frozen"), ("GH_TOKEN", "ghs_frozen")], ("none", "none")),
            ([("GITHUB_TOKEN", "ghs_frozen"), ("GH_TOKEN", "ghp_mine")], ("none", "ghp_mine")),
        ] {
            let words = ["--no-system-wide", "--user", "1000", "--", "sh", "-c", script];
            let mut command = run_with(&dir, &words);
            command.env("PATH", format!("{}:/usr/bin:/bin", dir.join("bin").display()));
            command.envs(given).env("GIT_CONFIG_COUNT", "2");
            command.env("GIT_CONFIG_KEY_0", "user.name").env("GIT_CONFIG_VALUE_0", "somebody");
            command
                .env("GIT_CONFIG_KEY_1", "credential.helper")
                .env("GIT_CONFIG_VALUE_1", "!false");
            let told = run(command, &dir, secs(20));
            let lines: Vec<_> = told.stdout.lines().collect();
            let [name, helper, password, gh_said, token, lfs, rest] = lines[..] else {
                panic!("{told:?}")
            };
            assert_eq!((name, helper, lfs), ("somebody", "!false", "false"));
            assert!(token.starts_with("ghs_0"), "{told:?}");
            assert_eq!(password, format!("password={token}"));
            let expected = if gh == "none" { token } else { gh };
            assert_eq!(gh_said, format!("gh has {expected}"));
            assert_eq!(rest, format!("{github} {gh} 0 true"));
            assert!(!fs::exists("/usr/local/bin/gh").unwrap(), "--no-system-wide");
        }
    });
}

#[test]
fn the_mount_may_be_a_file() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let script = "test -f $MOLECULE_TOKENFS_MOUNTPOINT && cat $GH_TOKEN_FILE && echo
            printf 'protocol=https\\nhost=github.com\\n\\n' | git credential fill | grep ^password=";
        let words = ["--layout", "file", "--user", "1000", "--", "sh", "-c", script];
        let said = run(run_with(&dir, &words), &dir, secs(20)).ok();
        let (token, rest) = said.split_once('\n').unwrap();
        assert!(token.starts_with("ghs_"), "{said}");
        assert_eq!(rest, format!("password={token}\n"));
        assert!(!fs::exists(MOUNTPOINT).unwrap());
    });
}

#[test]
fn a_token_of_the_environment_is_the_fall_back() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let mut command = command(PROGRAM, User::Own);
        command.args(["run", "--no-system-wide", "--configs-dir"]).arg(dir.join("configs"));
        command.args(["--platform-url", "http://127.0.0.1:9"]);
        command.args(["--", "sh", "-c", "echo ${GITHUB_TOKEN-none}; cat $GH_TOKEN_FILE"]);
        command.env("GITHUB_TOKEN", "ghs_of-the-provisioning");
        assert_eq!(run(command, &dir, secs(20)).ok(), "none\nghs_of-the-provisioning");
    });
}

#[test]
fn without_a_command_it_serves_until_a_signal_comes() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let place = dir.join("elsewhere/token");
        let words = ["--mountpoint", place.to_str().unwrap(), "--no-system-wide"];
        let mut process = Process::start(run_with(&dir, &words), "run", &dir);
        eventually("it serves", secs(10), || fs::read(place.join("token")).ok());
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(secs(5)).code(), Some(0), "{}", process.stderr());
        assert!(!dir.join("elsewhere").exists());
    });
}

#[test]
fn a_mount_that_cannot_be_made_is_told_and_the_command_is_not_started() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        dir.file("full/theirs", "x");
        let started = dir.join("started");
        let place = dir.join("full");
        let words = ["--mountpoint", place.to_str().unwrap(), "--", "touch"];
        let mut command = run_with(&dir, &words);
        command.arg(&started);
        let refused = run(command, &dir, secs(20));
        assert_eq!(refused.status.code(), Some(1));
        assert!(refused.stderr.contains("would hide `theirs`"), "{refused:?}");
        assert!(!started.exists());
    });
}

#[test]
fn a_read_only_root_is_no_reason_to_give_up() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        for path in ["/etc", "/usr/local"] {
            use nix::mount::{MsFlags, mount};
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, path, None::<&str>, flags, None::<&str>).unwrap();
        }
        let told = run(run_with(&dir, &["--", "sh", "-c", "cat $GH_TOKEN_FILE"]), &dir, secs(20));
        for tool in ["git", "gh"] {
            let warning = format!("{tool} works for the command, and not in other shells");
            assert!(told.stderr.contains(&warning), "{told:?}");
        }
        assert!(told.ok().starts_with("ghs_"));
        assert_eq!(mounts_below(MOUNTPOINT.as_ref()).len(), 0);
    });
}

#[test]
fn where_fuse_cannot_be_had_the_tokens_are_files() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        let script = "until cat $GH_TOKEN_FILE 2>/dev/null; do sleep 0.05; done
            stat -f -c %T $GH_TOKEN_FILE; (sleep 0.1 & ); sleep 0.3; exit 4";
        let words = ["--backend", "files", "--user", "1000", "--", "sh", "-c", script];
        let told = run(run_with(&dir, &words), &dir, secs(20));
        assert_eq!(told.status.code(), Some(4), "{told:?}");
        assert!(told.stdout.starts_with("ghs_") && told.stdout.ends_with("tmpfs\n"), "{told:?}");
        assert!(!fs::exists("/run/molecule").unwrap(), "nothing is left");
    });
}

#[test]
fn an_ordinary_user_without_a_runtime_directory_has_the_tokens_at_home() {
    sandboxed(secs(30), || {
        let dir = TestDir::new();
        own_root(&dir);
        dir.give_to(ORDINARY);
        let mut command = command(PROGRAM, User::Number(ORDINARY));
        command.args(["run", "--made-up", "1m", "--", "sh", "-c"]);
        command
            .arg("until cat $GH_TOKEN_FILE 2>/dev/null; do sleep 0.05; done; echo; command -v gh");
        command.env("HOME", dir.path()).current_dir(dir.path());
        let told = run(command, &dir, secs(20)).ok();
        assert!(told.starts_with("ghs_") && told.contains("molecule-tokenfs-bin-"), "{told}");
        assert!(!dir.join(".molecule-tokenfs").exists(), "nothing is left");
    });
}

/// Opens the standard streams by their names, as programs do that log to `/dev/stdout`.
const OPEN: &str = "echo one >/dev/stdout && echo two >/dev/stderr && echo all is open";

#[test]
fn the_command_of_another_user_opens_its_streams_by_name() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        own_root(&dir);
        let words = [PROGRAM, "run", "--made-up", "1m", "--user", "1000", "--"];
        // Pipes, as container engines give them.
        let mut piped = command("bash", User::Own);
        piped.args(["-o", "pipefail", "-c", "\"$@\" 2>&1 | cat", "bash"]).args(words);
        piped.args(["sh", "-c", OPEN]).env("HOME", dir.path());
        let said = run(piped, &dir, secs(20)).ok();
        for line in ["one\n", "two\n", "all is open\n"] {
            assert!(said.contains(line), "{said}");
        }
        // A file of root's stays root's.
        let file = dir.file("log", "");
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut filed = command("sh", User::Own);
        filed.args(["-c", "file=$1; shift; exec \"$@\" >\"$file\"", "sh"]).arg(&file).args(words);
        filed.args(["sh", "-c", "echo written; echo opened >/dev/stdout"]).env("HOME", dir.path());
        let refused = run(filed, &dir, secs(20));
        assert!(refused.stderr.contains("Permission denied"), "{refused:?}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "written\n");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(&file).unwrap()), 0);
    });
}
