//! What a file reader does, in a process of its own: it becomes the owner of the directory, sets the
//! watches, opens the file without waiting for anybody, and answers.

use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, geteuid, setgroups, setresgid, setresuid};
use rustix::fs::inotify::{WatchFlags, add_watch};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use zeroize::Zeroizing;

use super::Request;
use super::answer::{Answer, Found, Stamp, Unreadable};
use super::plain::{self, PlainFile, Refusal};

/// The group of a user that has no entry in `passwd(5)`: one that nothing belongs to.
const NO_GROUP: u32 = 65534;

/// Answers a request. `input` is the `inotify(7)` instance, where one is to be used.
///
/// # Errors
/// Where the process cannot be protected, or nobody reads the answer. Whatever is wrong with the file
/// is in the answer.
pub fn serve(request: &Request, input: BorrowedFd<'_>, mut output: impl Write) -> io::Result<()> {
    protect()?;
    close_inherited();
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_no_new_privs()?;
    let answer = answer(request, input)?;
    output.write_all(&answer.to_bytes()?)
}

/// Closes what whoever started the daemon left open for its children.
fn close_inherited() {
    let descriptors = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers = descriptors.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // All at once: the list is a descriptor, too.
    for descriptor in numbers.collect::<Vec<_>>().into_iter().filter(|number| *number > 2) {
        // EBADF: that of the list is closed already.
        nix::unistd::close(descriptor).ok();
    }
}

/// No process of the same user may look into this one, and it does not outlive who asks. A change of
/// the user resets both (`prctl(2)`).
fn protect() -> nix::Result<()> {
    prctl::set_dumpable(false)?;
    prctl::set_pdeathsig(Signal::SIGKILL)
}

fn answer(request: &Request, instance: BorrowedFd<'_>) -> io::Result<Answer> {
    let mut directory = find_directory(request)?;
    let mut watches = Watches::default();
    if request.watch {
        watches.add_directories(instance, &request.directory, directory.as_ref().ok());
        if directory.is_err() {
            // What came before the watches gave no event.
            directory = find_directory(request)?;
        }
    }
    let owner = directory.as_ref().ok().and_then(owner);
    let found = directory.and_then(|directory| pin(&directory, request)).and_then(|file| {
        if request.watch {
            watches.add(instance, &plain::own_path(&file), FILE_EVENTS);
        }
        read(&file, request)
    });
    let user = geteuid().as_raw();
    let found = found.map_err(|why| match why {
        Why::Errno(errno) => Unreadable::system(errno, user),
        Why::File(why) => why,
    });
    let unwatched = watches.failure.map(Errno::raw_os_error);
    Ok(Answer { owner, found, watches: watches.set, unwatched })
}

/// Becomes the user that is asked for, and opens the directory; or opens it, and becomes its owner.
fn find_directory(request: &Request) -> io::Result<Result<OwnedFd, Why>> {
    if let Some(user) = request.user {
        become_user(user)?;
    }
    let directory = open_directory(&request.directory);
    if let Some(owner) = directory.as_ref().ok().and_then(owner)
        && request.user.is_none()
    {
        become_user(owner)?;
    }
    Ok(directory)
}

fn owner(directory: &OwnedFd) -> Option<u32> {
    fstat(directory).ok().map(|found| found.st_uid)
}

/// Takes on a user, its own group, and no other right. Where that is not allowed, the process goes on
/// as itself: it is not root, it lacks `CAP_SETUID`, or the user has no number in its user namespace
/// (`user_namespaces(7)`).
fn become_user(user: u32) -> io::Result<()> {
    if !geteuid().is_root() || user == 0 {
        return Ok(());
    }
    let uid = Uid::from_raw(user);
    let entry = User::from_uid(uid).ok().flatten();
    let gid = entry.map_or(Gid::from_raw(NO_GROUP), |entry| entry.gid);
    // Groups first: the user may not change them. Where this process may not, either, they stay.
    setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).ok();
    if setresuid(uid, uid, uid).is_err() {
        return Ok(());
    }
    // The kernel takes them away with the user, unless it was told otherwise (`SECBIT_KEEP_CAPS`).
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets)?;
    Ok(protect()?)
}

/// Why the file cannot be read.
enum Why {
    Errno(Errno),
    File(Unreadable),
}

impl From<Errno> for Why {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Refusal> for Why {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::System(error) => {
                Self::Errno(Errno::from_io_error(&error).unwrap_or(Errno::IO))
            }
            Refusal::NotRegular(kind) => Self::File(Unreadable::NotRegular(kind)),
            Refusal::TooLarge(limit) => Self::File(Unreadable::TooLarge { limit }),
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Why> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat(CWD, path, flags, Mode::empty())?)
}

/// Finds the file without opening it: the open of a device can do something, and that of a FIFO
/// waits.
fn pin(directory: &OwnedFd, request: &Request) -> Result<OwnedFd, Why> {
    let (name, path) = (&request.name, OFlags::PATH | OFlags::CLOEXEC);
    if request.anywhere {
        return Ok(openat(directory, name, path, Mode::empty())?);
    }
    // A file that was bound onto this very name is what somebody with the right to mount wants.
    let file = openat(directory, name, path | OFlags::NOFOLLOW, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Symlink {
        return Ok(file);
    }
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(directory, name, path, Mode::empty(), beneath).map_err(|errno| match errno {
        Errno::XDEV => Why::File(Unreadable::Outside),
        // A sandbox that does not know the call may say that it is forbidden.
        Errno::NOSYS | Errno::PERM => Why::File(Unreadable::Link),
        errno => errno.into(),
    })
}

fn read(pinned: &OwnedFd, request: &Request) -> Result<Found, Why> {
    let file = PlainFile::of(pinned)?;
    let (stamp, mode) = (Stamp::of(file.metadata()), file.metadata().mode() & 0o7777);
    if stamp.size > request.limit as u64 {
        return Err(Refusal::TooLarge(request.limit).into());
    }
    let content = if request.content { file.read(request.limit)? } else { Zeroizing::default() };
    Ok(Found { stamp, mode, content })
}

/// The watches of a file.
#[derive(Default)]
struct Watches {
    set: Vec<i32>,
    failure: Option<Errno>,
}

impl Watches {
    /// Watches the directory, or the nearest one above it that exists, and whether any above that is
    /// moved away.
    fn add_directories(&mut self, instance: BorrowedFd<'_>, path: &Path, open: Option<&OwnedFd>) {
        let is_open =
            open.is_some_and(|open| self.add(instance, &plain::own_path(open), DIRECTORY_EVENTS));
        let mut missing = Vec::new();
        let mut events = if is_open { SELF_EVENTS } else { DIRECTORY_EVENTS };
        for directory in path.ancestors().skip(usize::from(is_open)) {
            if self.add(instance, directory, events) {
                events = SELF_EVENTS;
            } else if events == DIRECTORY_EVENTS {
                missing.push(directory);
            }
        }
        // One that came into being before the directory above it was watched gave no event.
        for directory in missing.into_iter().rev() {
            if !self.add(instance, directory, DIRECTORY_EVENTS) {
                break;
            }
        }
    }

    /// Adds a watch where there is something that this user may watch; tells whether it is there.
    fn add(&mut self, instance: BorrowedFd<'_>, path: &Path, events: WatchFlags) -> bool {
        match add_watch(instance, path, events) {
            Ok(watch) => {
                self.set.push(watch);
                return true;
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP) => {}
            Err(errno) => self.failure = Some(errno),
        }
        false
    }
}

/// A file that was bound or linked changes elsewhere than in its directory.
const FILE_EVENTS: WatchFlags = WatchFlags::CLOSE_WRITE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);

const SELF_EVENTS: WatchFlags =
    WatchFlags::MOVE_SELF.union(WatchFlags::DELETE_SELF).union(WatchFlags::ONLYDIR);

const DIRECTORY_EVENTS: WatchFlags = SELF_EVENTS
    .union(WatchFlags::CREATE)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::ATTRIB);
