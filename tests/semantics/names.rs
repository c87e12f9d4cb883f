//! readdir(3), lookups, and what would change a name.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};

use molecule_tokenfs::view;
use nix::errno::Errno;

use crate::support::process::{ORDINARY, User};
use crate::{Mount, Section, fails, listing};

const PLACES: &str = r"
import ctypes, hashlib, os, sys, time
libc = ctypes.CDLL(None)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.telldir.argtypes = libc.readdir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
directory, path = libc.opendir(sys.argv[1].encode()), sys.argv[1] + '/token'
def entry():
    # struct dirent: inode and offset of 8 bytes each, length of 2, type of 1, name
    at = libc.readdir(directory)
    return at and ctypes.string_at(at + 19)
places = []
while True:
    place, name = libc.telldir(directory), entry()
    if not name: break
    places.append((place, name))
assert sorted(name.decode() for _, name in places) == sorted(os.listdir(sys.argv[1]) + ['.', '..'])
first = open(path).read()
open(sys.argv[1] + '/refresh', 'w').write(hashlib.sha256(first.encode()).hexdigest()[:8])
deadline = time.monotonic() + 10
while open(path).read() == first: assert time.monotonic() < deadline; time.sleep(0.01)
for place, name in reversed(places):
    libc.seekdir(directory, place)
    assert entry() == name
";

const CHANGES: &str = r"
import errno, os, sys
root = sys.argv[1]
p = lambda name: os.path.join(root, name)
for change in [
    lambda: os.rename(p('token'), p('other')), lambda: os.rename(p('token'), p('netrc')),
    lambda: os.rename(p('.next-token'), p('token')) if os.path.exists(p('.next-token')) else os.rename(p('env'), p('x')),
    lambda: os.link(p('token'), p('other')), lambda: os.unlink(p('token')), lambda: os.unlink(p('refresh')),
    lambda: os.symlink('a', p('other')), lambda: os.mkdir(p('other')), lambda: os.rmdir(p('live')),
    lambda: os.mknod(p('other')), lambda: os.mkfifo(p('gh/other')),
]:
    try: change(); sys.exit('changed')
    except OSError as error: assert error.errno == errno.EROFS, error
";

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let root = mount.daemon.mountpoint().to_owned();
    section.says(
        "A directory lists the views, each with the type and inode number that `stat` reports.",
        || {
            for directory in ["", "gh", "live", "live/gh"] {
                for entry in fs::read_dir(root.join(directory)).unwrap() {
                    let entry = entry.unwrap();
                    let metadata = fs::metadata(entry.path()).unwrap();
                    assert_eq!(entry.ino(), metadata.ino(), "{entry:?}");
                    assert_eq!(entry.file_type().unwrap().is_dir(), metadata.is_dir(), "{entry:?}");
                }
            }
            let listed = [listing(&root), listing(&root.join("live"))];
            for view in view::ALL {
                let first = view.path().split('/').next().unwrap().to_owned();
                assert!(listed.iter().all(|names| names.contains(&first)), "{first}");
            }
        },
    );
    section.says(
        "`telldir` and `seekdir`: a place in a listing stays that place through rotations.",
        || {
            mount.python(PLACES);
        },
    );
    section.says(
        "A name that is not listed is not there: `ENOENT`, at once; one of more than 255 bytes \
         fails with `ENAMETOOLONG`.",
        || {
            let before = mount.attempts();
            for name in ["nope", "token/nope", "live/status.json", "Token", "live/nope"] {
                let error = fails(fs::metadata(root.join(name)));
                assert!(matches!(error, Errno::ENOENT | Errno::ENOTDIR), "{name}: {error}");
            }
            for (name, expected) in [
                (OsString::from("x".repeat(255)), Errno::ENOENT),
                (OsString::from_vec(vec![0xff; 3]), Errno::ENOENT),
                (OsString::from("x".repeat(256)), Errno::ENAMETOOLONG),
            ] {
                assert_eq!(fails(fs::metadata(root.join(&name))), expected);
                let created = fails(File::create(root.join(&name)));
                assert_eq!(
                    created,
                    if expected == Errno::ENOENT { Errno::EROFS } else { expected }
                );
            }
            assert_eq!(mount.attempts(), before);
        },
    );
    section.says(
        "The temporary names that rotations use are neither listed nor visible to anybody.",
        || {
            mount.rotate();
            assert!(listing(&root).iter().all(|name| !name.starts_with('.')));
            assert_eq!(fails(fs::metadata(root.join(".next-token"))), Errno::ENOENT);
            let told = mount.shell(User::Number(ORDINARY), "test -e \"$1/.next-token\"");
            assert_eq!(told.status.code(), Some(1));
        },
    );
    section.says("A directory that is kept open shows the newest tokens (`openat`).", || {
        let directory = File::open(&root).unwrap();
        let path = format!("/proc/self/fd/{}/token", directory.as_raw_fd());
        for _ in 0..3 {
            mount.rotate();
            assert_eq!(fs::read(&path).unwrap(), fs::read(mount.path("token")).unwrap());
        }
    });
    section.says("In `/proc/self/fd` a file whose token has passed is marked as deleted.", || {
        let file = File::open(mount.path("token")).unwrap();
        let link = || fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(link(), mount.path("token"));
        mount.rotate();
        assert_eq!(link(), mount.path("token (deleted)"));
    });
    section.says(
        "`rename`, `link`, `unlink`, `symlink`, `mkdir`, `rmdir` and `mknod` fail with `EROFS` and \
         change nothing.",
        || {
            let before = listing(&root);
            mount.python(CHANGES);
            assert_eq!(listing(&root), before);
        },
    );
    section.says("Making a name that is there fails with `EEXIST`, as anywhere.", || {
        assert_eq!(fails(fs::create_dir(root.join("live"))), Errno::EEXIST);
        assert_eq!(fails(std::os::unix::fs::symlink("x", root.join("token"))), Errno::EEXIST);
    });
}
