//! An agent's home full of traps for root's commands.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::PROGRAM;
use super::dir::TestDir;
use super::process::{Finished, ORDINARY, User, command, run};
use super::secs;

/// Programs that somebody could take for the system's.
const PROGRAMS: [&str; 9] =
    ["git", "gh", "fusermount3", "sh", "cat", "env", "molecule-tokenfs", "printf", "true"];

/// An agent's home, with everything in it that could trap root.
pub struct Traps {
    pub dir: TestDir,
    pub home: PathBuf,
    /// In which each trap notes by whom it was run.
    pub ran: PathBuf,
    path: String,
}

impl Traps {
    /// Lays them in the home of this user, who is new. Call it in a root of the test's own only
    /// ([`super::container::own_root`]).
    pub fn lay(dir: TestDir, user: &str) -> Self {
        let home = dir.folder("home");
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let agent = format!("{user}:x:{ORDINARY}:{ORDINARY}::{}:/bin/sh\n", home.display());
        fs::write("/etc/passwd", agent + &users).unwrap();
        let ran = dir.file("ran", "");
        fs::set_permissions(&ran, fs::Permissions::from_mode(0o666)).unwrap();
        let path = format!(
            ":.:bin:{}::/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:",
            home.join("bin").display()
        );
        let traps = Self { dir, home, ran, path };
        for name in PROGRAMS {
            for place in ["bin", "work", "work/bin"] {
                traps.program(&format!("{place}/{name}"), name);
            }
        }
        traps.program("trap", "");
        traps.repository();
        traps.write(".gitconfig", &traps.settings());
        traps.write(".config/git/config", &traps.settings());
        traps.own_all();
        traps
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        self.dir.file(&format!("home/{name}"), text)
    }

    /// Notes that it was run, and goes on as the program whose name it has.
    fn program(&self, name: &str, real: &str) {
        let real = PROGRAMS.iter().find(|known| **known == real && real != "molecule-tokenfs");
        let then = real.map_or_else(String::new, |real| format!("exec /usr/bin/{real} \"$@\"\n"));
        let ran = self.ran.display();
        let text = format!("#!/bin/dash\necho \"$(/usr/bin/id -u) $0 $*\" >>{ran}\n{then}");
        let program = self.write(name, &text);
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What git would run, and where it would write.
    fn settings(&self) -> String {
        let (trap, written) = (self.home.join("trap"), self.home.join("written"));
        let (trap, written) = (trap.display(), written.display());
        format!(
            "[trace2]\n\tnormalTarget = {written}\n\teventTarget = {written}-events\n\
             [core]\n\tfsmonitor = {trap}\n\teditor = {trap}\n\tpager = {trap}\n\tsshCommand = {trap}\n\
             \thooksPath = {home}\n\taskPass = {trap}\n[pager]\n\tconfig = {trap}\n\
             [credential]\n\thelper = !{trap}\n[alias]\n\tconfig = !{trap}\n\tst = !{trap}\n\
             [http]\n\textraHeader = no\n[include]\n\tpath = {home}/more\n",
            home = self.home.display()
        )
    }

    fn repository(&self) {
        for words in [&["init", "-q", "home/work"][..], &["init", "-q", "--bare", "home/bare"]] {
            let mut git = command("/usr/bin/git", User::Own);
            git.args(words).current_dir(self.dir.path()).env("HOME", "/nonexistent");
            run(git, &self.dir, secs(10)).ok();
        }
        let settings = self.settings();
        self.write("work/.git/config", &format!("[core]\n\tbare = false\n{settings}"));
    }

    /// Everything is the agent's.
    pub fn own_all(&self) {
        fn give(path: &Path) {
            chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
            if path.is_dir() && !path.is_symlink() {
                for entry in fs::read_dir(path).unwrap() {
                    give(&entry.unwrap().path());
                }
            }
        }
        give(&self.home);
    }

    /// A command in these surroundings, as root.
    pub fn around(&self, mut command: Command) -> Command {
        self.inside(&mut command);
        command
    }

    /// Puts a command there.
    pub fn inside(&self, command: &mut Command) {
        let trap = self.home.join("trap");
        command.current_dir(self.home.join("work"));
        command.env("PATH", &self.path).env("HOME", &self.home);
        command.env("XDG_CONFIG_HOME", self.home.join(".config"));
        command.env("TMPDIR", &self.home);
        for name in ["GIT_EDITOR", "GIT_PAGER", "GIT_ASKPASS", "GIT_SSH_COMMAND", "PAGER", "EDITOR"]
        {
            command.env(name, &trap);
        }
        command.env("GIT_TRACE2", self.home.join("written-by-variable"));
        command.env("GIT_EXEC_PATH", self.home.join("bin"));
        command.env("GIT_TEMPLATE_DIR", &self.home);
        command.env("GIT_CONFIG_GLOBAL", self.home.join(".gitconfig"));
    }

    pub fn run(&self, words: &[&str]) -> Finished {
        let mut ours = command(PROGRAM, User::Own);
        ours.args(words);
        run(self.around(ours), &self.dir, secs(40))
    }

    /// Asserts that root has run and written nothing here since the last call.
    #[track_caller]
    pub fn assert_untouched(&self, what: &str) {
        if let Some(touched) = self.touched() {
            panic!("{what}: {touched}");
        }
    }

    /// What root has run or written here since the last call.
    pub fn touched(&self) -> Option<String> {
        let ran = fs::read_to_string(&self.ran).unwrap();
        fs::write(&self.ran, "").unwrap();
        let by_root: Vec<_> = ran.lines().filter(|line| line.starts_with("0 ")).collect();
        if !by_root.is_empty() {
            return Some(format!("root ran {by_root:#?}"));
        }
        let mut left = vec![self.home.clone()];
        while let Some(path) = left.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            if found.uid() != ORDINARY {
                return Some(format!("root wrote {}", path.display()));
            }
            if found.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        None
    }
}
