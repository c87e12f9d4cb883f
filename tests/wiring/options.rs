//! The shell's options as the caller leaves them: none of them prints a token, or hands it on.

use std::fs;
use std::process::Command;

use crate::support::{Home, TOKEN, script, tell};

/// Words before a script, and variables.
type Way = (&'static [&'static str], &'static [(&'static str, &'static str)]);

/// Ways to have a shell trace a script.
const WAYS: &[Way] = &[
    (&["dash", "-x"], &[]),
    (&["dash", "-v"], &[]),
    (&["dash", "-a"], &[]),
    (&["busybox", "sh", "-x"], &[]),
    (&["busybox", "sh", "-a", "-v"], &[]),
    (&["bash", "-x"], &[]),
    (&["bash", "--posix", "-x", "-a"], &[]),
    (&["bash"], &[("SHELLOPTS", "xtrace:verbose:allexport")]),
    (&["bash"], &[("SHELLOPTS", "xtrace"), ("PS4", "$(env >>trace; echo ++)")]),
    (&["bash"], &[("BASH_ENV", "options")]),
    (&["bash", "--posix"], &[("ENV", "options")]),
    (&["dash"], &[("ENV", "options")]),
    (&["busybox", "sh"], &[("ENV", "options")]),
    (&["bash", "-c", "exec 7>>trace; exec bash -x \"$0\" \"$@\""], &[("BASH_XTRACEFD", "7")]),
];

/// A home in which everything that a script runs notes its environment in `environments`.
fn home() -> Home {
    let home = Home::new();
    home.write("options", "set -axv\n");
    for (name, then) in [
        ("gh", "printf 'GH_TOKEN=%s\\n' \"$GH_TOKEN\""),
        ("sha256sum", "exec /usr/bin/sha256sum"),
        ("cat", "exec /bin/cat \"$@\""),
        // No mount can be made; the one that is there ends when it is asked for another token.
        ("molecule-tokenfs", "[ \"$1\" != mount ] && rm -f \"$HOME/mount/status.json\""),
    ] {
        home.program(
            &format!("bin/{name}"),
            &format!("#!/bin/dash\nenv | sed 's/^/{name} /' >>\"$HOME/environments\"\n{then}\n"),
        );
    }
    home.write("mount/status.json", "{}");
    home
}

/// Runs a script in each of the ways, and checks that its token goes to standard output only, and into
/// no environment but in `variable`.
fn assert_silent(name: &str, words: &[&str], variable: &str, change: impl Fn(&mut Command)) {
    for (before, variables) in WAYS {
        let home = home();
        let script = script(name);
        let mut command = home.command(*before);
        command.arg(&script).args(words).envs(variables.iter().copied());
        command.env("PATH", format!("{}:/usr/bin:/bin", home.path("bin").display()));
        command.env("MOLECULE_TOKENFS_MOUNTPOINT", home.mount());
        change(&mut command);
        let way = format!("{name}: {before:?} {variables:?}");
        let (code, stdout, stderr) = tell(&mut command, "protocol=https\nhost=github.com\n\n");
        assert!(code == 0 || code == 1, "{way}: {code} {stderr}");
        assert_eq!(stdout.matches(TOKEN).count(), usize::from(words != ["_refresh_gh"]), "{way}");
        assert!(!stderr.contains(TOKEN), "{way}: {stderr}");
        let read = |file: &str| fs::read_to_string(home.path(file)).unwrap_or_default();
        assert!(!read("trace").contains(TOKEN), "{way}: {}", read("trace"));
        let environments = read("environments");
        let leaks = |line: &&str| line.contains(TOKEN) && !line.contains(&format!(" {variable}="));
        assert_eq!(environments.lines().find(leaks), None, "{way}");
    }
}

#[test]
fn the_shim_shows_no_token() {
    assert_silent("gh", &["api"], "GH_TOKEN", |_| {});
}

#[test]
fn the_helper_in_the_shell_shows_no_token() {
    assert_silent("git-credential-molecule", &["get"], "nothing", |_| {});
}

#[test]
fn the_scripts_of_the_old_names_show_no_token() {
    assert_silent("molecule-git-token-helper.sh", &["get"], "nothing", |_| {});
    assert_silent("molecule-git-token-helper.sh", &["_refresh_gh"], "nothing", |_| {});
    // Without a mount, the fall-back.
    assert_silent("molecule-git-token-helper.sh", &["get"], "GITHUB_TOKEN", |command| {
        command.env("MOLECULE_TOKENFS_MOUNTPOINT", "/nonexistent").env("GITHUB_TOKEN", TOKEN);
    });
}

#[test]
fn the_daemon_of_the_old_name_shows_no_token() {
    let (before, variables) = (["bash"], [("SHELLOPTS", "xtrace:verbose:allexport")]);
    let home = home();
    let mut command = home.command(before);
    command.arg(script("molecule-gh-token-refresh.sh")).envs(variables);
    command.env("PATH", format!("{}:/usr/bin:/bin", home.path("bin").display()));
    command.env("MOLECULE_TOKENFS_MOUNTPOINT", home.mount());
    command.env("TOKEN_REFRESH_INITIAL_DELAY_SEC", "0").env("TOKEN_REFRESH_INTERVAL_SEC", "1");
    let (code, stdout, stderr) = tell(&mut command, "");
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("initial refresh "), "{stderr}");
    assert!(!stdout.contains(TOKEN) && !stderr.contains(TOKEN), "{stdout}{stderr}");
    let environments = fs::read_to_string(home.path("environments")).unwrap();
    assert!(!environments.contains(TOKEN), "{environments}");
}
