//! read(2) and its kin.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::support::eventually;
use crate::support::secs;
use crate::{Mount, Section, fails, is_token};

/// What Python's module `mmap` sees; `kind` is what the script is about.
const MAPPINGS: &str = r"
import mmap, os, sys
fd = os.open(sys.argv[1] + '/token', os.O_RDONLY)
size = os.fstat(fd).st_size
whole = os.read(fd, 65536)
for kind in mmap.MAP_PRIVATE, mmap.MAP_SHARED:
    assert mmap.mmap(fd, 0, kind, mmap.PROT_READ)[:] == whole
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
at = libc.mmap(None, 4096, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, ctypes.c_long(0))
page = ctypes.string_at(at, 4096)
assert page[:size] == whole and page[size:] == bytes(4096 - size)
";

const WRITABLE_MAPPINGS: &str = r"
import errno, mmap, os, sys
fd = os.open(sys.argv[1] + '/token', os.O_RDONLY)
try: mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE); sys.exit('mapped')
except OSError as error: assert error.errno == errno.EACCES, error
own = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
before = own[:]
own[:4] = b'XXXX'
assert os.pread(fd, 65536, 0) == before
";

const WITHOUT_COPYING: &str = r"
import os, sys
for name in 'token', 'live/token':
    fd = os.open(os.path.join(sys.argv[1], name), os.O_RDONLY)
    whole = os.pread(fd, 65536, 0)
    target = os.open('/tmp', os.O_TMPFILE | os.O_RDWR)
    assert os.sendfile(target, fd, 0, 65536) == len(whole)
    assert os.pread(target, 65536, 0) == whole
    end, pipe = os.pipe()
    assert os.splice(fd, pipe, 65536, offset_src=0) == len(whole)
    assert os.read(end, 65536) == whole
";

const COPY_FILE_RANGE: &str = r"
import errno, os, sys
fd, target = os.open(sys.argv[1] + '/token', os.O_RDONLY), os.open('/tmp', os.O_TMPFILE | os.O_RDWR)
try: os.copy_file_range(fd, target, 100); sys.exit('copied')
except OSError as error: assert error.errno == errno.EXDEV, error
";

const IN_PIECES: &str = r"
import os, sys
for name in 'token', 'live/token', 'status.json':
    for flags in 0, os.O_DIRECT:
        fd = os.open(os.path.join(sys.argv[1], name), flags)
        whole = os.pread(fd, 65536, 0)
        pieces = [os.read(fd, 7) for _ in range(len(whole) // 7 + 2)]
        assert b''.join(pieces) == whole, name
        buffers = [bytearray(3), bytearray(65536)]
        length = os.preadv(fd, buffers, 5)
        assert b''.join(buffers)[:length] == whole[5:], name
";

const WRITING: &str = r"
import errno, os, sys
fd = os.open(sys.argv[1] + '/token', os.O_RDONLY)
for call, expected in [
    (lambda: os.write(fd, b'x'), errno.EBADF), (lambda: os.posix_fallocate(fd, 0, 1), errno.EBADF),
    (lambda: os.ftruncate(fd, 0), errno.EINVAL),
]:
    try: call(); sys.exit('written')
    except OSError as error: assert error.errno == expected, error
";

/// A mount that rotates all the time.
pub fn hasty() -> Mount {
    let often = ["--refresh-interval", "20ms", "--refresh-jitter", "0s"];
    Mount::living("1s", |builder| builder.args(often))
}

pub fn generation(mount: &Mount) -> u64 {
    mount.status()["tokens"][0]["generation"].as_u64().unwrap_or(0)
}

pub fn check(section: &mut Section) {
    let hasty = hasty();
    section.says(
        "A file that is open keeps its token through any number of rotations up to 63.",
        || {
            let token = fs::read(hasty.path("token")).unwrap();
            let file = File::open(hasty.path("token")).unwrap();
            let mut held = vec![0; file.metadata().unwrap().len().try_into().unwrap()];
            file.read_exact_at(&mut held, 0).unwrap();
            let (number, start) = (is_token(&held), generation(&hasty));
            assert!(number >= is_token(&token));
            eventually("fifty rotations", secs(20), || {
                (generation(&hasty) >= start + 50).then_some(())
            });
            let mut again = held.clone();
            file.read_exact_at(&mut again, 0).unwrap();
            assert_eq!(again, held);
        },
    );
    section.says(
        "A read of a token fails with `EKEYEXPIRED` after more rotations than that, unless the \
         bytes are in the page cache.",
        || {
            // One that nobody has read yet, and one that is never cached.
            let fresh = File::open(hasty.path("live/token")).unwrap();
            let cached = File::open(hasty.path("token")).unwrap();
            let mut bytes = vec![0; 4096];
            let length = cached.read_at(&mut bytes, 0).unwrap();
            bytes.truncate(length);
            let start = generation(&hasty);
            eventually("more than the ring holds", secs(20), || {
                (generation(&hasty) > start + 66).then_some(())
            });
            assert_eq!(fails(fresh.read_at(&mut [0; 16], 0)), Errno::EKEYEXPIRED);
            let mut again = bytes.clone();
            cached.read_exact_at(&mut again, 0).unwrap();
            assert_eq!(again, bytes);
        },
    );
    drop(hasty);
    let mount = Mount::new();
    let path = mount.path("token");
    section.says(
        "`fstat` reports exactly the number of bytes that reading to the end gives.",
        || {
            for name in ["token", "git-credential", "live/header", "gh/hosts.yml"] {
                for _ in 0..2 {
                    let mut file = File::open(mount.path(name)).unwrap();
                    let size = file.metadata().unwrap().size();
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes).unwrap();
                    assert_eq!(size, bytes.len() as u64, "{name}");
                    mount.rotate();
                }
            }
        },
    );
    section.says(
        "Reading in pieces gives the same bytes as reading whole, with `O_DIRECT` at any \
         alignment.",
        || {
            mount.python(IN_PIECES);
        },
    );
    section.says(
        "A read at or beyond the end gives nothing, and a read at any other offset what is there.",
        || {
            let file = File::open(&path).unwrap();
            let whole = fs::read(&path).unwrap();
            let mut part = [0; 1000];
            for beyond in [whole.len() as u64, 4096, 1 << 40] {
                assert_eq!(file.read_at(&mut part, beyond).unwrap(), 0);
            }
            for offset in [1, 5, whole.len() - 1] {
                let length = file.read_at(&mut part, offset as u64).unwrap();
                assert_eq!(&part[..length], &whole[offset..]);
            }
        },
    );
    section.says("`SEEK_END`, `SEEK_DATA` and `SEEK_HOLE` see a file without holes.", || {
        let mut file = File::open(&path).unwrap();
        let size = i64::try_from(file.metadata().unwrap().size()).unwrap();
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), size.unsigned_abs());
        assert_eq!(lseek(&file, 3, Whence::SeekData), Ok(3));
        assert_eq!(lseek(&file, 3, Whence::SeekHole), Ok(size));
        assert_eq!(lseek(&file, size, Whence::SeekData), Err(Errno::ENXIO));
    });
    section.says("`sendfile` and `splice` give every byte.", || {
        mount.python(WITHOUT_COPYING);
    });
    section.says(
        "`write` and `fallocate` on a descriptor for reading fail with `EBADF`, `ftruncate` with \
         `EINVAL`, as anywhere.",
        || {
            mount.python(WRITING);
        },
    );
    section.says(
        "`copy_file_range` to another file system fails with `EXDEV`, so that `cp` reads instead.",
        || {
            mount.python(COPY_FILE_RANGE);
            let copy = mount.dir.join("copy");
            fs::copy(&path, &copy).unwrap();
            assert_eq!(fs::read(copy).unwrap(), fs::read(&path).unwrap());
        },
    );
    section.says(
        "`mmap` for reading works, private and shared, and what lies behind the end in the last \
         page is zero.",
        || {
            mount.python(MAPPINGS);
        },
    );
    section.says(
        "A shared mapping for writing is refused with `EACCES`; writing into a private one changes \
         no file.",
        || {
            mount.python(WRITABLE_MAPPINGS);
        },
    );
}
