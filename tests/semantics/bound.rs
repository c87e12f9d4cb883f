//! Files whose inode something holds on to.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount as bind_mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{eventually, secs};
use crate::{Mount, Section, fails};

const MAPPING: &str = r"
import errno, mmap, os, sys
fd = os.open(sys.argv[1] + '/live/token', os.O_RDONLY)
assert mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)[:] == os.pread(fd, 65536, 0)
try: mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ); sys.exit('mapped')
except OSError as error: assert error.errno == errno.ENODEV, error
";

pub fn bind(mount: &Mount, name: &str, place: &str) -> PathBuf {
    let source = mount.path(name);
    let place = if source.is_dir() { mount.dir.folder(place) } else { mount.dir.file(place, "") };
    let none = None::<&str>;
    bind_mount(Some(&source), &place, none, MsFlags::MS_BIND, none).unwrap();
    place
}

#[track_caller]
fn is_newest(mount: &Mount, path: &Path) {
    let mut file = File::open(path).unwrap();
    let size = file.metadata().unwrap().size();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, fs::read(mount.path("token")).unwrap());
    assert_eq!(size, bytes.len() as u64);
}

/// Kills the worker and waits for the next.
pub fn kill_worker(mount: &Mount) {
    let worker = || i32::try_from(mount.status()["worker_pid"].as_i64()?).ok();
    let old = worker().unwrap();
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    eventually("another worker serves", secs(5), || (worker()? != old).then_some(()));
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let live = mount.path("live/token");
    section.says("A file of `live` has the same inode number for ever.", || {
        let number = fs::metadata(&live).unwrap().ino();
        for _ in 0..3 {
            mount.rotate();
            assert_eq!(fs::metadata(&live).unwrap().ino(), number);
        }
        kill_worker(&mount);
        assert_eq!(fs::metadata(&live).unwrap().ino(), number);
    });
    section.says(
        "Each open of it gives the newest token, and `fstat` of the handle the size of that.",
        || {
            for _ in 0..5 {
                mount.rotate();
                is_newest(&mount, &live);
            }
        },
    );
    section.says("It cannot be mapped shared (`ENODEV`); a private mapping works.", || {
        mount.python(MAPPING);
    });
    section.says(
        "Bound as a single file it stays fresh, also through the death of a worker, and can be \
         bound again.",
        || {
            let first = bind(&mount, "live/token", "bound");
            mount.rotate();
            is_newest(&mount, &first);
            kill_worker(&mount);
            mount.rotate();
            is_newest(&mount, &first);
            let second = bind(&mount, "live/token", "bound-again");
            umount2(&first, MntFlags::empty()).unwrap();
            mount.rotate();
            is_newest(&mount, &second);
        },
    );
    section.says("A bound directory is as fresh as the mount.", || {
        let place = bind(&mount, ".", "bound-directory");
        mount.rotate();
        is_newest(&mount, &place.join("token"));
        is_newest(&mount, &place.join("live/token"));
    });
    section.says(
        "A view that is bound itself gives the newest token at each open, too, but its `stat` \
         stays that of the token that was bound.",
        || {
            let place = bind(&mount, "token", "bound-view");
            let size = fs::metadata(&place).unwrap().size();
            for _ in 0..3 {
                mount.rotate();
                assert_eq!(fs::read(&place).unwrap(), fs::read(mount.path("token")).unwrap());
                assert_eq!(fs::metadata(&place).unwrap().size(), size);
            }
        },
    );
    section.says(
        "Beneath an overlay a file of `live` stays fresh; a view fails there with `ESTALE` when its \
         token has passed.",
        || {
            let layers = mount.dir.folder("layers");
            let none = None::<&str>;
            bind_mount(none, &layers, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            let [empty, merged] = ["empty", "merged"].map(|name| layers.join(name));
            fs::create_dir(&empty).unwrap();
            fs::create_dir(&merged).unwrap();
            let (root, lower) = (mount.daemon.mountpoint().display(), empty.display());
            let options = format!("lowerdir={root}:{lower}");
            let kind = Some("overlay");
            bind_mount(kind, &merged, kind, MsFlags::empty(), Some(options.as_str())).unwrap();
            let newest = || fs::read(mount.path("token")).unwrap();
            assert_eq!(fs::read(merged.join("token")).unwrap(), newest());
            for _ in 0..3 {
                mount.rotate();
                assert_eq!(fs::read(merged.join("live/token")).unwrap(), newest());
                assert_eq!(fails(fs::read(merged.join("token"))), Errno::ESTALE);
            }
            umount2(&merged, MntFlags::empty()).unwrap();
        },
    );
}
