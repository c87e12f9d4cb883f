//! A process of a container, held so that its number cannot come to mean another one.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Tree;
use super::error::{AttachError, errno};
use crate::caller::numbers;
use crate::place::attached::start_of;
use crate::trust::IdMap;

/// A process, its root directory, and who exists where it is.
pub struct Process {
    pid: i32,
    pub(super) held: OwnedFd,
    /// What it has for `/`: with `chroot(2)` that is not the root of its namespace.
    pub(super) root: OwnedFd,
    /// Whether it is in another user namespace than this process.
    pub(super) has_own_users: bool,
    users: IdMap,
    groups: IdMap,
    /// Its user, as this host numbers users.
    user: u32,
}

impl Process {
    /// Takes hold of a process. `started`, where it is known, is when it must have started, as
    /// `proc_pid_stat(5)` counts: another one that was given the same number later is refused.
    ///
    /// # Errors
    /// [`AttachError::NoProcess`], [`AttachError::Ended`], [`AttachError::SameMounts`].
    pub fn open(pid: i32, started: Option<u64>) -> Result<Self, AttachError> {
        let number = Pid::from_raw(pid).ok_or(AttachError::NoProcess { pid })?;
        // First of all: what is read later is about this process, or `held` tells that it has ended.
        let held = pidfd_open(number, PidfdFlags::empty()).map_err(|error| match error {
            rustix::io::Errno::NOSYS => AttachError::kernel("hold a process", error),
            _ => AttachError::NoProcess { pid },
        })?;
        let looked = Self::look(pid, held, started);
        match looked {
            // Whatever went wrong, it is because there is nothing to look at any more.
            Err(AttachError::System { .. }) if !is_there(pid) => Err(AttachError::Ended { pid }),
            looked => looked,
        }
    }

    fn look(pid: i32, held: OwnedFd, started: Option<u64>) -> Result<Self, AttachError> {
        let cannot = |error: io::Error| {
            let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            if errno == Errno::EACCES || errno == Errno::EPERM {
                return AttachError::NotPermitted;
            }
            AttachError::system(format!("look at process {pid}"), errno)
        };
        let of = |name: &str| format!("/proc/{pid}/{name}");
        let is_same = |name: &str| {
            let (own, its) = (fs::metadata(format!("/proc/self/{name}")), fs::metadata(of(name)));
            let (own, its) = (own.map_err(cannot)?, its.map_err(cannot)?);
            Ok((own.dev(), own.ino()) == (its.dev(), its.ino()))
        };
        let has_own_mounts = !is_same("ns/mnt")?;
        let has_own_users = !is_same("ns/user")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, of("root"), flags, Mode::empty());
        let root = root.map_err(|error| cannot(error.into()))?;
        let map = |name| fs::read_to_string(of(name)).map(|text| IdMap::parse(&text));
        let (users, groups) = (map("uid_map").map_err(cannot)?, map("gid_map").map_err(cannot)?);
        let status = fs::read_to_string(of("status")).map_err(cannot)?;
        let user = effective_user(&status).unwrap_or_default();
        let is_another =
            started.is_some_and(|started| start_of(of("stat").as_ref()) != Some(started));
        if is_another || has_ended(&held) {
            return Err(AttachError::Ended { pid });
        }
        if !has_own_mounts {
            return Err(AttachError::SameMounts { pid });
        }
        Ok(Self { pid, held, root, has_own_users, users, groups, user })
    }

    /// The same process with another root: the directory that becomes that of its container, which is
    /// being made. The path is the host's.
    ///
    /// # Errors
    /// Where there is no such directory among the process's mounts.
    pub fn in_root(self, path: &Path) -> Result<Self, AttachError> {
        let beneath = path.strip_prefix("/").unwrap_or(path);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let root = openat2(&self.root, beneath, flags, Mode::empty(), how).map_err(|error| {
            let what = format!("find {} among the mounts of the container", path.display());
            AttachError::system(what, errno(error))
        })?;
        Ok(Self { root, ..self })
    }

    /// When it started, as `proc_pid_stat(5)` counts; `None` where it has ended.
    #[must_use]
    pub fn started(&self) -> Option<u64> {
        start_of(format!("/proc/{}/stat", self.pid).as_ref()).filter(|_| !self.has_ended())
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether somebody in its container could read the tokens of a tree.
    pub(super) fn expect_user(&self, tree: &Tree) -> Result<(), AttachError> {
        let is_readable = self.users.inside(tree.owner).is_some()
            || tree.mode.contains(Mode::ROTH)
            || tree.mode.contains(Mode::RGRP) && self.groups.inside(tree.group).is_some();
        if is_readable {
            return Ok(());
        }
        // Whoever gave a number may have meant it as the container's.
        let better = self.users.outside(tree.owner).unwrap_or(self.user);
        let (owner, users) = (tree.owner, self.users.to_string());
        Err(AttachError::NoSuchUser { owner, pid: self.pid, users, better })
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        has_ended(&self.held)
    }
}

fn is_there(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}/ns/mnt")).exists()
}

fn has_ended(held: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(held, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())) != Ok(0)
}

/// From `/proc/PID/status`: the second of the numbers is the effective one.
fn effective_user(status: &str) -> Option<u32> {
    numbers(status, "Uid").nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> (i32, Option<u64>) {
        (nix::unistd::getpid().as_raw(), start_of(Path::new("/proc/self/stat")))
    }

    #[test]
    fn a_process_without_mounts_of_its_own_is_in_no_container() {
        let (own, started) = own();
        let refused = Process::open(own, started).err().unwrap();
        assert!(matches!(refused, AttachError::SameMounts { pid } if pid == own), "{refused}");
    }

    #[test]
    fn a_process_that_started_at_another_time_is_another_one() {
        let (own, started) = own();
        let refused = Process::open(own, started.map(|at| at + 1)).err().unwrap();
        assert!(matches!(refused, AttachError::Ended { .. }), "{refused}");
    }

    #[test]
    fn a_number_that_nobody_has_is_told() {
        for pid in [0, i32::MAX] {
            let refused = Process::open(pid, None).err().unwrap();
            assert_eq!(refused.to_string(), format!("there is no process {pid}"));
        }
    }

    #[test]
    fn the_effective_user_is_the_second_number() {
        assert_eq!(effective_user("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some(2));
    }
}
