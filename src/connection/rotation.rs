//! The helper that makes a rotation visible to watchers, and asks the worker for a sign of life: its
//! threads are the only ones of ours that ever make a request to our own mount.
//!
//! They live in the supervisor, since a worker's thread that waits in a request to its own mount could
//! not be killed. They own no descriptor of the connection, so they cannot keep it alive when all else
//! dies; they open the mount only while they rotate, so that they do not keep it busy; and they act as
//! the owner of the files, since a daemon without capabilities could not rename them otherwise.
//!
//! A thousand doors are renamed one request after the other. Where several threads do so, the worker has
//! the next request before it could fall asleep.

#![expect(unsafe_code, reason = "gives up the descriptors that it shares with the other threads")]

use std::collections::BTreeMap;
use std::io;
use std::iter;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW};

use crate::connection::kernel::Kernel;
use crate::fs::access::Access;
use crate::fs::generations::regions::Shown;
use crate::fs::generations::{MORE_HELPERS, State};
use crate::fs::node::Root;
use crate::view;

/// What the helper is asked for.
enum Task {
    /// To rename what shows an older generation, of these tokens.
    Rotate(Vec<Shown>),
    Ping,
}

/// A thread of the helper.
struct Renamer {
    tasks: Sender<Task>,
    thread_id: u32,
}

/// The helper, for the supervisor. It ends when this is dropped and its last task is done.
pub struct Helper {
    first: Renamer,
    /// Where there are many doors.
    more: Vec<Renamer>,
    state: Arc<State>,
    /// The tokens of the last rotation, by the numbers of their regions: the threads have no descriptor to
    /// find them by.
    shown: Mutex<BTreeMap<usize, Shown>>,
}

impl Helper {
    /// Starts the threads for the mount at `target`.
    ///
    /// # Errors
    /// Where the system has no threads left.
    pub fn start(target: &Path, root: Root, state: Arc<State>, access: Access) -> io::Result<Self> {
        let first = Renamer::start(target, root, &state, access)?;
        let places = if root == Root::Doors { 0..MORE_HELPERS } else { 0..0 };
        let more = places.map(|place| {
            let renamer = Renamer::start(target, root, &state, access)?;
            state.add_helper(place, renamer.thread_id);
            Ok(renamer)
        });
        let more = more.collect::<io::Result<_>>()?;
        Ok(Self { first, more, state, shown: Mutex::default() })
    }

    /// The id of its first thread, by which the worker knows it. It knows the others by the state.
    #[must_use]
    pub fn thread_id(&self) -> u32 {
        self.first.thread_id
    }

    /// Asks it to rename what shows an older generation than the newest.
    pub fn rotate(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.state.shown(&mut shown) {
            return tracing::warn!("nobody renames for watchers: {error}");
        }
        // Always the same places for a thread: then no two wait for each other.
        let threads = self.more.len() + 1;
        for (number, renamer) in iter::once(&self.first).chain(&self.more).enumerate() {
            let its = shown.iter().filter(|(index, _)| *index % threads == number);
            let its: Vec<_> = its.map(|(_, token)| token.clone()).collect();
            if !its.is_empty() {
                // It lives as long as we do.
                renamer.tasks.send(Task::Rotate(its)).ok();
            }
        }
    }

    /// Asks it to make one request, which a worker that lives must see.
    pub fn ping(&self) {
        self.first.tasks.send(Task::Ping).ok();
    }
}

impl Renamer {
    fn start(target: &Path, root: Root, state: &Arc<State>, access: Access) -> io::Result<Self> {
        let (tasks, received) = channel();
        let (tell, told) = channel();
        let (target, its_state) = (target.to_owned(), Arc::clone(state));
        thread::Builder::new().name("rotation".into()).stack_size(64 * 1024).spawn(move || {
            let ready = prepare(access).map(|()| nix::unistd::gettid().as_raw());
            let go_on = ready.is_ok();
            if tell.send(ready).is_ok() && go_on {
                run(&target, root, &its_state, &received);
            }
            // It would close its descriptor, which is not open in this thread.
            std::mem::forget(its_state);
        })?;
        let thread_id = told.recv().map_err(io::Error::other)??;
        Ok(Self { tasks, thread_id: u32::try_from(thread_id).unwrap_or_default() })
    }
}

fn prepare(access: Access) -> io::Result<()> {
    give_up_descriptors()?;
    // The group first: without the user's rights it could not be changed any more. Both tell the
    // previous value, never an error (`setfsuid(2)`); where they fail, the renames say EACCES.
    nix::unistd::setfsgid(access.gid.into());
    nix::unistd::setfsuid(access.uid.into());
    Ok(())
}

/// Closes all but the standard ones in this thread alone.
fn give_up_descriptors() -> io::Result<()> {
    // SAFETY: this thread holds no descriptor; with CLOSE_RANGE_UNSHARE the others keep theirs
    // (`close_range(2)`).
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_UNSHARE) };
    if closed == 0 {
        return Ok(());
    }
    // Before Linux 5.9, or where a filter does not know it: one by one.
    unshare(CloneFlags::CLONE_FILES)?;
    let open: Vec<RawFd> = std::fs::read_dir("/proc/thread-self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|descriptor| *descriptor > libc::STDERR_FILENO)
        .collect();
    for descriptor in open {
        // SAFETY: as above. The descriptor that listed them is closed already.
        unsafe { libc::close(descriptor) };
    }
    Ok(())
}

fn run(target: &Path, root: Root, state: &State, tasks: &Receiver<Task>) {
    while let Ok(task) = tasks.recv() {
        let done = match task {
            Task::Rotate(tokens) => rotate_all(target, root, &tokens, state),
            Task::Ping => rustix::fs::statfs(target).map(|_| ()).map_err(io::Error::from),
        };
        if let Err(error) = done {
            tracing::debug!("nothing is renamed, or asked: {error}");
        }
    }
}

fn rotate_all(target: &Path, root: Root, tokens: &[Shown], state: &State) -> io::Result<()> {
    let mut top = None;
    tokens.iter().try_for_each(|token| match root {
        Root::Directory | Root::Doors => rotate((&mut top, target), token, state),
        // Nothing there is renamed.
        Root::Live => Ok(()),
        Root::View(view) => rotate_file(target, view, token, state),
    })
}

/// Renames each view of a token that shows an older generation onto itself, in the registry's order, then
/// touches the live ones. `top` is the mountpoint, once it is opened.
fn rotate(
    (top, target): (&mut Option<OwnedFd>, &Path),
    token: &Shown,
    state: &State,
) -> io::Result<()> {
    let views = || view::ALL.iter();
    let is_told = |id: u8| !token.wants_rename(id) && !token.wants_touch(id);
    if !token.is_seen() || views().all(|view| is_told(view.id())) {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match top {
        Some(top) => top,
        None => top.insert(rustix::fs::open(target, flags, Mode::empty())?),
    };
    // The root has no name: it is where the mountpoint is.
    let name = if token.name.is_empty() { "." } else { &token.name };
    let root = match rustix::fs::openat(&*top, name, flags, Mode::empty()) {
        // One that was there a moment ago need not be after an upgrade.
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        directory => directory?,
    };
    let kernel = Kernel::running();
    for view in views().filter(|view| token.wants_rename(view.id())) {
        let _renaming = state.renaming();
        let path = view.path();
        // Where the kernel keeps the old number of links of the file that is replaced, its watchers hear
        // of the end only when somebody asks for that number anew.
        let replaced = (!kernel.drops_links()).then(|| hold(&root, path));
        if let Err(error) = rustix::fs::renameat(&root, next(path), &root, path) {
            tracing::debug!("rename onto {path}: {error}");
            if error == rustix::io::Errno::IO {
                // Workers die of it. Asked for again it would kill more; the view flips without us.
                return Err(error.into());
            }
        }
        if let Some(Ok(replaced)) = replaced {
            rustix::fs::fstat(&replaced).ok();
        }
    }
    for view in views().filter(|view| token.wants_touch(view.id())) {
        touch(&root, &Path::new("live").join(view.path()))?;
    }
    Ok(())
}

/// Keeps a file for a look at its attributes after its name has gone to another.
fn hold(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, path, flags, Mode::empty())
}

/// Touches a mounted file, if it shows an older generation or has not told watchers of the newest:
/// the worker flips it inside this request.
fn rotate_file(target: &Path, view: u8, token: &Shown, state: &State) -> io::Result<()> {
    if token.touched(view) < token.prepared() {
        let _renaming = state.renaming();
        touch(rustix::fs::CWD, target)?;
    }
    Ok(())
}

fn touch(directory: impl AsFd, path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(directory, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// The name under which the newest generation of a view waits: `.next-` before its own.
fn next(path: &str) -> PathBuf {
    let path = Path::new(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".next-{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_name_lies_beside_the_view() {
        assert_eq!(next("token"), Path::new(".next-token"));
        assert_eq!(next("gh/hosts.yml"), Path::new("gh/.next-hosts.yml"));
    }
}
