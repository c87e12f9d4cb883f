//! readdir(3), lookups, and what would change a name.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};

use molecule_tokenfs::view;
use nix::errno::Errno;

use crate::support::process::{ORDINARY, User};
use crate::{Mount, Section, fails, listing};

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
        "A directory lists the views, each with the type and inode number that `stat` tells.",
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
    section.says("A name that is not listed is not there: `ENOENT`, at once.", || {
        let before = mount.attempts();
        for name in ["nope", "token/nope", "live/status.json", "Token", "live/nope"] {
            let error = fails(fs::metadata(root.join(name)));
            assert!(matches!(error, Errno::ENOENT | Errno::ENOTDIR), "{name}: {error}");
        }
        assert_eq!(mount.attempts(), before);
    });
    section.says(
        "The names under which rotations wait are neither listed nor there for anybody.",
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
