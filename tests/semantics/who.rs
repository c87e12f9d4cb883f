//! Users.

use std::fs;

use crate::support::process::{ORDINARY, User};
use crate::{Mount, Section};

pub fn check(section: &mut Section) {
    let mount = Mount::living("1h", |builder| builder.args(["--owner", "4242"]));
    section.says("Another user than the owner and root gets `EACCES`, whatever is tried.", || {
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
        for user in [User::Own, User::Number(4242)] {
            mount.shell(user, "cat \"$1/token\"").ok();
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
