//! A home of its own for each test, and commands that end.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::unistd::Uid;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_molecule-tokenfs");

/// The shells that an image's `/bin/sh` is.
pub const SHELLS: [&[&str]; 3] = [&["dash"], &["busybox", "sh"], &["bash", "--posix"]];

/// The token in a [`Home`]'s mount.
pub const TOKEN: &str = "ghs_first.token-with=signs==";

/// A script of the project.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// Every git in PATH: they speak different credential protocols.
pub fn gits() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut gits: Vec<PathBuf> = std::env::split_paths(&path)
        .filter_map(|directory| directory.join("git").canonicalize().ok())
        .collect();
    gits.sort();
    gits.dedup();
    assert!(!gits.is_empty(), "there is no git: apt-get install git");
    gits
}

/// A user's home with files as a daemon keeps them, and nothing of this machine's configuration.
pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(home.mount().join("gh")).unwrap();
        fs::write(home.mount().join("refresh"), "").unwrap();
        fs::write(home.mount().join(".molecule-tokenfs"), "").unwrap();
        home.put_token(TOKEN);
        home
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    pub fn mount(&self) -> PathBuf {
        self.path("mount")
    }

    pub fn token_file(&self) -> PathBuf {
        self.mount().join("token")
    }

    /// Rotates the token.
    pub fn put_token(&self, token: &str) {
        fs::write(self.mount().join("token"), token).unwrap();
        let view =
            format!("username=x-access-token\npassword={token}\npassword_expiry_utc=4102444800\n");
        fs::write(self.mount().join("git-credential"), view).unwrap();
    }

    /// The tokens are files, and this one expires then.
    pub fn keep_files(&self, expires_at: &str, seconds: u64) {
        fs::write(self.mount().join("expires_at"), format!("{expires_at}\n")).unwrap();
        let view = format!("password={TOKEN}\npassword_expiry_utc={seconds}\n");
        fs::write(self.mount().join("git-credential"), view).unwrap();
    }

    /// What was written to the mount's control file since the last call.
    pub fn refreshed(&self) -> String {
        let control = self.mount().join("refresh");
        let written = fs::read_to_string(&control).unwrap();
        fs::write(&control, "").unwrap();
        written
    }

    pub fn write(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// A program, written by another process: what this one has open for writing, a child that another
    /// test forks just then keeps open, and nobody can run it meanwhile (ETXTBSY).
    pub fn program(&self, relative: &str, text: &str) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut install = Command::new("install");
        succeed(install.args(["-m", "755", "/dev/stdin"]).arg(&path), text);
        path
    }

    /// A command with this home, a PATH of the system's programs, and a time limit.
    pub fn command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["-k", "1", "60"]).args(words);
        command.env_clear().current_dir(self.0.path());
        command.env("HOME", self.0.path()).env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
        command
    }

    /// The same as an ordinary user, to whom the home then belongs: root's git reads less.
    pub fn ordinary_command(&self, words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let who = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "--"];
        let who = if Uid::effective().is_root() { &who[..] } else { &[] };
        if !who.is_empty() {
            run(Command::new("chown").args(["-R", "1000:1000"]).arg(self.0.path()), "");
        }
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.command(who.iter().map(OsString::from).chain(words))
    }
}

/// Runs a command with this on standard input.
pub fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    // A child that does not read its input is no error here.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_ne!(output.status.code(), Some(124), "{command:?} did not end");
    output
}

/// Runs a command and gives its exit code, output and errors as text.
pub fn tell(command: &mut Command, input: &str) -> (i32, String, String) {
    let output = run(command, input);
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// Runs a command that must succeed and gives its output.
pub fn succeed(command: &mut Command, input: &str) -> String {
    let (code, stdout, stderr) = tell(command, input);
    assert_eq!(code, 0, "{command:?}: {stderr}");
    stdout
}
