//! A wall clock of a daemon's own, which a test can set. The rest of the machine, the demo platform
//! and the test included, keep the right time.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::dir::TestDir;
use super::process::{User, command, run};
use super::secs;

/// See the module, and `wall_clock.c`, which does it.
pub struct WallClock {
    file: PathBuf,
    library: PathBuf,
}

impl WallClock {
    /// A clock that shows the right time. Needs `cc`.
    pub fn new(dir: &TestDir) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/wall_clock.c");
        let library = dir.join("wall_clock.so");
        let mut cc = command("cc", User::Own);
        cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        run(cc, dir, secs(20)).ok();
        let clock = Self { file: dir.join("wall_clock"), library };
        clock.set_ahead(0);
        clock
    }

    /// The environment of a process that lives by this clock.
    pub fn environment(&self) -> [(&'static str, &OsStr); 2] {
        [("LD_PRELOAD", self.library.as_os_str()), ("WALL_CLOCK_FILE", self.file.as_os_str())]
    }

    /// Sets it to so many seconds ahead of the right time.
    pub fn set_ahead(&self, seconds: i64) {
        use std::io::Write as _;
        // In one write and without truncation: the file is mapped.
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(false).open(&self.file).unwrap();
        file.write_all(&seconds.to_ne_bytes()).expect("the clock is set");
    }
}
