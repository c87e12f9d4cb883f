//! A directory of a mount of ours, shown in a container that is already running, with nothing of ours
//! inside.
//!
//! The kernel lets a process mount only in its own mount namespace. So a clone of the directory's mount is
//! made here ([`Tree`]), and this process goes into the namespace of the container's ([`Process`]) and
//! puts the clone there. Whatever leads to the place belongs to the container, which may be hostile: it is
//! walked from the container's root, a name at a time, by descriptors, and no link is followed.

use std::path::Path;

mod apart;
mod attributes;
mod container;
mod error;
mod inside;
mod process;
mod replace;
mod tree;

pub use apart::apart;
pub use container::{Found, find};
pub use error::AttachError;
pub use process::Process;
pub use tree::Tree;

use inside::Inside;

/// Shows a tree at a path in the container of a process. Whether it takes the place of an earlier one.
///
/// This process must have one thread, and should end afterwards: it stays in the namespaces of the
/// container. A file system of the container's can keep it waiting for ever.
///
/// # Errors
/// [`AttachError`] says what stands in the way. Directories that were made on the way are removed then.
pub fn attach(process: &Process, tree: &Tree, path: &Path) -> Result<bool, AttachError> {
    process.expect_user(tree)?;
    let inside = Inside::enter(process)?;
    let mut spot = inside.walk(path, true)?;
    let replaced = inside.show(tree, &mut spot)?;
    spot.keep_made();
    Ok(replaced)
}

/// Takes away what is shown at a path in the container of a process. The same holds for this process as
/// with [`attach`].
///
/// # Errors
/// [`AttachError::NotShown`] where nothing of this host's is there, and other [`AttachError`]s.
pub fn detach(process: &Process, path: &Path) -> Result<(), AttachError> {
    let inside = Inside::enter(process)?;
    let spot = inside.walk(path, false)?;
    inside.take_away(&spot)
}
