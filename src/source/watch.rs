//! Waits for a file to appear or change, without polling (`inotify(7)`).
#![expect(unsafe_code, reason = "registering a descriptor with the runtime is unsafe in tokio")]

use std::fs;
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::unix::AsyncFd;

/// A file that is read again whenever somebody needs it, and watched in between.
///
/// What counts is the file behind the path, symbolic links followed: in place, by a rename over it,
/// or by a rename of a link on the way (as Kubernetes does it), with directories that do not exist
/// yet. A change is reported once.
pub struct WatchedFile {
    path: PathBuf,
    /// The file as it was when it was last read or reported.
    seen: Mutex<Option<Stamp>>,
    /// Made at the first wait and kept: closing one waits for the kernel's grace period.
    watch: tokio::sync::Mutex<Option<Watch>>,
    warned: Once,
}

impl WatchedFile {
    /// A file, there or not.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: Mutex::default(),
            watch: tokio::sync::Mutex::default(),
            warned: Once::new(),
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Call this before the file is read: what changes from now on is reported by the next
    /// [`WatchedFile::changed`], even if nobody waits at that moment.
    pub fn about_to_read(&self) {
        self.replace_seen(Stamp::of(&self.path));
    }

    /// Completes when the file is not the one that was last read or reported. If it never was, then
    /// when it is not the one that it is now. One waiter at a time.
    ///
    /// Where the kernel refuses a watch (`inotify(7)`: limits), it logs that once and never
    /// completes.
    pub async fn changed(&self) {
        if let Err(error) = self.wait().await {
            self.warned.call_once(|| {
                tracing::warn!(path = %self.path.display(), %error, "cannot watch the file: a change is noticed at the next regular attempt");
            });
            pending::<()>().await;
        }
    }

    async fn wait(&self) -> io::Result<()> {
        let mut watch = self.watch.lock().await;
        let watch = match &mut *watch {
            Some(watch) => watch,
            none => none.insert(Watch::new()?),
        };
        loop {
            // In this order: what happens after the look is an event.
            watch.arm(&self.path)?;
            let now = Stamp::of(&self.path);
            if self.replace_seen(now).is_some_and(|seen| seen != now) {
                return Ok(());
            }
            watch.event().await?;
        }
    }

    fn replace_seen(&self, stamp: Stamp) -> Option<Stamp> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).replace(stamp)
    }
}

/// What tells one state of a file from another. `ctime` changes with contents, mode and owner, and
/// nobody can set it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Unreachable(Option<i32>),
    File { device: u64, inode: u64, size: u64, ctime: (i64, i64) },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match fs::metadata(path) {
            Ok(file) => Self::File {
                device: file.dev(),
                inode: file.ino(),
                size: file.size(),
                ctime: (file.ctime(), file.ctime_nsec()),
            },
            Err(error) => Self::Unreachable(error.raw_os_error()),
        }
    }
}

/// An inotify instance that watches one path.
struct Watch {
    inotify: AsyncFd<Instance>,
    descriptors: Vec<WatchDescriptor>,
}

impl Watch {
    fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // SAFETY: the instance owns its descriptor, `as_raw_fd` always gives that one, and nothing
        // closes it before `AsyncFd` deregisters it and drops the instance.
        let inotify = unsafe { AsyncFd::register(Instance(inotify)) }.map_err(io::Error::from)?;
        Ok(Self { inotify, descriptors: Vec::new() })
    }

    /// Watches the file itself (a bind-mounted or linked one changes elsewhere than in its
    /// directory), its directory, or the nearest one above it that exists, and whether any above that
    /// is moved away.
    fn arm(&mut self, path: &Path) -> io::Result<()> {
        let inotify = &self.inotify.get_ref().0;
        let mut armed = Vec::new();
        armed.extend(add(inotify, path, FILE_EVENTS)?);

        let mut missing = Vec::new();
        let mut events = DIRECTORY_EVENTS;
        for directory in path.ancestors().skip(1) {
            let directory =
                if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            match add(inotify, directory, events)? {
                Some(descriptor) => {
                    armed.push(descriptor);
                    events = SELF_EVENTS;
                }
                None if events == DIRECTORY_EVENTS => missing.push(directory),
                None => {}
            }
        }
        // One that came into being before the directory above it was watched gave no event.
        for directory in missing.into_iter().rev() {
            match add(inotify, directory, DIRECTORY_EVENTS)? {
                Some(descriptor) => armed.push(descriptor),
                None => break,
            }
        }

        for old in self.descriptors.drain(..).filter(|old| !armed.contains(old)) {
            // EINVAL: its file is gone, and so is the watch.
            let _ = inotify.rm_watch(old);
        }
        self.descriptors = armed;
        Ok(())
    }

    /// Waits until something happened, and forgets what it was: the file is looked at anyway.
    async fn event(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let read = ready.try_io(|inotify| Ok(inotify.get_ref().0.read_events()?));
            match read {
                Ok(events) => return events.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

const FILE_EVENTS: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF);

const SELF_EVENTS: AddWatchFlags = AddWatchFlags::IN_MOVE_SELF
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

const DIRECTORY_EVENTS: AddWatchFlags = SELF_EVENTS
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_ATTRIB);

/// Adds a watch, where there is something that may be watched.
fn add(
    inotify: &Inotify,
    path: &Path,
    events: AddWatchFlags,
) -> io::Result<Option<WatchDescriptor>> {
    match inotify.add_watch(path, events) {
        Ok(descriptor) => Ok(Some(descriptor)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Long enough for a loaded machine; a test that waits this long has failed.
    const SOON: Duration = Duration::from_secs(10);
    /// How long nothing must happen.
    const QUIET: Duration = Duration::from_millis(150);

    async fn wakes(file: &WatchedFile, because: &str) {
        timeout(SOON, file.changed()).await.unwrap_or_else(|_| panic!("not woken: {because}"));
    }

    async fn sleeps(file: &WatchedFile, although: &str) {
        assert!(timeout(QUIET, file.changed()).await.is_err(), "woken: {although}");
    }

    #[tokio::test]
    async fn a_file_wakes_when_it_appears_changes_is_replaced_and_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bearer");
        let file = WatchedFile::new(path.clone());
        file.about_to_read();
        sleeps(&file, "it is not there").await;
        fs::write(&path, "one").unwrap();
        wakes(&file, "it appeared").await;
        // Only the end of the write may be reported apart from its beginning.
        while timeout(QUIET, file.changed()).await.is_ok() {}
        fs::write(directory.path().join("other"), "x").unwrap();
        sleeps(&file, "another file appeared").await;

        fs::write(directory.path().join("new"), "two").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        wakes(&file, "another file was renamed onto it").await;
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        wakes(&file, "its mode changed").await;
        fs::remove_file(&path).unwrap();
        wakes(&file, "it was removed").await;
        sleeps(&file, "all was reported").await;
    }

    #[tokio::test]
    async fn a_change_while_nobody_waits_is_reported_to_the_next_who_does_and_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bearer");
        let file = WatchedFile::new(path.clone());
        file.about_to_read();
        fs::write(&path, "one").unwrap();
        wakes(&file, "it appeared before anybody waited").await;
        sleeps(&file, "that was reported").await;
        fs::write(&path, "three").unwrap();
        file.about_to_read();
        sleeps(&file, "it was read since").await;
    }

    #[tokio::test]
    async fn directories_may_come_later_and_all_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/bearer");
        let file = WatchedFile::new(path.clone());
        file.about_to_read();
        sleeps(&file, "nothing is there").await;
        let waiting = file.changed();
        let making = async {
            fs::create_dir(directory.path().join("a")).unwrap();
            tokio::time::sleep(QUIET).await;
            fs::create_dir(directory.path().join("a/b")).unwrap();
            tokio::time::sleep(QUIET).await;
            fs::write(&path, "one").unwrap();
        };
        let (woken, ()) = tokio::join!(timeout(SOON, waiting), making);
        woken.expect("woken when the file came");

        while timeout(QUIET, file.changed()).await.is_ok() {}
        let waiting = file.changed();
        let moving = async {
            tokio::time::sleep(QUIET).await;
            fs::rename(directory.path().join("a"), directory.path().join("away")).unwrap();
        };
        let (woken, ()) = tokio::join!(timeout(SOON, waiting), moving);
        woken.expect("woken when a directory above went away");
    }

    #[tokio::test]
    async fn a_link_that_is_swapped_on_the_way_wakes() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("bearer"), version).unwrap();
        }
        symlink("v1", at("data")).unwrap();
        symlink("data/bearer", at("bearer")).unwrap();
        let file = WatchedFile::new(at("bearer"));
        file.about_to_read();
        sleeps(&file, "nothing changed").await;
        symlink("v2", at("data.new")).unwrap();
        fs::rename(at("data.new"), at("data")).unwrap();
        wakes(&file, "the link points elsewhere").await;
        // The target changes in a directory that is not watched.
        fs::write(at("v2").join("bearer"), "v2, changed").unwrap();
        wakes(&file, "the linked file changed in place").await;
    }
}
