//! Real git and real gh through a real mount, against a platform whose tokens live for ten seconds.
//! needs: fuse, root, git, git-lfs, gh, gh-2.88, gh-2.103, busybox

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod gh;
mod gh_hosts;
mod gh_owners;
mod git;
mod hooks;
mod lfs;
mod loops;
mod old_names;
mod owners;
mod places;
mod recorder;
#[path = "../support/mod.rs"]
mod support;
#[path = "../sources/tls.rs"]
#[expect(dead_code, reason = "the platform of these tests is another")]
mod tls;
mod world;
