//! How git and gh are wired to a mount: the two shell scripts, driven by the shells that images have,
//! the binary helper, and `setup`. The mount is a directory laid out like one; real mounts are the
//! business of `tests/e2e`.
//! needs: git, gh, busybox

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a helper's failure is the test's, and its environment is the developer's"
)]

mod credential_helper;
mod old_names;
mod options;
mod setup_gh;
mod setup_git;
mod shim;
mod support;
