//! `run` where there is no FUSE: for its command nothing is different.

use std::fs;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::ledger::Verdict;

use crate::support::daemon::{PROGRAM, tokenfs};
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, ORDINARY, User, run};
use crate::support::secs;
use crate::{in_memory, without_fuse};

/// Runs a shell's line under `run` for an ordinary user, over a platform.
fn run_line(dir: &TestDir, demo: &molecule_tokenfs::demo::Demo, line: &str) -> Finished {
    let mut command = tokenfs(dir, User::Own);
    command.env("PLATFORM_URL", demo.url()).env("PROGRAM", PROGRAM);
    command.args(["run", "--no-system-wide", "--user", &ORDINARY.to_string(), "--mountpoint"]);
    command.arg(dir.join("token")).args(["--", "sh", "-c", line]);
    run(command, dir, secs(30))
}

#[test]
fn the_command_of_run_reads_files_and_outlives_them() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        without_fuse(&dir);
        let demo = molecule_tokenfs::demo::Demo::start(Setup::default()).unwrap();
        demo.register(&dir.join("configs")).unwrap();
        let told =
            run_line(&dir, &demo, "$PROGRAM wait && id -u >&2 && cat \"$GH_TOKEN_FILE\" && exit 7");
        assert_eq!(told.status.code(), Some(7), "{told:?}");
        assert!(told.stderr.lines().any(|line| line == ORDINARY.to_string()), "{told:?}");
        assert_eq!(demo.ledger().verdict(told.stdout.as_bytes()), Verdict::Live, "{told:?}");
        assert_eq!((in_memory().len(), dir.join("token").is_symlink()), (0, false));

        // Root takes the files away: the command goes on, as where a mount is unmounted.
        let asked = dir.join("asked");
        let line = format!(
            "touch {0}/mine && until [ -e {1} ]; do sleep 0.1; done; test ! -e \"$GH_TOKEN_FILE\" && echo on",
            dir.folder("open").display(),
            asked.display()
        );
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(dir.join("open"), everybody).unwrap();
        let umount = std::thread::scope(|scope| {
            let running = scope.spawn(|| run_line(&dir, &demo, &line));
            crate::support::eventually("it runs", secs(20), || {
                fs::metadata(dir.join("open/mine")).ok()
            });
            let mut umount = tokenfs(&dir, User::Own);
            umount.arg("umount").arg(dir.join("token"));
            let umount = run(umount, &dir, secs(10));
            fs::write(&asked, "").unwrap();
            let told = running.join().unwrap();
            assert_eq!(told.status.code(), Some(0), "{told:?}");
            assert_eq!(told.stdout, "on\n");
            umount
        });
        umount.ok();
        assert_eq!((in_memory().len(), dir.join("token").is_symlink()), (0, false));
    });
}
