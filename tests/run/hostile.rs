//! Root's commands in the surroundings of an agent who lays traps: programs in PATH and in the working
//! directory, a home with a configuration of git's that runs and writes what it likes, a repository of
//! the same kind, and variables. Nothing of that is ever run or written by root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;

use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, ORDINARY, User, command, run};
use crate::support::secs;
use crate::{own_root, run_with};

/// Programs that somebody could take for the system's.
const PROGRAMS: [&str; 9] =
    ["git", "gh", "fusermount3", "sh", "cat", "env", "molecule-tokenfs", "printf", "true"];

/// An agent's home, with everything in it that could trap root.
struct Traps {
    dir: TestDir,
    home: PathBuf,
    /// In which each trap notes by whom it was run.
    ran: PathBuf,
    path: String,
}

impl Traps {
    /// Call it in `sandboxed` only.
    fn lay() -> Self {
        let dir = TestDir::new();
        own_root(&dir);
        let home = dir.folder("home");
        let users = fs::read_to_string("/etc/passwd").unwrap();
        let agent = format!("agent:x:{ORDINARY}:{ORDINARY}::{}:/bin/sh\n", home.display());
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
    fn own_all(&self) {
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
    fn inside(&self, mut command: Command) -> Command {
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
        command
    }

    fn run(&self, words: &[&str]) -> Finished {
        let mut ours = command(PROGRAM, User::Own);
        ours.args(words);
        run(self.inside(ours), &self.dir, secs(40))
    }

    /// Asserts that root has run and written nothing here since the last call.
    #[track_caller]
    fn assert_untouched(&self, what: &str) {
        let ran = fs::read_to_string(&self.ran).unwrap();
        let by_root: Vec<_> = ran.lines().filter(|line| line.starts_with("0 ")).collect();
        assert!(by_root.is_empty(), "{what}: root ran {by_root:#?}");
        let mut left = vec![self.home.clone()];
        while let Some(path) = left.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            assert_eq!(found.uid(), ORDINARY, "{what}: root wrote {}", path.display());
            if found.is_dir() {
                left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        fs::write(&self.ran, "").unwrap();
    }
}

#[test]
fn run_wires_all_users_without_the_agents_programs_and_settings() {
    sandboxed(secs(120), || {
        let traps = Traps::lay();
        let text = "cat /etc/gitconfig /usr/local/etc/gitconfig; head -2 /usr/local/bin/gh";
        let words = ["--user", "agent", "--", "/bin/sh", "-c", text];
        let told = run(traps.inside(run_with(&traps.dir, &words)), &traps.dir, secs(40));
        traps.assert_untouched("run");
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        // Both were wired all the same.
        assert!(told.stdout.contains("# molecule-tokenfs: gh shim"), "{told:?}");
        let helper = format!("helper = {PROGRAM} git-credential");
        assert!(told.stdout.contains(&helper), "{told:?}");
    });
}

#[test]
fn run_does_without_where_the_system_itself_is_the_agents() {
    sandboxed(secs(120), || {
        let traps = Traps::lay();
        // git is there twice: as a link into the agent's home, and as a file of the agent's.
        for directory in ["/usr/local/bin", "/usr/local/sbin"] {
            fs::remove_file(Path::new(directory).join("git")).ok();
        }
        symlink(traps.home.join("bin/git"), "/usr/local/sbin/git").unwrap();
        fs::copy(traps.home.join("bin/git"), "/usr/local/bin/git").unwrap();
        chown("/usr/local/bin/git", Some(ORDINARY), None).unwrap();
        let words = ["--user", "agent", "--", "/bin/true"];
        let told = run(traps.inside(run_with(&traps.dir, &words)), &traps.dir, secs(40));
        traps.assert_untouched("a git of the agent's");
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        // The next one is root's alone.
        assert!(told.stderr.contains("git is wired for all users in /etc/gitconfig"), "{told:?}");

        // A directory of the agent's holds nothing that root runs, and gets nothing from root.
        for path in ["/usr/local/bin", "/etc/gitconfig"] {
            chown(path, Some(ORDINARY), None).unwrap();
        }
        let before = fs::read_dir("/usr/local/bin").unwrap().count();
        let told = run(traps.inside(run_with(&traps.dir, &words)), &traps.dir, secs(40));
        traps.assert_untouched("directories of the agent's");
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        for words in [
            "git works for the command, and not in other shells",
            "others than root can change /etc/gitconfig",
            "gh works for the command, and not in other shells",
            "others than root can change /usr/local/bin",
        ] {
            assert!(told.stderr.contains(words), "{words}: {told:?}");
        }
        assert_eq!(fs::read_dir("/usr/local/bin").unwrap().count(), before);
    });
}

#[test]
fn doctor_looks_at_the_agents_git_as_the_agent() {
    sandboxed(secs(120), || {
        let traps = Traps::lay();
        let told = traps.run(&["doctor", "--json", "--user", "agent"]);
        traps.assert_untouched("doctor --user");
        // It has looked.
        assert!(told.stdout.contains("but `!"), "{told:?}");
        assert!(told.stdout.contains("/home/.gitconfig)"), "{told:?}");
        assert_eq!(fs::metadata(traps.home.join("written")).unwrap().uid(), ORDINARY);
        fs::remove_file(traps.home.join("written")).unwrap();

        let told = traps.run(&["doctor", "--json"]);
        traps.assert_untouched("doctor");
        assert!(told.stdout.contains("root does not read all of git's configuration"), "{told:?}");
        assert!(!traps.home.join("written").exists());
    });
}

#[test]
fn setup_as_root_changes_the_agents_files_with_the_agents_rights() {
    sandboxed(secs(120), || {
        let traps = Traps::lay();
        let roots = traps.dir.file("roots", "[user]\n\tname = root\n");
        let bin = traps.home.join("new/bin");
        for words in [
            &["setup", "git", "--system"][..],
            &["setup", "git", "--system", "--undo"],
            &["setup", "gh"],
            &["setup", "gh", "--undo"],
            &["setup", "gh", "--dir", bin.to_str().unwrap()],
            &["setup", "gh", "--undo", "--dir", bin.to_str().unwrap()],
        ] {
            let told = traps.run(words);
            traps.assert_untouched(&words.join(" "));
            assert_eq!(told.status.code(), Some(0), "{words:?}: {told:?}");
        }
        assert!(bin.exists());
        // Its own files git may well read as the agent.
        for words in [&["setup", "git"][..], &["setup", "git", "--undo"]] {
            let told = traps.run(words);
            traps.assert_untouched(&words.join(" "));
            assert_eq!(told.status.code(), Some(0), "{words:?}: {told:?}");
            assert!(told.stdout.contains("Done as agent"), "{told:?}");
        }
        // A link of the agent's to a file of root's.
        fs::remove_file(traps.home.join(".gitconfig")).unwrap();
        symlink(&roots, traps.home.join(".gitconfig")).unwrap();
        chown_link(&traps.home.join(".gitconfig"));
        let told = traps.run(&["setup", "git"]);
        assert_eq!(told.status.code(), Some(1), "{told:?}");
        assert_eq!(fs::read_to_string(&roots).unwrap(), "[user]\n\tname = root\n");
        traps.assert_untouched("a link");
    });
}

fn chown_link(path: &Path) {
    std::os::unix::fs::lchown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
}

#[test]
fn a_configuration_that_never_ends_costs_ten_seconds_at_most() {
    sandboxed(secs(120), || {
        let traps = Traps::lay();
        nix::unistd::mkfifo(&traps.home.join("more"), Mode::from_bits_truncate(0o644)).unwrap();
        traps.own_all();
        let told = traps.run(&["doctor", "--json", "--user", "agent"]);
        assert!(told.stdout.contains("git cannot read its configuration"), "{told:?}");
        assert!(told.stdout.contains("it did not end in time"), "{told:?}");
        let words = ["--user", "agent", "--", "/bin/true"];
        let told = run(traps.inside(run_with(&traps.dir, &words)), &traps.dir, secs(40));
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        let told = traps.run(&["setup", "git"]);
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        assert!(told.stdout.contains("Careful: "), "{told:?}");
        traps.assert_untouched("a configuration that never ends");
    });
}

#[test]
fn mount_and_umount_run_no_helper_of_the_agents() {
    sandboxed(secs(120), || {
        let traps = Traps::lay();
        let mountpoint = traps.dir.join("token");
        let mountpoint = mountpoint.to_str().unwrap();
        traps.run(&["mount", "--background", "--made-up", "1m", mountpoint]).ok();
        for words in [&["get", mountpoint][..], &["umount", mountpoint]] {
            traps.run(words).ok();
        }
        traps.assert_untouched("mount");
        let told = traps.run(&["demo", "--plain", "--lifetimes", "1", "--life", "4s"]);
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        traps.assert_untouched("demo");
    });
}

#[test]
fn an_ordinary_user_runs_nothing_of_the_working_directory() {
    sandboxed(secs(60), || {
        let traps = Traps::lay();
        let path = ":.:bin::/usr/bin:/bin:";
        for words in [&["doctor", "--json"][..], &["setup", "git", "--file", "mine"]] {
            let mut ours = command(PROGRAM, User::Number(ORDINARY));
            ours.args(words).current_dir(traps.home.join("work"));
            ours.env("PATH", path).env("HOME", traps.dir.path());
            let told = run(ours, &traps.dir, secs(40));
            assert!(told.stderr.is_empty(), "{told:?}");
            let ran = fs::read_to_string(&traps.ran).unwrap();
            assert_eq!(ran, "", "{words:?}");
        }
    });
}
