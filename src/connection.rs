//! Who holds the kernel's connection, and for how long.

pub mod mount;
pub mod mountinfo;
pub mod worker;
