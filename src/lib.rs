//! A filesystem whose files are always-fresh short-lived tokens.
//!
//! This is the library of the program `molecule-tokenfs`; it exists so that tests can reach the parts. The
//! README says what the program does, `docs/ARCHITECTURE.md` how it works.
//!
//! # Quick start
//!
//! A token is served only as a [`FreshToken`](token::FreshToken). [`Engine`](refresh::Engine) fetches from a
//! chain of [sources](source::Source), and [`Handle`](refresh::Handle) judges at each call whether the token at
//! hand may be served. A [view](view::View) turns a token into the bytes of a file:
//!
//! ```
//! use molecule_tokenfs::secret::Secret;
//! use molecule_tokenfs::token::Published;
//! use molecule_tokenfs::view::{self, ViewContext};
//!
//! let secret = Secret::new(b"ghs_example".to_vec())?;
//! assert!(!format!("{secret:?}").contains("example"), "Debug prints a mask");
//!
//! let token = Published { secret, expires_at: None };
//! let context = ViewContext { hosts: vec!["github.com".to_owned()] };
//! let header = view::by_path("header").expect("a view");
//! let bytes = view::render(header, &token, &context);
//! assert_eq!(bytes.as_bytes(), b"Authorization: Bearer ghs_example\n");
//! # Ok::<(), molecule_tokenfs::secret::SecretError>(())
//! ```
//!
//! | to see | run |
//! |---|---|
//! | everything at work | `cargo run --release -- demo` |
//! | all checks | `scripts/test` |
//! | this page, with all modules | `cargo doc --no-deps --open` |
//!
//! # Floors
//!
//! A module uses only its own floor and those below, and on its own floor nothing before the last `>` on
//! its left. No modules use each other in a circle. `tests/architecture.rs` checks it.
//!
//! ```text
//! 5 process   main > cli > cmd/ > config > observe demo/ advice
//! 4 serve     attach/ files/ > connection/ place/ > fs/ service spawn
//! 3 views     view/  status/
//! 2 refresh   refresh/
//! 1 sources   source/  foreign/  program  trust  caller
//! 0 domain    secret time token error
//! ```

pub mod advice;
pub mod attach;
pub mod caller;
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
pub mod service;
pub mod source;
pub mod spawn;
pub mod status;
pub mod time;
pub mod token;
pub mod trust;
pub mod view;
