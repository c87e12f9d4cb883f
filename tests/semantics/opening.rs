//! open(2) and openat(2).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::faults::Fault;
use molecule_tokenfs::demo::ledger::Verdict;
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::support::process::{ORDINARY, Process, User, command};
use crate::support::{eventually, millis, secs};
use crate::{Mount, Section, Workspace, fails, is_token, listing};

const EXECUTION: &str = r"
import errno, os, sys
fd = os.open(sys.argv[1] + '/token', os.O_RDONLY)
try: os.execve(fd, ['token'], {})
except OSError as error: assert error.errno == errno.EACCES, error
";

fn open(mount: &Mount, flags: i32) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags).open(mount.path("token"))
}

fn hour() -> Setup {
    Setup::with_life(Duration::from_hours(1))
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let path = mount.path("token");
    section.says("Opening a view for reading gives the bytes of one token.", || {
        is_token(&fs::read(&path).unwrap());
    });
    section.says("An open that finds a fresh token asks no source.", || {
        let before = mount.attempts();
        for _ in 0..100 {
            fs::read(&path).unwrap();
        }
        assert_eq!(mount.attempts(), before);
    });
    waiting(section);
    section.says(
        "`O_WRONLY`, `O_RDWR` and `O_TRUNC` fail: with `EACCES` because of the mode bits, for the \
         owner too, and with `EROFS` for root.",
        || {
            assert_eq!(fails(OpenOptions::new().write(true).open(&path)), Errno::EROFS);
            let both = OpenOptions::new().read(true).write(true).open(&path);
            assert_eq!(fails(both), Errno::EROFS);
            assert_eq!(fails(open(&mount, libc::O_TRUNC)), Errno::EROFS);
            assert_eq!(fails(File::create(&path)), Errno::EROFS);
            is_token(&fs::read(&path).unwrap());
            let owned = Mount::living("1h", |builder| builder.args(["--owner", "1000"]));
            fs::read(owned.path("token")).unwrap();
            let cut = "python3 -c 'import os, sys; os.open(sys.argv[1], os.O_TRUNC)'";
            for redirection in [": >>", ": <>", ": >", cut] {
                let line = format!("{redirection} \"$1/token\"");
                let told = owned.shell(User::Number(ORDINARY), &line);
                assert!(told.stderr.contains("Permission denied"), "{told:?}");
            }
        },
    );
    section.says(
        "`O_CREAT` opens a view that is there; with `O_EXCL` it fails with `EEXIST`.",
        || {
            open(&mount, libc::O_CREAT).unwrap();
            assert_eq!(fails(open(&mount, libc::O_CREAT | libc::O_EXCL)), Errno::EEXIST);
        },
    );
    section.says(
        "`O_CREAT` of a name that is not there fails with `EROFS`, and `O_TMPFILE` with \
         `EOPNOTSUPP`.",
        || {
            let before = listing(mount.daemon.mountpoint());
            assert_eq!(fails(File::create(mount.path("new"))), Errno::EROFS);
            let root = mount.daemon.mountpoint();
            let temporary = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(root);
            assert_eq!(fails(temporary), Errno::EOPNOTSUPP);
            assert_eq!(listing(root), before);
        },
    );
    section.says(
        "`O_APPEND`, `O_DIRECT`, `O_SYNC`, `O_NOATIME` and `O_NOFOLLOW` change nothing about \
         reading.",
        || {
            let flags =
                [libc::O_APPEND, libc::O_DIRECT, libc::O_SYNC, libc::O_NOATIME, libc::O_NOFOLLOW];
            for flag in flags {
                let text = std::io::read_to_string(open(&mount, flag).unwrap()).unwrap();
                is_token(text.as_bytes());
            }
        },
    );
    section.says(
        "`O_DIRECTORY` fails with `ENOTDIR`, and opening a directory for writing with `EISDIR`, as \
         anywhere.",
        || {
            assert_eq!(fails(open(&mount, libc::O_DIRECTORY)), Errno::ENOTDIR);
            for directory in ["", "live", "gh"] {
                let opened = OpenOptions::new().write(true).open(mount.path(directory));
                assert_eq!(fails(opened), Errno::EISDIR);
            }
        },
    );
    section.says("`O_PATH` gives a descriptor without asking for a token.", || {
        let untouched = Mount::new();
        open(&untouched, libc::O_PATH).unwrap();
        assert_eq!(untouched.attempts(), 0);
    });
    section.says("Opening `/proc/self/fd/N` of a view is judged like opening its path.", || {
        use std::os::fd::AsRawFd as _;
        let held = File::open(&path).unwrap();
        let first = fs::read(&path).unwrap();
        mount.rotate();
        let again = fs::read(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        assert_ne!(again, first);
        assert_eq!(again, fs::read(&path).unwrap());
    });
    section.says("A view cannot be executed, not even through its descriptor: `EACCES`.", || {
        assert_eq!(fails(std::process::Command::new(&path).spawn()), Errno::EACCES);
        mount.python(EXECUTION);
    });
}

/// Opens that find no fresh token.
fn waiting(section: &mut Section) {
    section.says(
        "An open that finds none waits for a fetch and gives its token, also with `O_NONBLOCK`.",
        || {
            for flags in [0, libc::O_NONBLOCK] {
                let workspace = Workspace::new(hour(), |builder| builder);
                workspace.stick(Fault::Slow(millis(300)));
                let file = open(&workspace.mount, flags).unwrap();
                let token = std::io::read_to_string(file).unwrap();
                assert_eq!(workspace.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
            }
        },
    );
    let hanging = Workspace::new(hour(), |builder| builder.args(["--open-timeout", "1s"]));
    hanging.stick(Fault::Hang);
    section.says(
        "An open waits no longer than `--open-timeout`, and then fails with `ETIMEDOUT`.",
        || {
            assert_eq!(fails(open(&hanging.mount, 0)), Errno::ETIMEDOUT);
        },
    );
    let patient = Workspace::new(hour(), |builder| builder.args(["--open-timeout", "60s"]));
    patient.stick(Fault::Hang);
    section.says(
        "An open that waits ends with `EINTR` when a signal comes that its thread handles.",
        || {
            let script = "\
import signal, sys
def handler(number, frame): raise InterruptedError('told')
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.2)
try: open(sys.argv[1] + '/token')
except InterruptedError as error: print(error)";
            assert_eq!(patient.mount.python(script), "told\n");
        },
    );
    section.says("A process that waits in an open can be killed.", || {
        let mut cat = command("cat", User::Own);
        cat.arg(patient.mount.path("token"));
        let mut cat = Process::start(cat, "waiting", &patient.mount.dir);
        let waits = || {
            let stat = fs::read_to_string(format!("/proc/{}/stat", cat.pid())).ok()?;
            (stat.contains("(cat) S") || stat.contains("(cat) D")).then_some(())
        };
        eventually("it waits", secs(5), waits);
        cat.signal(Signal::SIGKILL);
        cat.wait(secs(5));
    });
}
