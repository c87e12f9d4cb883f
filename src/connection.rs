//! Who holds the kernel's connection, and for how long.

pub mod companion;
pub mod demand;
pub mod doors;
pub mod handover;
mod heal;
pub mod kernel;
pub mod manager;
pub mod mount;
mod recovery;
pub mod resident;
pub mod rotation;
pub mod supervisor;
pub mod tokens;
mod wire;
pub mod worker;
