//! stat(2), statfs(2), access(2), and what would change an attribute.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

use crate::support::process::{ORDINARY, User};
use crate::{Mount, Section, fails, is_token};

const CHANGES: &str = r"
import errno, os, sys
root, user = sys.argv[1], int(sys.argv[2])
os.setuid(user)
for name in 'token', 'live/token', 'status.json', 'live', 'refresh', '.':
    path = os.path.join(root, name)
    before = os.stat(path)
    may_write = user == 0 or before.st_mode & 0o200
    by_the_mode = errno.EROFS if may_write else errno.EACCES
    secret = errno.EROFS if user == 0 else errno.EPERM
    changes = [(lambda: os.chmod(path, 0o777), errno.EROFS), (lambda: os.chown(path, user, -1), errno.EROFS),
               (lambda: os.utime(path), errno.EROFS), (lambda: os.utime(path, (1, 1)), errno.EROFS),
               (lambda: os.setxattr(path, 'user.x', b'1'), by_the_mode),
               (lambda: os.removexattr(path, 'user.x'), by_the_mode),
               (lambda: os.setxattr(path, 'trusted.x', b'1'), secret)]
    if name not in ('.', 'live', 'refresh'): changes.append((lambda: os.truncate(path, 0), by_the_mode))
    for number, (change, expected) in enumerate(changes):
        try: change(); sys.exit(f'changed {name} {number}')
        except OSError as error: assert error.errno == expected, (name, number, error)
    after = os.stat(path)
    for key in 'st_mode', 'st_uid', 'st_gid', 'st_mtime', 'st_size', 'st_ino':
        assert getattr(before, key) == getattr(after, key), (name, key)
";

const EXTENDED: &str = r"
import errno, os, sys
for name in '.', 'token', 'live', 'live/token', 'status.json', 'refresh':
    path = os.path.join(sys.argv[1], name)
    for ask in lambda: os.getxattr(path, 'user.molecule.status'), lambda: os.listxattr(path):
        try: ask(); sys.exit('an attribute')
        except OSError as error: assert error.errno == errno.EOPNOTSUPP, (name, error)
";

const IOCTL: &str = r"
import errno, fcntl, os, sys
fd = os.open(sys.argv[1] + '/token', os.O_RDONLY)
for command in 0x5401, 0x80086601:
    try: fcntl.ioctl(fd, command, bytes(64)); sys.exit('it works')
    except OSError as error: assert error.errno == errno.ENOTTY, error
";

/// Waits for the rotation between making a handle and opening it.
const HANDLE: &str = r"
import ctypes, errno, hashlib, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure): _fields_ = [('size', ctypes.c_uint), ('type', ctypes.c_int), ('bytes', ctypes.c_char * 128)]
root, path = os.open(sys.argv[1], os.O_RDONLY), os.path.join(*sys.argv[1:])
def read(): return open(path).read()
def handle():
    handle, mount = Handle(128, 0), ctypes.c_int()
    assert libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) == 0
    return handle
def reopen(handle):
    fd = libc.open_by_handle_at(root, ctypes.byref(handle), os.O_RDONLY)
    if fd < 0: return ctypes.get_errno()
    with open(fd) as file: return file.read()
def rotate():
    first = read()
    open(sys.argv[1] + '/refresh', 'w').write(hashlib.sha256(first.encode()).hexdigest()[:8])
    deadline = time.monotonic() + 10
    while read() == first or os.stat(path).st_size != len(read()): assert time.monotonic() < deadline; time.sleep(0.01)
";

#[expect(clippy::disallowed_methods, reason = "a test runs in real time")]
fn started() -> SystemTime {
    SystemTime::now()
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let path = mount.path("token");
    let size = |name: &str| fs::metadata(mount.path(name)).unwrap().len();
    section.says("`stat` asks no source and never waits, not even before the first token.", || {
        for name in ["token", "live/token", "gh/hosts.yml", "status.json", "refresh"] {
            fs::metadata(mount.path(name)).unwrap();
        }
        assert_eq!(mount.attempts(), 0);
    });
    section.says(
        "Before the first token the size of a view is 1, so that `test -s` holds.",
        || {
            assert_eq!((size("token"), size("live/netrc")), (1, 1));
            assert!(mount.shell(User::Own, "test -s \"$1/token\"").status.success());
            assert_eq!(mount.attempts(), 0);
        },
    );
    section.says("From then on it is the size of what the view shows now.", || {
        for _ in 0..3 {
            for name in ["token", "netrc", "live/token"] {
                let bytes = fs::read(mount.path(name)).unwrap();
                assert_eq!(size(name), bytes.len() as u64, "{name}");
            }
            mount.rotate();
        }
    });
    section.says(
        "Each token is an inode of its own: after a rotation the same name has another `st_ino`.",
        || {
            let before = fs::metadata(&path).unwrap().ino();
            mount.rotate();
            assert_ne!(fs::metadata(&path).unwrap().ino(), before);
        },
    );
    section.says("The inode of a token that has passed has no links (`st_nlink` is 0).", || {
        let file = File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 1);
        mount.rotate();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
    });
    section.says(
        "All times of a view are the moment when its token was published; reading changes none.",
        || {
            let now = started();
            mount.rotate();
            let metadata = fs::metadata(&path).unwrap();
            let modified = metadata.modified().unwrap();
            assert!(modified + crate::support::secs(5) > now, "{modified:?} {now:?}");
            assert_eq!(
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.ctime(), metadata.ctime_nsec())
            );
            assert_eq!(
                (metadata.mtime(), metadata.mtime_nsec()),
                (metadata.atime(), metadata.atime_nsec())
            );
            fs::read(&path).unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_eq!(after.modified().unwrap(), modified);
            assert_eq!(after.accessed().unwrap(), modified);
        },
    );
    section.says(
        "The times of a directory of views are those of its last rotation, and there is no birth \
         time.",
        || {
            for directory in [".", "gh"] {
                let times = || {
                    let directory = fs::metadata(mount.path(directory)).unwrap();
                    (directory.modified().unwrap(), directory.ctime_nsec())
                };
                let before = times();
                mount.rotate();
                let view = fs::metadata(&path).unwrap();
                assert_eq!(times(), (view.modified().unwrap(), view.ctime_nsec()));
                assert!(times() > before);
                assert!(view.created().is_err());
            }
            // Also where the supervisor, which renames at each rotation, is late.
            let times = [".", "gh"].map(|directory| mount.path(directory));
            let times =
                || times.each_ref().map(|path| fs::metadata(path).unwrap().modified().unwrap());
            let before = times();
            let supervisor = mount.daemon.pid();
            kill(supervisor, Signal::SIGSTOP).unwrap();
            mount.rotate();
            let after = times();
            kill(supervisor, Signal::SIGCONT).unwrap();
            let view = fs::metadata(&path).unwrap().modified().unwrap();
            assert_eq!(after, [view, view]);
            assert_ne!(after, before);
        },
    );
    section.says(
        "Views have the mode 0400 and `refresh` 0600, directories 0711, the status files 0444.",
        || {
            for (name, mode) in [
                ("token", 0o400),
                ("live/env", 0o400),
                ("refresh", 0o600),
                (".", 0o711),
                ("gh", 0o711),
                ("live/gh", 0o711),
                ("status.json", 0o444),
                ("metrics.prom", 0o444),
            ] {
                let metadata = fs::metadata(mount.path(name)).unwrap();
                assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
            }
        },
    );
    section.says(
        "The status files always have the same size, that of what they hold, and the same times, \
         whatever they show: tools that copy only what is newer (`rsync`, `cp -u`) take them for \
         unchanged.",
        || {
            for name in ["status.json", "metrics.prom"] {
                let modified = || fs::metadata(mount.path(name)).unwrap().modified().unwrap();
                let (before, then) = (size(name), modified());
                let shown = fs::read(mount.path(name)).unwrap();
                mount.rotate();
                assert_eq!((size(name), modified()), (before, then), "{name}");
                assert_ne!(fs::read(mount.path(name)).unwrap(), shown, "{name}");
                assert_eq!(fs::read(mount.path(name)).unwrap().len() as u64, before, "{name}");
            }
        },
    );
    section.says(
        "`statfs` reports a FUSE file system without blocks, inodes or free space.",
        || {
            let root = mount.daemon.mountpoint();
            assert_eq!(statfs(root).unwrap().filesystem_type(), FUSE_SUPER_MAGIC);
            let numbers = statvfs(root).unwrap();
            assert_eq!((numbers.blocks(), numbers.blocks_available(), numbers.files()), (0, 0, 0));
        },
    );
    section.says(
        "`access` judges by mode and owner alone; so root is told that it may write, although a \
         write then fails.",
        || {
            assert_eq!(access(&path, AccessFlags::R_OK | AccessFlags::W_OK), Ok(()));
            assert_eq!(access(&path, AccessFlags::X_OK), Err(Errno::EACCES));
            assert_eq!(fails(fs::OpenOptions::new().write(true).open(&path)), Errno::EROFS);
            for (test, code) in [("-r \"$1/token\"", 1), ("-r \"$1/status.json\"", 0)] {
                let told = mount.shell(User::Number(ORDINARY), &format!("test {test}"));
                assert_eq!(told.status.code(), Some(code), "{test}");
            }
        },
    );
    section.says(
        "`chmod`, `chown`, `utimensat`, `truncate`, `setxattr` and `removexattr` fail and change \
         nothing: for root and the owner with `EROFS`, or for the owner with `EACCES` and `EPERM` \
         where the mode bits forbid it already.",
        || {
            let owned = Mount::living("1h", |builder| builder.args(["--owner", "4242"]));
            for user in ["0", "4242"] {
                owned.python_with(CHANGES, &[user]);
            }
            is_token(&fs::read(owned.path("token")).unwrap());
        },
    );
    section.says(
        "A directory and what is in it have no extended attributes: `getxattr` and `listxattr` \
         fail with `EOPNOTSUPP`.",
        || {
            mount.python(EXTENDED);
        },
    );
    section.says("`ioctl` fails with `ENOTTY`.", || {
        mount.python(IOCTL);
    });
    section.says(
        "A file handle (`name_to_handle_at`) of a view opens the newest token while anybody holds \
         the file, else fails with `ESTALE` when its token has passed, as for a file that was \
         replaced.",
        || {
            let of_a_view = "
first, held = read(), open(path)
of_the_first = handle()
assert reopen(of_the_first) == first
rotate()
assert reopen(of_the_first) == read() != first
held.close()
of_the_second = handle()
rotate()
assert reopen(of_the_second) == errno.ESTALE, reopen(of_the_second)
";
            mount.python_with(&format!("{HANDLE}{of_a_view}"), &["token"]);
        },
    );
    section.says("A file handle of a file of `live` opens the newest token.", || {
        let of_a_live_file = "
once = handle()
for _ in range(2):
    rotate()
    assert reopen(once) == read()
";
        mount.python_with(&format!("{HANDLE}{of_a_live_file}"), &["live/token"]);
    });
}
