//! A file system that takes requests and answers none.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::limit::OnTimeout;

/// `fuse_init_out` for protocol 7.31 (`linux/fuse.h`).
const INIT_ANSWER: usize = 64;

/// A file system over a directory. Whoever looks into it waits, deaf to SIGKILL, until it is dropped.
pub struct Hung {
    device: Option<Arc<File>>,
    target: PathBuf,
    _on_timeout: OnTimeout,
}

impl Hung {
    /// Mounts it in the namespace of this thread.
    pub fn over(target: &Path) -> Self {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("FUSE");
        let fd = device.as_raw_fd();
        let options = format!("fd={fd},rootmode=40755,user_id=0,group_id=0,allow_other");
        mount(Some("hung"), target, Some("fuse"), MsFlags::empty(), Some(options.as_str()))
            .expect("a file system that hangs");
        let device = Arc::new(device);
        let requests = Arc::clone(&device);
        std::thread::spawn(move || hold(&requests));
        let abort = Connection::of(target);
        let on_timeout = OnTimeout::new(move || abort.abort());
        Self { device: Some(device), target: target.to_owned(), _on_timeout: on_timeout }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.device = None;
        // Ends the connection, and with it every wait and the thread that holds the requests.
        let _ = umount2(&self.target, MntFlags::MNT_FORCE);
        let _ = umount2(&self.target, MntFlags::MNT_DETACH);
    }
}

/// A connection, by the number of its file system.
struct Connection {
    namespace: File,
    target: PathBuf,
}

impl Connection {
    fn of(target: &Path) -> Self {
        let namespace = File::open("/proc/thread-self/ns/mnt").expect("a namespace");
        Self { namespace, target: target.to_owned() }
    }

    fn abort(self) {
        std::thread::spawn(move || {
            let _ = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS);
            let _ = nix::sched::setns(&self.namespace, nix::sched::CloneFlags::CLONE_NEWNS);
            let _ = umount2(&self.target, MntFlags::MNT_FORCE);
        })
        .join()
        .unwrap_or_default();
    }
}

/// Answers INIT, and takes everything else: a process whose request was taken cannot be killed.
fn hold(device: &File) {
    let mut device = device;
    let mut request = vec![0; 1 << 17];
    let mut is_first = true;
    while let Ok(length) = device.read(&mut request) {
        if !is_first || length < 16 {
            continue;
        }
        is_first = false;
        let mut answer = Vec::with_capacity(16 + INIT_ANSWER);
        answer.extend_from_slice(&(16_u32 + 64).to_ne_bytes());
        answer.extend_from_slice(&0_u32.to_ne_bytes());
        answer.extend_from_slice(&request[8..16]);
        let version: [u32; 2] = [7, 31];
        answer.extend(version.iter().flat_map(|number| number.to_ne_bytes()));
        answer.resize(16 + INIT_ANSWER, 0);
        // max_write
        answer[16 + 20..16 + 24].copy_from_slice(&4096_u32.to_ne_bytes());
        device.write_all(&answer).expect("INIT is answered");
    }
}
