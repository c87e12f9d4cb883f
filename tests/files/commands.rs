//! The commands among files.

use std::fs;
use std::path::PathBuf;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::secret::Fingerprint;
use nix::sys::signal::Signal;

use crate::Workspace;
use crate::support::daemon::{PROGRAM, tokenfs, tokenfs_run};
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, User, command, run};
use crate::support::{eventually, secs};

impl Workspace {
    fn tell(&self, args: &[&str]) -> Finished {
        tokenfs_run(&self.dir, &[args, &[self.daemon.mountpoint().to_str().unwrap()]].concat())
    }
}

#[test]
fn get_wait_refresh_status_and_exec_work_as_on_a_mount() {
    sandboxed(secs(60), || {
        let workspace = Workspace::start(Setup::with_life(secs(3600)), |builder| builder);
        workspace.tell(&["wait"]).ok();
        let first = workspace.tell(&["get"]).ok();
        assert_eq!(workspace.demo.ledger().verdict(first.as_bytes()), Verdict::Live);
        let header = workspace.tell(&["get", "--view", "header"]).ok();
        assert_eq!(header, format!("Authorization: Bearer {first}\n"));
        assert_eq!(workspace.tell(&["get", "--min-life", "50m"]).ok(), first);
        let line = workspace.tell(&["refresh"]).ok();
        assert!(line.starts_with("token ") && line.ends_with("s left\n"), "{line}");
        let second = workspace.tell(&["get"]).ok();
        assert_ne!(second, first);
        assert!(workspace.tell(&["status"]).ok().starts_with("fresh: "));

        let mut exec = tokenfs(&workspace.dir, User::Own);
        exec.args(["exec", "--env", "T", "--mountpoint"]).arg(workspace.daemon.mountpoint());
        exec.args(["--", "sh", "-c", "printf %s \"$T\""]);
        assert_eq!(run(exec, &workspace.dir, secs(10)).ok(), second);

        let upgrade = workspace.tell(&["upgrade"]);
        assert_eq!(upgrade.status.code(), Some(1));
        assert!(upgrade.stderr.contains("cannot hand over"), "{upgrade:?}");
        assert!(upgrade.stderr.contains("hint: start it again"), "{upgrade:?}");
        nix::sys::signal::kill(workspace.daemon.pid(), Signal::SIGUSR1).unwrap();
        eventually("the signal brings another", secs(10), || {
            (workspace.token() != second.as_bytes()).then_some(())
        });
    });
}

#[test]
fn what_is_refused_is_withheld_until_another_comes() {
    sandboxed(secs(60), || {
        let workspace = Workspace::start(Setup::with_life(secs(3600)), |builder| builder);
        let first = workspace.token();
        let mark = Fingerprint::of(&first).to_string();
        // Nobody can be told that it is none; it is not repeated in the log.
        fs::write(workspace.path("refresh"), &first).unwrap();
        eventually("the log says so", secs(5), || {
            workspace.daemon.log().contains("is no fingerprint").then_some(())
        });
        assert!(!workspace.daemon.log().contains(std::str::from_utf8(&first).unwrap()));
        fs::write(workspace.path("refresh"), format!("{mark}\n")).unwrap();
        let second = eventually("another token", secs(10), || {
            crate::read(&workspace.path("token")).filter(|token| *token != first)
        });

        // The source fails: the refused one is not there, and commands say why.
        workspace.demo.faults().stick(Service::Platform, Some(Fault::Status(500)));
        std::thread::sleep(secs(1));
        fs::write(workspace.path("refresh"), Fingerprint::of(&second).to_string()).unwrap();
        eventually("it is withheld", secs(5), || (!workspace.path("token").exists()).then_some(()));
        let get = workspace.tell(&["get"]);
        assert_eq!(get.status.code(), Some(3), "{get:?}");
        assert!(get.stderr.contains("the platform failed to mint a token"), "{get:?}");
    });
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

#[test]
fn git_works_through_both_helpers_also_after_a_token_was_refused() {
    sandboxed(secs(90), || {
        let git_root = tempfile::tempdir().unwrap();
        let setup =
            Setup { git_root: Some(git_root.path().to_owned()), ..Setup::with_life(secs(3600)) };
        let workspace = Workspace::start(setup, |builder| builder);
        workspace.token();
        let repository = workspace.demo.create_repository("one").unwrap();
        let (mount, host) = (workspace.daemon.mountpoint().display(), workspace.demo.host());
        let binary = format!("!{PROGRAM} git-credential --mountpoint {mount} --host {host}");
        let shell = format!(
            "!{} --mountpoint {mount} --host {host}",
            script("git-credential-molecule").display()
        );
        for helper in [binary, shell] {
            // The second time the server refuses the token that it gets first.
            for _ in 0..2 {
                let mut git = command("git", User::Own);
                git.env("HOME", workspace.dir.path()).env("GIT_TERMINAL_PROMPT", "0");
                git.args([
                    "-c",
                    "credential.helper=",
                    "-c",
                    &format!("credential.helper={helper}"),
                ]);
                git.args(["ls-remote", &repository]);
                let told = run(git, &workspace.dir, secs(30));
                assert!(told.status.success() || !can_retry(&workspace), "{helper}: {told:?}");
                workspace.demo.ledger().revoke(None);
                std::thread::sleep(secs(1));
            }
            fs::write(workspace.path("refresh"), "now\n").unwrap();
            eventually("a token that is not revoked", secs(10), || {
                let token = crate::read(&workspace.path("token"))?;
                (workspace.demo.ledger().verdict(&token) == Verdict::Live).then_some(())
            });
        }
    });
}

/// git asks a second time after a 401 from 2.46 on; an older one is well again with the next command.
fn can_retry(workspace: &Workspace) -> bool {
    let mut git = command("git", User::Own);
    git.arg("--version");
    let said = run(git, &workspace.dir, secs(5)).ok();
    let mut numbers = said.split([' ', '.']).filter_map(|word| word.trim().parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    version >= (2, 46)
}
