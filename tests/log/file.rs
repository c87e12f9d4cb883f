//! `--log-file`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::signal::Signal;

use crate::support::daemon::tokenfs_run;
use crate::support::dir::TestDir;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::{eventually, secs};
use crate::{Backend, make_it_log, read_token, talkative};

#[test]
fn the_log_is_in_the_file_and_nowhere_else() {
    sandboxed(secs(60), || {
        each(&Backend::BOTH, Backend::name, |backend| {
            let dir = TestDir::new();
            let log = dir.join("log");
            let builder = talkative(&dir, backend);
            let mut daemon = builder.arg_pair("--log-file", &log).start();
            make_it_log(&daemon, backend);
            read_token(&daemon, &dir);
            assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
            let text = fs::read_to_string(&log).unwrap();
            for words in ["serving at", "ended: it was told to"] {
                assert!(text.contains(words), "{words}: {text}");
            }
            if backend == Backend::Fuse {
                assert!(text.contains("fuser::request"), "the worker's, too: {text}");
            }
            assert!(!text.contains('\x1b'), "no colours: {text}");
            assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(daemon.log(), "");
        });
    });
}

#[test]
fn it_is_opened_anew_when_it_was_moved_away() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let (log, moved) = (dir.join("log"), dir.join("log.1"));
        let builder = talkative(&dir, Backend::Fuse);
        let mut daemon = builder.arg_pair("--log-file", &log).start();
        read_token(&daemon, &dir);
        fs::rename(&log, &moved).unwrap();
        daemon.process().signal(Signal::SIGUSR2);
        // The newer worker writes there, too.
        for words in ["the newer worker has taken over", "fuser::request"] {
            eventually(words, secs(10), || {
                fs::read(daemon.path("status.json")).unwrap();
                let text = fs::read_to_string(&log).unwrap_or_default();
                text.contains(words).then_some(())
            });
        }
        let before = fs::read(&moved).unwrap();
        read_token(&daemon, &dir);
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        assert_eq!(fs::read(&moved).unwrap(), before, "the old one is let alone");
    });
}

#[test]
fn a_file_that_is_no_longer_there_costs_the_log_and_no_token() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let folder = dir.folder("logs");
        let builder = talkative(&dir, Backend::Fuse);
        let mut daemon = builder.arg_pair("--log-file", folder.join("log")).start();
        fs::rename(&folder, dir.join("moved")).unwrap();
        make_it_log(&daemon, Backend::Fuse);
        read_token(&daemon, &dir);
        assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
        let told = "No such file or directory (os error 2); the worker logs to standard error";
        assert!(daemon.log().contains(told), "{}", daemon.log());
        let log = fs::read_to_string(dir.join("moved/log")).unwrap();
        assert!(log.contains("(os error 2); the log goes on in the old one"), "{log}");
    });
}

#[test]
fn a_file_that_cannot_be_a_log_is_refused_with_the_reason() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        let target = dir.file("elsewhere", "theirs\n");
        symlink(&target, dir.join("link")).unwrap();
        let pipe = dir.join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        dir.folder("folder");
        let mount = dir.join("token");
        for (file, why) in [
            ("link", "it is a symbolic link"),
            ("pipe", "it is not a regular file"),
            ("folder", "Is a directory"),
            ("no/such/log", "No such file or directory"),
        ] {
            let path = dir.join(file);
            let (path, mount) = (path.to_str().unwrap(), mount.to_str().unwrap());
            for way in [&["mount"][..], &["mount", "--background"], &["run", "--mountpoint"]] {
                let words = [way, &[mount, "--made-up", "1m", "--log-file", path]].concat();
                let refused = tokenfs_run(&dir, &words);
                assert_eq!(refused.status.code(), Some(1), "{words:?}: {refused:?}");
                let told = format!("error: cannot open the log {path}: {why}");
                assert!(refused.stderr.contains(&told), "{words:?}: {refused:?}");
                assert!(refused.stderr.contains("hint: name another file: --log-file FILE"));
            }
            assert!(!mount.is_empty() && !dir.join("token").exists());
        }
        assert_eq!(fs::read_to_string(target).unwrap(), "theirs\n");
    });
}

#[test]
fn an_error_that_ends_it_is_told_on_standard_error_and_in_the_log() {
    sandboxed(secs(60), || {
        let dir = TestDir::new();
        dir.file("full/theirs", "x");
        let (log, full) = (dir.join("log"), dir.join("full"));
        let words = ["mount", full.to_str().unwrap(), "--log-file", log.to_str().unwrap()];
        let refused = tokenfs_run(&dir, &words);
        assert_eq!(refused.status.code(), Some(1));
        for text in [refused.stderr, fs::read_to_string(log).unwrap()] {
            assert!(text.contains("would hide `theirs`") && text.contains("hint: "), "{text}");
        }
    });
}
