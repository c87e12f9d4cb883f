//! A mount of the host's in containers that run already, made by real runtimes: without capabilities, with
//! a read-only root, as an ordinary user, with nothing of ours inside; and in those that are hostile.
//! needs: host-root, fuse, busybox, dockerd, runc, crun, podman, newuidmap

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod again;
mod bundle;
mod crowd;
mod engines;
mod heal;
mod hook;
mod hostile;
mod refused;
mod scene;
mod strangers;
mod users;
