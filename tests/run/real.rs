//! Real git and real gh, as the agent of a container, while tokens that live for ten seconds die under
//! them: from the command of `run`, and from shells that know nothing of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::container::{Container, own_root};
use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, User, command, run};
use crate::support::{millis, secs};
use crate::world::{LIFE, platform};

/// What an image has: a wrapper around gh, before the real one.
const WRAPPER: &str = "#!/bin/sh\necho wrapped >>\"$HOME/wrapped\"\nexec /usr/bin/gh \"$@\"\n";

const LOOP: &str = r#"
    mkdir -p "$HOME/work" && cd "$HOME/work" || exit
    end=$(($(date +%s) + 15)) round=0
    while [ "$(date +%s)" -lt $end ]; do
        round=$((round + 1))
        gh api /user >/dev/null || exit 21
        git clone -q "$URL" clone || exit 22
        git -C clone -c user.name=a -c user.email=a@example.com commit -q --allow-empty -m $round || exit 23
        git -C clone push -q origin HEAD || exit 24
        git -C clone fetch -q || exit 25
        rm -rf clone
    done
    echo rounds $round"#;

#[test]
fn git_and_gh_never_fail_in_the_command_and_in_shells_beside_it() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        own_root(&dir);
        let demo = platform(&dir, LIFE);
        let url = demo.create_repository("work.git").unwrap();
        fs::write("/usr/local/bin/gh", WRAPPER).unwrap();
        fs::set_permissions("/usr/local/bin/gh", fs::Permissions::from_mode(0o755)).unwrap();
        let home = dir.folder("home");
        std::os::unix::fs::chown(&home, Some(ORDINARY), Some(ORDINARY)).unwrap();
        let user = ORDINARY.to_string();
        // What the container was started with: also what a shell of `docker exec` gets.
        let environment = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("HOME", home.to_str().unwrap()),
            ("GH_HOST", "github.localhost"),
            ("GITHUB_TOKEN", "ghs_of-an-hour-ago"),
            ("URL", &url),
        ];

        let mut inner = command(PROGRAM, User::Own);
        inner.args(["run", "--user", &user, "--min-life", "4s", "--host", demo.host()]);
        inner.args(["--platform-url", demo.url(), "--workspace-id"]);
        inner.arg(&demo.address().workspace_id).arg("--configs-dir").arg(dir.join("configs"));
        inner.args(["--", "env"]).arg(format!("HOME={}", home.display()));
        inner.args(["sh", "-c", LOOP]).envs(environment);
        let mut container = Container::start(&dir, &inner);
        let mut shells = 0;
        while container.outer.ended().is_none() {
            let script = "until [ -d \"$HOME/work\" ]; do sleep 0.1; done
                gh api /user >/dev/null && git ls-remote \"$URL\" HEAD";
            let agent = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups"];
            let mut shell = container.enter(&[&agent[..], &["sh", "-c", script]].concat());
            shell.envs(environment);
            let told = run(shell, &dir, secs(30));
            if told.stdout.contains("HEAD") {
                shells += 1;
                continue;
            }
            // Its end takes the shells in it along.
            let ends = (0..50).any(|_| {
                std::thread::sleep(millis(100));
                container.outer.ended().is_some()
            });
            assert!(ends, "{told:?}");
        }
        let told = format!("{}{}", container.said(), container.outer.stderr());
        assert_eq!(container.outer.wait(secs(1)).code(), Some(0), "{told}");
        assert!(told.contains("rounds "), "{told}");
        assert!(shells > 3, "only {shells} shells");
        let wrapped = fs::read_to_string(home.join("wrapped")).unwrap();
        assert!(wrapped.lines().count() > shells, "the wrapper of the image was passed over");
        assert_eq!(fs::read_to_string("/usr/local/bin/gh").unwrap(), WRAPPER, "it is back");

        let ledger = demo.ledger();
        let presented = ledger.report().tokens.iter().filter(|token| token.accepted > 0).count();
        assert!(presented >= 2, "{presented} tokens are not several lives");
        for service in ["git", "rest"] {
            let seen = ledger.counts().service(service);
            assert_eq!((seen.dead, seen.revoked, seen.unknown), (0, 0, 0), "{service}: {seen:?}");
            assert!(seen.live > 0, "{service} saw no token");
        }
    });
}
