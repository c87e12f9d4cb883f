//! A filesystem whose files are always-fresh short-lived tokens.
//!
//! The floors of the house; a module uses only its own floor and those below:
//!
//! ```text
//! 5 process   main cli config observe cmd/ demo/
//! 4 serve     connection/  fs/  files/  place/  spawn
//! 3 views     view/
//! 2 refresh   refresh/
//! 1 sources   source/  foreign/  program
//! 0 domain    secret time token error
//! ```

pub mod cli;
pub mod cmd;
pub mod config;
pub mod connection;
pub mod demo;
pub mod error;
pub mod files;
pub mod foreign;
pub mod fs;
pub mod observe;
pub mod place;
pub mod program;
pub mod refresh;
pub mod secret;
pub mod source;
pub mod spawn;
pub mod time;
pub mod token;
pub mod view;
