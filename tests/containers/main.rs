//! The mission's acceptance, in containers of real runtimes: while tokens that live for ten seconds die
//! under them, `gh api /user`, `git clone`, `push` and `fetch` go on working for the agent, in the
//! container's command and in shells beside it; and with a token frozen in the environment they do not.
//! needs: host-root, fuse, git, gh, busybox, python3, dockerd, runc, crun, podman, mmdebstrap

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod acceptance;
mod runtime;
mod site;
#[path = "../support/mod.rs"]
mod support;
mod templates;
#[path = "../e2e/world.rs"]
#[expect(dead_code, reason = "of the world, only the platform is at home here")]
mod world;
