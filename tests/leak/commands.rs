//! Every command, with what it may print and what it may not.

use std::fs::{self, File};
use std::process::Command;

use crate::support::daemon::tokenfs;
use crate::support::namespace::sandboxed;
use crate::support::process::{User, run};
use crate::support::{millis, secs};
use crate::{Driven, IN_THE_ENVIRONMENT, LEVEL, PASSWORD, with_password};

/// Whether what a command prints is the token because that was asked for.
#[derive(Clone, Copy, PartialEq)]
enum Prints {
    /// Its output is searched.
    NoSecret,
    /// Only its errors are.
    TheToken,
}

/// Runs a command as somebody whose environment is full of secrets; searched at the end.
fn tell(driven: &mut Driven, prints: Prints, args: &[&str], code: i32, input: &str) {
    let mut command = tokenfs(&driven.dir, User::Own);
    full_of_secrets(&mut command, driven);
    let input = driven.dir.file("input", input);
    command.args(args).stdin(File::open(input).unwrap());
    let finished = run(command, &driven.dir, secs(20));
    let name = args.join(" ");
    if prints == Prints::NoSecret {
        driven.keep(&format!("the output of `{name}`"), finished.stdout);
    } else {
        assert!(!finished.stdout.is_empty(), "`{name}` prints nothing: {}", finished.stderr);
    }
    assert_eq!(finished.status.code(), Some(code), "{name}: {}", finished.stderr);
    driven.keep(&format!("the errors of `{name}`"), finished.stderr);
}

fn full_of_secrets(command: &mut Command, driven: &Driven) {
    command
        .env("GITHUB_TOKEN", IN_THE_ENVIRONMENT)
        .env("GH_TOKEN", IN_THE_ENVIRONMENT)
        .env("PLATFORM_URL", with_password(driven.demo.url()))
        .env("MOLECULE_TOKENFS_PROXY", with_password("http://proxy.invalid:3128"))
        .env("MOLECULE_TOKENFS_LOG_LEVEL", LEVEL)
        .env("RUST_BACKTRACE", "full");
}

#[test]
fn no_command_prints_a_secret_that_it_was_not_asked_for() {
    use Prints::{NoSecret, TheToken};
    sandboxed(secs(60), || {
        let mut driven = Driven::start(|_, _, builder| builder);
        let driven = &mut driven;
        let mount = &driven.mountpoint();
        let token = fs::read_to_string(driven.path("token")).unwrap();

        for view in ["token", "header", "git-credential", "netrc", "env", "token.json"] {
            tell(driven, TheToken, &["get", "--view", view, mount], 0, "");
        }
        let cmdline = "tr '\\0' '\\n' </proc/$$/cmdline; tr '\\0' '\\n' </proc/$PPID/cmdline; \
                       test -n \"$TOKEN\"";
        let exec = ["exec", "--env", "TOKEN", "--mountpoint", mount, "--", "sh", "-c", cmdline];
        tell(driven, NoSecret, &exec, 0, "");
        let log = driven.dir.join("background.err");
        for (args, code) in [
            (&["get", "--view", "nonsense", mount][..], 2),
            (&["get", "--min-life", "2h", mount], 3),
            (&["exec", "--mountpoint", mount, "--", "/no/such/program"], 127),
            (&["status", mount], 0),
            (&["status", "--json", mount], 0),
            (&["wait", mount], 0),
            (&["check"], 0),
            (&["check", "--json"], 0),
            (&["check", "--proxy", &format!("me:{PASSWORD}@proxy")], 2),
            (&["check", "--platform-url", &format!("me:{PASSWORD}@platform")], 2),
            (&["mount", mount], 1),
            (&["mount", "/dev/null"], 1),
            (&["mount", "--background", "--log-file", log.to_str().unwrap(), mount], 1),
        ] {
            tell(driven, NoSecret, args, code, "");
        }

        let request = format!("protocol=https\nhost=github.com\npassword={token}\n\n");
        for (action, prints) in [("get", TheToken), ("store", NoSecret), ("erase", NoSecret)] {
            let args = ["git-credential", "--mountpoint", mount, action];
            tell(driven, prints, &args, 0, &request);
        }
        // Not twice in a second: `get --min-life` asked already.
        std::thread::sleep(millis(1100));
        tell(driven, NoSecret, &["refresh", mount], 0, "");

        let (file, bin) = (driven.dir.join("gitconfig"), driven.dir.folder("bin"));
        let (file, bin) = (file.to_str().unwrap(), bin.to_str().unwrap());
        for args in [
            &["setup", "git", "--file", file][..],
            &["setup", "git", "--file", file, "--undo"],
            &["setup", "gh", "--dir", bin],
            &["setup", "gh", "--dir", bin, "--undo"],
            &["setup", "gh", "--config-dir"],
        ] {
            tell(driven, NoSecret, args, 0, "");
        }

        // What is wrong in a file is shown by its place, not by its text.
        for text in [
            format!("proxy = \"http://me:{PASSWORD}@proxy"),
            format!("proxy = http://me:{PASSWORD}@proxy"),
            format!("proxi = \"http://me:{PASSWORD}@proxy\""),
            format!("prefetch = \"{PASSWORD}\""),
            format!("proxy = [\"http://me:{PASSWORD}@proxy\"]"),
        ] {
            let file = driven.dir.file("broken.toml", &text);
            let args = ["check", "--config", file.to_str().unwrap()];
            tell(driven, NoSecret, &args, 2, "");
        }
        driven.look();
    });
}
