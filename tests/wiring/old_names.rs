//! The scripts that go by the old names, against what images expect of these: each action's exit code
//! and output, with a mount and without one.

use std::fs;
use std::process::Command;

use crate::support::{Home, SHELLS, TOKEN, script, tell};

const NAME: &str = "molecule-git-token-helper.sh";

/// An action of the helper: its exit code, standard output and error.
fn act(home: &Home, shell: &[&str], change: impl Fn(&mut Command), words: &[&str]) -> Told {
    let mut command = home.command(shell);
    command.arg(script(NAME)).args(words);
    // Nothing of ours: what these tests see is the work of the script alone.
    command.env("PATH", "/usr/bin:/bin").env("MOLECULE_TOKENFS_MOUNTPOINT", home.mount());
    change(&mut command);
    tell(&mut command, "protocol=https\nhost=github.com\n\n")
}

type Told = (i32, String, String);

fn told(code: i32, stdout: &str, stderr: &str) -> Told {
    let stderr = stderr.lines().map(|line| format!("[molecule-git-token-helper] {line}\n"));
    (code, stdout.to_owned(), stderr.collect())
}

fn credentials(token: &str) -> String {
    format!("username=x-access-token\npassword={token}\n\n")
}

#[test]
fn with_a_mount_each_action_answers_as_before() {
    for shell in SHELLS {
        let home = Home::new();
        let frozen = |command: &mut Command| {
            command.env("GITHUB_TOKEN", "ghs_frozen");
        };
        let raw = format!("{TOKEN}\n");
        for (words, expected) in [
            (&["get"][..], told(0, &credentials(TOKEN), "")),
            (&[], told(0, &credentials(TOKEN), "")),
            (&["store"], told(0, "", "")),
            (&["erase"], told(0, "", "")),
            (&["_fetch_token"], told(0, &raw, "")),
            (&["_invalidate_cache"], told(0, "", "")),
            (&["_mountpoint"], told(0, &format!("{}\n", home.mount().display()), "")),
            (&["_no_such"], told(1, "", "unknown action: _no_such")),
        ] {
            assert_eq!(act(&home, shell, frozen, words), expected, "{words:?}");
        }
        home.put_token("ghs_next");
        assert_eq!(act(&home, shell, frozen, &["get"]), told(0, &credentials("ghs_next"), ""));
    }
}

#[test]
fn git_gets_the_token_of_the_repository_that_it_names_and_else_that_of_the_mount() {
    for shell in SHELLS {
        let home = Home::new();
        let get = |request: &str| {
            let mut command = home.command(shell);
            command.arg(script(NAME)).arg("get");
            command.env("MOLECULE_TOKENFS_MOUNTPOINT", home.mount());
            tell(&mut command, &format!("protocol=https\nhost=github.com\n{request}\n"))
        };
        let named = "path=acme/web.git\n";
        assert_eq!(get(named), told(0, &credentials(TOKEN), ""), "none is made on demand");
        home.write("mount/repos/acme/web/token", "ghs_web");
        home.write("mount/repos/acme/web.git/token", "ghs_web");
        home.write("mount/repos/token", "ghs_none");
        for path in ["acme/web", "acme/web.git", "acme/web.git/info/lfs", "git/acme/web/"] {
            let answer = get(&format!("path={path}\n"));
            assert_eq!(answer, told(0, &credentials("ghs_web"), ""), "{path}");
        }
        for path in ["", "web", "acme/other", "acme/../..", "../repos/acme", "acme/", "a b/web"] {
            let answer = get(&format!("path={path}\n"));
            assert_eq!(answer, told(0, &credentials(TOKEN), ""), "{path}");
        }
        assert_eq!(get(""), told(0, &credentials(TOKEN), ""));
        let fetched = act(&home, shell, |_| (), &["_fetch_token"]);
        assert_eq!(fetched, told(0, &format!("{TOKEN}\n"), ""));
    }
}

#[test]
fn a_mount_without_a_token_is_not_passed_over_for_a_frozen_one() {
    for shell in SHELLS {
        let home = Home::new();
        fs::remove_file(home.token_file()).unwrap();
        home.write("mount/status.json", "{}");
        let frozen = |command: &mut Command| {
            command.env("GITHUB_TOKEN", "ghs_frozen");
        };
        let why = "no token: No such file or directory. What is wrong and what to do: \
                   molecule-tokenfs status";
        for action in ["get", "_fetch_token"] {
            assert_eq!(act(&home, shell, frozen, &[action]), told(1, "", why), "{action}");
        }
    }
}

#[test]
fn where_nothing_can_be_mounted_the_environment_is_the_fall_back_as_before() {
    let missing = "nothing is mounted, and molecule-tokenfs is not installed\n";
    let fallen = format!("{missing}API unreachable, falling back to env GITHUB_TOKEN");
    let exhausted = format!("{missing}all token sources exhausted");
    let failed = format!("{missing}_refresh_gh: API fetch failed");
    for shell in SHELLS {
        let home = Home::new();
        let with = |tokens: &'static [(&str, &str)]| {
            move |command: &mut Command| {
                command.env("MOLECULE_TOKENFS_MOUNTPOINT", "/no/such/mount");
                command.envs(tokens.iter().copied());
            }
        };
        let both = with(&[("GITHUB_TOKEN", "ghs_one"), ("GH_TOKEN", "ghs_two")]);
        let second = with(&[("GH_TOKEN", "ghs_two")]);
        let none = with(&[]);
        let act = |change: &dyn Fn(&mut Command), action| act(&home, shell, change, &[action]);
        assert_eq!(act(&both, "get"), told(0, &credentials("ghs_one"), &fallen));
        assert_eq!(act(&second, "get"), told(0, &credentials("ghs_two"), &fallen));
        assert_eq!(act(&both, "_fetch_token"), told(0, "ghs_one\n", &fallen));
        assert_eq!(act(&none, "get"), told(1, "", &exhausted));
        assert_eq!(act(&none, "_fetch_token"), told(1, "", &exhausted));
        assert_eq!(act(&both, "_refresh_gh"), told(1, "", &failed));
        assert_eq!(act(&none, "_mountpoint"), told(1, "/no/such/mount\n", ""));
        for action in ["store", "erase", "_invalidate_cache"] {
            assert_eq!(act(&none, action), told(0, "", ""), "{action}");
        }
        assert!(!home.path(".gh_token").exists(), "nothing was refreshed");
    }
}

#[test]
fn the_daemon_without_the_program_ends_and_says_why() {
    for shell in SHELLS {
        let home = Home::new();
        let mut command = home.command(shell);
        command.arg(script("molecule-gh-token-refresh.sh"));
        command.env("PATH", "/usr/bin:/bin").env("MOLECULE_TOKENFS_MOUNTPOINT", "/no/such/mount");
        let (code, stdout, stderr) = tell(&mut command, "");
        assert_eq!((code, stdout.as_str()), (127, ""));
        let lines: Vec<_> = stderr.lines().collect();
        let [started, why] = lines[..] else { panic!("{stderr}") };
        assert!(started.starts_with("[molecule-gh-token-refresh] 20"), "{started}");
        assert!(started.ends_with("Z starting (interval=2700s, initial_delay=60s)"), "{started}");
        assert!(why.ends_with("Z molecule-tokenfs is not installed"), "{why}");
    }
}
