//! Files of settings in somebody's home that never end, or never begin.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::daemon::tokenfs;
use crate::support::dir::TestDir;
use crate::support::limit::within;
use crate::support::process::{Finished, User, command, run};
use crate::support::secs;

/// What a command may have of memory, in bytes.
const MEMORY: u64 = 1 << 30;

/// Makes something at a path.
type Make = fn(&Path);

/// Runs a command of the program with little memory: what reads for ever then fails.
fn run_small(dir: &TestDir, args: &[&str]) -> Finished {
    let mut small = command("prlimit", User::Own);
    small.arg(format!("--as={MEMORY}")).arg(crate::support::daemon::PROGRAM).args(args);
    small.env("HOME", dir.path()).env("CONFIGS_DIR", dir.join("configs"));
    run(small, dir, secs(15))
}

#[test]
fn setup_refuses_a_git_configuration_that_is_no_file() {
    within(secs(60), || {
        let dir = TestDir::new();
        let config = dir.join(".gitconfig");
        let cases: [(Make, &str); 2] = [
            (|at| mkfifo(at, Mode::S_IRWXU).unwrap(), "it is not a regular file but a FIFO"),
            (|at| symlink("/dev/zero", at).unwrap(), "it is not a regular file but a device"),
        ];
        for (make, sentence) in cases {
            make(&config);
            for args in [&["setup", "git", "--global"][..], &["setup", "git", "--global", "--undo"]]
            {
                let finished = run_small(&dir, args);
                assert_eq!(finished.status.code(), Some(1), "{args:?}: {}", finished.stderr);
                assert!(finished.stderr.contains(sentence), "{args:?}: {}", finished.stderr);
            }
            assert!(fs::symlink_metadata(&config).is_ok(), "it stays");
            fs::remove_file(&config).unwrap();
        }
        fs::write(&config, vec![b'#'; 2 * 1024 * 1024]).unwrap();
        let finished = run_small(&dir, &["setup", "git", "--global"]);
        assert!(finished.stderr.contains("larger than 1024 KiB"), "{}", finished.stderr);
    });
}

#[test]
fn doctor_reads_no_file_of_a_home_for_ever() {
    within(secs(60), || {
        let dir = TestDir::new();
        dir.file(".gitconfig", "[credential]\n\thelper = store\n");
        let gh = dir.folder(".config/gh");
        symlink("/dev/zero", dir.join(".git-credentials")).unwrap();
        mkfifo(&gh.join("hosts.yml"), Mode::S_IRWXU).unwrap();
        let finished = run_small(&dir, &["doctor"]);
        assert!(finished.stdout.contains("git"), "{}{}", finished.stdout, finished.stderr);
        assert!(finished.status.code().is_some(), "it was killed");
    });
}

#[test]
fn a_configuration_that_others_can_change_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    within(secs(60), || {
        let dir = TestDir::new();
        let config = dir.file("tokenfs.toml", "min-life = '4s'\n");
        let certificates = dir.file("ca.pem", "");
        let check = |user, by: &[&str]| {
            let mut check = tokenfs(&dir, user);
            check.args(["check"]).args(by);
            run(check, &dir, secs(10))
        };
        let (config_path, ca_path) = (config.to_str().unwrap(), certificates.to_str().unwrap());
        let by_config = ["--config", config_path];
        let by_ca = ["--ca-file", ca_path];
        for (path, by, name) in
            [(&config, &by_config, "the file of --config"), (&certificates, &by_ca, "the ca-file")]
        {
            for (owner, mode, is_refused) in [
                (0, 0o600, None),
                (0, 0o664, None), // The group is root's.
                (0, 0o646, Some("its mode is 0646")),
                (0, 0o777, Some("its mode is 0777")),
                (1001, 0o600, Some("belongs to user 1001")),
            ] {
                std::os::unix::fs::chown(path, Some(owner), Some(0)).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
                let finished = check(User::Own, by);
                let Some(why) = is_refused else {
                    assert!(finished.status.success(), "{mode:o}: {}", finished.stderr);
                    continue;
                };
                assert_eq!(finished.status.code(), Some(2), "{mode:o}: {}", finished.stderr);
                let sentence = finished.stderr.lines().next().unwrap();
                assert!(sentence.contains(why), "{sentence}");
                assert!(sentence.contains(&format!("{name}, {}", path.display())), "{sentence}");
                assert!(finished.stderr.contains("hint: ch"), "{}", finished.stderr);
            }
        }
        // A user's own file, and one of root's, are good for that user; root's group is not its own.
        let user = User::Number(1001);
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(check(user, &by_config).status.success());
        std::os::unix::fs::chown(&config, Some(0), Some(0)).unwrap();
        assert!(check(user, &by_config).status.success());
        std::os::unix::fs::chown(&config, Some(1001), Some(1002)).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o664)).unwrap();
        assert_eq!(check(user, &by_config).status.code(), Some(2));
        std::os::unix::fs::chown(&config, Some(1002), Some(1002)).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(check(user, &by_config).status.code(), Some(2));
        // And what is no file at all does not hold up the start.
        fs::remove_file(&config).unwrap();
        mkfifo(&config, Mode::S_IRWXU).unwrap();
        let finished = check(User::Own, &by_config);
        assert_eq!(finished.status.code(), Some(2));
        assert!(finished.stderr.contains("not a regular file but a FIFO"), "{}", finished.stderr);
    });
}
