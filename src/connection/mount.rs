//! A mount as a value: it owns the device and the target, makes and removes both.
//!
//! The target is found and pinned by descriptors (see [`crate::place`]) before anything is mounted on it,
//! so that what was checked is what is covered. Where the kernel lets us, we mount by ourselves
//! (`fsopen(2)`), and the file system becomes visible only once it is served; else through
//! `mount(2)`; an ordinary user through `fusermount3(1)`.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::stat::makedev;
use nix::unistd::{getegid, geteuid};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{self as kernel, MoveMountFlags};

use crate::place::mountinfo::{self, Health, MountEntry, NAME};
use crate::place::{DEVICE, HELPER, MountError, Place};
use crate::spawn;
use crate::status::Layout;

mod probe;
mod renew;

pub use probe::{Obstacle, probe};

/// Major and minor number of the device (`FUSE_MINOR` in Linux's `miscdevice.h`).
const DEVICE_NUMBER: (u64, u64) = (10, 229);
/// Who rotates holds the root for some milliseconds; whoever is still there half a second later is
/// somebody else.
const LOOKS_AT_A_BUSY_MOUNT: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// `st_mode` of the root in octal: a directory, or a regular file.
const fn root_mode(layout: Layout) -> &'static str {
    match layout {
        Layout::Directory => "40000",
        Layout::File => "100000",
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// How the mount came to be, and so how it ends.
enum Way {
    /// By ourselves, not visible yet.
    Detached(OwnedFd),
    /// By ourselves.
    Kernel,
    /// By ourselves, with the old system call: visible from the beginning.
    Classic,
    /// By `fusermount3`.
    Helper,
}

/// A mount of ours. Dropping it unmounts, and removes what it made to mount on.
pub struct Mount {
    /// Where it was made, and what was made for it. It is dropped after the unmount, and before the lock:
    /// whoever waits for the lock finds nothing left.
    place: Place,
    pinned: Flock<std::fs::File>,
    layout: Layout,
    allow_other: bool,
    device: Option<OwnedFd>,
    way: Way,
    /// Its number for the kernel, once it is visible (`proc_pid_mountinfo(5)`).
    id: u64,
    attached: bool,
}

impl Mount {
    /// Prepares a mount on `target`, makes the directory or file if it is not there, and cleans up a
    /// dead mount of ours. `layout` is what the target must be, where that matters; `allow_other`
    /// lets other users in, as far as owner and mode allow.
    ///
    /// # Errors
    /// [`MountError`] says what stands in the way; nothing is left behind then.
    pub fn open(
        target: &Path,
        layout: Option<Layout>,
        allow_other: bool,
    ) -> Result<Self, MountError> {
        let mut place = Place::find(target, |_| false)?;
        clear(&place)?;
        let (layout, pinned) = place.pin(layout)?;
        // Another start may have mounted between the first look and the lock.
        clear(&place)?;
        let (device, way) = connect(place.path(), &pinned, layout, allow_other)?;
        let (device, id, attached) = (Some(device), 0, false);
        let mut mount = Self { place, pinned, layout, allow_other, device, way, id, attached };
        mount.find_itself()?;
        Ok(mount)
    }

    /// The connection to the kernel, for whoever serves it. It can be taken once.
    pub fn take_device(&mut self) -> Option<OwnedFd> {
        self.device.take()
    }

    /// The target, without symlinks.
    #[must_use]
    pub fn target(&self) -> &Path {
        self.place.path()
    }

    /// What the target is.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Makes the mount visible, in the place of one that died. Whoever serves it must have answered
    /// INIT.
    ///
    /// # Errors
    /// [`MountError::Forbidden`], [`MountError::System`].
    pub fn attach(&mut self) -> Result<(), MountError> {
        let Way::Detached(tree) = &self.way else { return Ok(()) };
        let id = id_of(tree);
        let is_beneath = self.is_put_beneath(tree);
        if let Err(error) = self.detach() {
            tracing::warn!("the dead mount stays beneath: {error}");
        }
        if let Way::Detached(tree) = &self.way
            && !is_beneath
        {
            put(tree, &*self.pinned, MoveMountFlags::empty()).map_err(
                |error| match from_rustix(error) {
                    Errno::EACCES | Errno::EPERM => MountError::Forbidden,
                    errno => {
                        let what = format!("mount on {}", self.target().display());
                        MountError::kernel(what, errno)
                    }
                },
            )?;
        }
        (self.way, self.id, self.attached) = (Way::Kernel, id, true);
        Ok(())
    }

    /// Whether the mount is still there: somebody else may have unmounted it. Where nobody can tell, for
    /// want of a descriptor, it is.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let is_there = || mountinfo::by_id(self.id).map_or(true, |mount| mount.is_some());
        self.attached && (self.id == 0 || is_there())
    }

    /// One that is visible from the beginning notes which it is.
    ///
    /// # Errors
    /// [`MountError::NotMounted`] where the helper, which takes a path, mounted somewhere else.
    fn find_itself(&mut self) -> Result<(), MountError> {
        if !matches!(self.way, Way::Detached(_)) {
            let ours = self.place.mounted()?.filter(|(_, mount)| mount.is_ours());
            let target = self.target().to_owned();
            let (_, mount) = ours.ok_or(MountError::NotMounted { target })?;
            (self.id, self.attached) = (mount.id, true);
        }
        Ok(())
    }

    /// Unmounts, at once even if somebody still has files open: these then read errors. It is found by
    /// its number, wherever it is by now.
    ///
    /// # Errors
    /// [`MountError::System`].
    pub fn detach(&mut self) -> Result<(), MountError> {
        if self.attached && self.is_attached() {
            let (root, mount) = self.root()?;
            match self.way {
                Way::Helper => unmount_by_helper(&mount.target, true)?,
                Way::Kernel | Way::Classic | Way::Detached(_) => detach(&root)?,
            }
        }
        self.attached = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            tracing::warn!("{} stays mounted: {error}", self.target().display());
        }
    }
}

/// Unmounts what a daemon of ours has mounted at `target`; the daemon then ends by itself. With
/// `lazy` also while files are open there.
///
/// # Errors
/// [`MountError::NotMounted`], [`MountError::Foreign`], [`MountError::Busy`].
pub fn unmount(target: &Path, lazy: bool) -> Result<(), MountError> {
    let nothing = || MountError::NotMounted { target: target.to_owned() };
    let place = Place::look(target)?.ok_or_else(nothing)?;
    let (_, mount) = place.mounted()?.ok_or_else(nothing)?;
    if !mount.is_ours() {
        return Err(foreign(&place, mount));
    }
    let mut looks = 0;
    loop {
        match unmount_once(&place, lazy) {
            Err(MountError::Busy { .. }) if looks < LOOKS_AT_A_BUSY_MOUNT => {
                looks += 1;
                std::thread::sleep(BETWEEN_LOOKS);
            }
            outcome => return outcome,
        }
    }
}

fn unmount_once(place: &Place, lazy: bool) -> Result<(), MountError> {
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    let target = place.path();
    // Not by a descriptor of the mount itself, which would make it busy.
    match umount2(&place.path_by_descriptor(), flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(MountError::Busy { target: target.to_owned() }),
        Err(Errno::EPERM) if !geteuid().is_root() => unmount_by_helper(target, lazy),
        Err(errno) => Err(MountError::system(format!("unmount {}", target.display()), errno)),
    }
}

/// Detaches the mount with this root, wherever it is.
fn detach(root: &OwnedFd) -> Result<(), MountError> {
    let path = format!("/proc/self/fd/{}", root.as_raw_fd());
    umount2(path.as_str(), MntFlags::MNT_DETACH)
        .map_err(|errno| MountError::system("unmount", errno))
}

fn foreign(place: &Place, mount: MountEntry) -> MountError {
    let target = place.path().to_owned();
    MountError::Foreign { target, fs_type: mount.fs_type, origin: mount.source }
}

/// Removes dead mounts of ours from a place; refuses anything else that is mounted there.
fn clear(place: &Place) -> Result<(), MountError> {
    while let Some((root, mount)) = place.mounted()? {
        if !mount.is_ours() {
            return Err(foreign(place, mount));
        }
        let target = place.path().to_owned();
        let asked = root.try_clone().map_err(|error| {
            MountError::system(format!("look at {}", target.display()), errno(&error))
        })?;
        match mountinfo::health(asked) {
            (Health::Alive, pid) => return Err(MountError::AlreadyServed { target, pid }),
            (Health::Stuck, _) => return Err(MountError::Stuck { target }),
            (Health::Dead, _) => {
                tracing::info!("removing the dead mount that a crash left at {}", target.display());
                match detach(&root) {
                    Err(MountError::System { errno: Errno::EPERM, .. }) if !geteuid().is_root() => {
                        unmount_by_helper(&target, true)?;
                    }
                    detached => detached?,
                }
            }
        }
    }
    Ok(())
}

fn open_device() -> Result<OwnedFd, MountError> {
    match std::fs::metadata(DEVICE) {
        Ok(metadata) if !metadata.file_type().is_char_device() => return Err(MountError::NoDevice),
        Ok(metadata) if metadata.rdev() != makedev(DEVICE_NUMBER.0, DEVICE_NUMBER.1) => {
            return Err(MountError::OtherDevice);
        }
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MountError::NoDevice);
        }
        Err(error) => return Err(MountError::DeviceRefused { errno: errno(&error) }),
    }
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        match from_rustix(error) {
            Errno::ENODEV | Errno::ENXIO => MountError::NoFuse,
            errno => MountError::DeviceRefused { errno },
        }
    })
}

/// The mount options that the kernel takes (`mount.fuse(8)`). Without `default_permissions` it
/// would ignore the mode bits.
fn kernel_options(device: &OwnedFd, layout: Layout) -> [(&'static str, String); 4] {
    [
        ("fd", device.as_raw_fd().to_string()),
        ("rootmode", root_mode(layout).into()),
        ("user_id", geteuid().to_string()),
        ("group_id", getegid().to_string()),
    ]
}

/// A new connection, and the mount on it.
fn connect(
    target: &Path,
    pinned: &Flock<std::fs::File>,
    layout: Layout,
    allow_other: bool,
) -> Result<(OwnedFd, Way), MountError> {
    let ours = open_device().and_then(|device| {
        let way = by_ourselves(&device, pinned, layout, allow_other)?;
        Ok((device, way))
    });
    match ours {
        Err(refused @ (MountError::NotPermitted | MountError::DeviceRefused { .. }))
            if !geteuid().is_root() =>
        {
            Ok((by_helper(target, refused)?, Way::Helper))
        }
        ours => ours,
    }
}

/// Mounts by ourselves: detached where the kernel can, else with the old system call.
fn by_ourselves(
    device: &OwnedFd,
    pinned: &Flock<std::fs::File>,
    layout: Layout,
    allow_other: bool,
) -> Result<Way, MountError> {
    match detached(device, layout, allow_other) {
        Ok(tree) => Ok(Way::Detached(tree)),
        // Before Linux 5.2, or under a seccomp filter that does not know the newer calls.
        Err(rustix::io::Errno::NOSYS) => {
            classic(device, pinned, layout, allow_other)?;
            Ok(Way::Classic)
        }
        Err(rustix::io::Errno::PERM) => Err(MountError::NotPermitted),
        Err(rustix::io::Errno::NODEV) => Err(MountError::NoFuse),
        Err(error) => Err(MountError::kernel("create the file system", from_rustix(error))),
    }
}

fn detached(device: &OwnedFd, layout: Layout, allow_other: bool) -> rustix::io::Result<OwnedFd> {
    // A filter of system calls may know the first of them and not the last, and by then the device would
    // be taken. What these say otherwise is that there is nothing to mount, nor to move.
    let (flags, attributes) = (kernel::FsMountFlags::empty(), kernel::MountAttrFlags::empty());
    let nothing = kernel::fsmount(device.as_fd(), flags, attributes).map(drop);
    let here = rustix::fs::CWD;
    let nowhere = kernel::move_mount(here, c"", here, c"", MoveMountFlags::empty());
    if [nothing, nowhere].contains(&Err(rustix::io::Errno::NOSYS)) {
        return Err(rustix::io::Errno::NOSYS);
    }
    let fs = kernel::fsopen("fuse", kernel::FsOpenFlags::FSOPEN_CLOEXEC)?;
    let named = [("source", NAME.to_owned()), ("subtype", NAME.to_owned())];
    for (key, value) in named.into_iter().chain(kernel_options(device, layout)) {
        kernel::fsconfig_set_string(fs.as_fd(), key, value)?;
    }
    kernel::fsconfig_set_flag(fs.as_fd(), "default_permissions")?;
    if allow_other {
        kernel::fsconfig_set_flag(fs.as_fd(), "allow_other")?;
    }
    kernel::fsconfig_create(fs.as_fd())?;
    kernel::fsmount(
        fs.as_fd(),
        kernel::FsMountFlags::FSMOUNT_CLOEXEC,
        kernel::MountAttrFlags::MOUNT_ATTR_NOSUID
            | kernel::MountAttrFlags::MOUNT_ATTR_NODEV
            | kernel::MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
}

/// The number of a mount; 0, which none has, where it cannot be told.
fn id_of(mount: &OwnedFd) -> u64 {
    mountinfo::id_of(mount).ok().flatten().unwrap_or_default()
}

/// Puts a detached mount on a place.
fn put(tree: &OwnedFd, place: impl AsFd, flags: MoveMountFlags) -> rustix::io::Result<()> {
    let flags =
        flags | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    kernel::move_mount(tree, c"", place, c"", flags)
}

fn classic(
    device: &OwnedFd,
    pinned: &Flock<std::fs::File>,
    layout: Layout,
    allow_other: bool,
) -> Result<(), MountError> {
    let options =
        kernel_options(device, layout).map(|(key, value)| format!("{key}={value}")).join(",");
    let allow_other = if allow_other { ",allow_other" } else { "" };
    let options = format!("{options},default_permissions{allow_other}");
    let target = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let fs_type = format!("fuse.{NAME}");
    nix::mount::mount(
        Some(NAME),
        target.as_str(),
        Some(fs_type.as_str()),
        flags,
        Some(options.as_str()),
    )
    .map_err(|errno| match errno {
        Errno::EPERM => MountError::NotPermitted,
        Errno::ENODEV => MountError::NoFuse,
        errno => MountError::kernel("mount", errno),
    })
}

/// The setuid helper. `refused` is the error if it is not installed.
fn helper(refused: MountError) -> Result<Command, MountError> {
    spawn::command(HELPER).map_err(|missing| match missing {
        spawn::Missing::NotInstalled { .. } => refused,
        spawn::Missing::Untrusted { .. } => MountError::Helper { message: missing.to_string() },
    })
}

/// Mounts through the setuid helper, which sends the device back over a socket
/// (`fusermount3(1)`). `refused` is why we could not do it ourselves.
fn by_helper(target: &Path, refused: MountError) -> Result<OwnedFd, MountError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|error| MountError::system("make a socket pair", from_rustix(error)))?;
    // Standard input is the one descriptor that a child gets without unsafe code.
    let options = format!("nosuid,nodev,noexec,default_permissions,fsname={NAME},subtype={NAME}");
    let output = helper(refused)?
        .args(["-o", &options, "--"])
        .arg(target)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .output()
        .map_err(|error| MountError::Helper { message: format!("it cannot be run: {error}") })?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(MountError::Helper { message });
    }
    receive_device(&ours)
}

fn receive_device(socket: &OwnedFd) -> Result<OwnedFd, MountError> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(|error| MountError::Helper { message: format!("it sent nothing: {error}") })?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| MountError::Helper { message: "it sent no device".into() })
}

fn unmount_by_helper(target: &Path, lazy: bool) -> Result<(), MountError> {
    let mut command = helper(MountError::NotPermitted)?;
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(target).output();
    let output =
        output.map_err(|error| MountError::system(format!("run {HELPER}"), errno(&error)))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("busy") {
        return Err(MountError::Busy { target: target.to_owned() });
    }
    Err(MountError::Helper { message })
}
