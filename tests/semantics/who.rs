//! Users.

use std::fs;

use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::process::{ORDINARY, User};
use crate::{Mount, Section};

const READ: &str = "cat \"$1/token\" \"$1/live/token\"";
const WRITE: &str = ": > \"$1/refresh\"";

/// For user 4242, and for group 4343 to read.
fn shared(flags: &[&str]) -> Mount {
    Mount::living("1h", |builder| {
        builder.args(["--owner", "4242", "--group", "4343", "--mode", "0440"]).args(flags)
    })
}

/// A line of shell as another user does it, who is in group 4343.
fn member(line: &str) -> String {
    format!("setpriv --reuid 1000 --regid 1000 --groups 7,4343 sh -c '{line}' sh \"$1\"")
}

pub fn check(section: &mut Section) {
    let mount = Mount::living("1h", |builder| builder.args(["--owner", "4242"]));
    section.says(
        "Users other than the owner and root get `EACCES`, whatever they try, or `EPERM` from \
         `chmod`, `chown` and `link`.",
        || {
            let tries = [
                "cat \"$1/token\"",
                "cat \"$1/live/token\"",
                "cat \"$1/gh/hosts.yml\"",
                ": > \"$1/token\"",
                "echo > \"$1/refresh\"",
                "cat \"$1/refresh\"",
                "ls \"$1\"",
                "cp /dev/null \"$1/new\"",
                "rm -f \"$1/token\"",
                "mkdir \"$1/new\"",
            ];
            for line in tries {
                let told = mount.shell(User::Number(ORDINARY), line);
                assert!(!told.status.success(), "{line}");
                assert!(told.stderr.contains("Permission denied"), "{line}: {told:?}");
            }
            for line in
                ["chmod 666 \"$1/token\"", "chown 1000 \"$1/token\"", "ln \"$1/token\" \"$1/x\""]
            {
                let told = mount.shell(User::Number(ORDINARY), line);
                assert!(told.stderr.contains("Operation not permitted"), "{line}: {told:?}");
            }
            for user in [User::Own, User::Number(4242)] {
                mount.shell(user, "cat \"$1/token\"").ok();
            }
        },
    );
    section.says("Everybody may `stat` a file whose name they know.", || {
        for name in ["token", "live/token", "gh/hosts.yml", "refresh", "."] {
            let line = format!("stat -c %u \"$1/{name}\"");
            assert_eq!(mount.shell(User::Number(ORDINARY), &line).ok(), "4242\n");
        }
    });
    section.says(
        "With `--group` and `--mode 0440` the members of the group may read, also where it is one \
         of their other groups.",
        || {
            let shared = shared(&[]);
            shared.shell(User::Own, &member(READ)).ok();
            shared.shell(User::Number(4242), READ).ok();
            let stranger = shared.shell(User::Number(ORDINARY), READ);
            assert!(stranger.stderr.contains("Permission denied"), "{stranger:?}");
        },
    );
    section.says(
        "They may write to `refresh` only where `--refresh-mode` says so; else they get `EACCES`.",
        || {
            for (flags, may) in [
                (&[][..], false),
                (&["--refresh-mode", "0620"], true),
                (&["--refresh-mode", "0640"], false),
            ] {
                let shared = shared(flags);
                let told = shared.shell(User::Own, &member(WRITE));
                assert_eq!(told.status.success(), may, "{flags:?} {told:?}");
                assert!(may || told.stderr.contains("Permission denied"), "{told:?}");
                shared.shell(User::Number(4242), WRITE).ok();
            }
        },
    );
    section.says(
        "In a user namespace a process counts as the user that it is outside of it: root of the \
         namespace does not count as root.",
        || {
            let read = "unshare --user --map-root-user cat \"$1/token\"";
            let of_somebody = mount.shell(User::Own, read);
            assert!(of_somebody.stderr.contains("Permission denied"), "{of_somebody:?}");
            let of_root = Mount::living("1h", |builder| builder.args(["--owner", "0"]));
            of_root.shell(User::Own, read).ok();
        },
    );
    section.says("Another mount or pid namespace changes nothing.", || {
        for namespace in ["--mount", "--pid --fork", "--mount --pid --fork"] {
            for _ in 0..2 {
                let line = format!("unshare {namespace} cat \"$1/token\" \"$1/live/token\"");
                let both = mount.shell(User::Own, &line).ok();
                let token = fs::read_to_string(mount.path("token")).unwrap();
                assert_eq!(both, format!("{token}{token}"));
                mount.rotate();
            }
        }
    });
    section.says(
        "Everybody may read the status files, and go to them through directories that only the \
         owner can list.",
        || {
            for name in ["status.json", "metrics.prom"] {
                mount.shell(User::Number(ORDINARY), &format!("cat \"$1/{name}\"")).ok();
            }
            mount.shell(User::Number(4242), "ls \"$1/live\"").ok();
        },
    );
    section.says(
        "Whoever may read the token is told there what exactly fails; others are told only what \
         kind of failure it is.",
        || {
            let dir = TestDir::new();
            let daemon = Daemon::at(&dir).start();
            let failing = Mount { daemon, dir };
            fs::read(failing.path("token")).unwrap_err();
            let told = |user| failing.shell(user, "cat \"$1/status.json\"").ok();
            let (owner, stranger) = (told(User::Own), told(User::Number(ORDINARY)));
            assert!(owner.contains("configs/.auth_token: it does not exist"), "{owner}");
            assert!(stranger.contains("the bearer file is missing or empty"), "{stranger}");
            assert!(!stranger.contains(".auth_token"), "{stranger}");
        },
    );
    section.says("The mount is `nosuid`, `nodev` and `noexec`.", || {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let place = mount.daemon.mountpoint().to_str().unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(4) == Some(place)).unwrap();
        let options: Vec<_> = line.split(' ').nth(5).unwrap().split(',').collect();
        for option in ["nosuid", "nodev", "noexec"] {
            assert!(options.contains(&option), "{line}");
        }
    });
}
