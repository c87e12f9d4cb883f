//! Panics, told in the log: the default hook writes to standard error itself, and waits for it.

use std::panic::{self, PanicHookInfo};
use std::thread;

use super::writer::last_words;

/// Tells panics in the log from now on, and then calls `after`, before anything is unwound.
pub fn tell_panics(after: impl Fn() + Send + Sync + 'static) {
    panic::set_hook(Box::new(move |info| {
        last_words(&sentence(info));
        after();
    }));
}

fn sentence(info: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("without a name");
    let place = info.location().map_or_else(String::new, |location| {
        format!(" at {}:{}", within_package(location.file()), location.line())
    });
    let message = info.payload_as_str().unwrap_or("no message");
    format!("the thread {name} panicked{place}: {message}")
}

/// The path of a source file from its package on. What comes before is a directory of whoever built
/// this program.
fn within_package(path: &str) -> &str {
    let below_registry =
        path.split_once("/registry/src/").and_then(|(_, rest)| rest.split_once('/'));
    below_registry.map_or(path, |(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_file_is_told_without_the_builders_directories() {
        let dependency =
            "/home/me/.cargo/registry/src/index.crates.io-1949cf8c/fuser-0.18.0/src/lib.rs";
        assert_eq!(within_package(dependency), "fuser-0.18.0/src/lib.rs");
        assert_eq!(within_package("src/fs/open.rs"), "src/fs/open.rs");
    }
}
