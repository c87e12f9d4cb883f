//! Root's commands in the surroundings of an agent who lays traps: programs in PATH and in the working
//! directory, a home with a configuration of git's that runs and writes what it likes, a repository of
//! the same kind, and variables. Nothing of that is ever run or written by root.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;

use nix::sys::stat::Mode;

use crate::run_with;
use crate::support::container::own_root;
use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::process::{ORDINARY, User, command, run};
use crate::support::secs;
use crate::support::traps::Traps;

/// An agent's home in a container's root. Call it in `sandboxed` only.
fn lay() -> Traps {
    let dir = TestDir::new();
    own_root(&dir);
    Traps::lay(dir, "agent")
}

#[test]
fn run_wires_all_users_without_the_agents_programs_and_settings() {
    sandboxed(secs(120), || {
        let traps = lay();
        let text = "cat /etc/gitconfig /usr/local/etc/gitconfig; head -2 /usr/local/bin/gh";
        let words = ["--user", "agent", "--", "/bin/sh", "-c", text];
        let told = run(traps.around(run_with(&traps.dir, &words)), &traps.dir, secs(40));
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
        let traps = lay();
        // git is there twice: as a link into the agent's home, and as a file of the agent's.
        for directory in ["/usr/local/bin", "/usr/local/sbin"] {
            fs::remove_file(Path::new(directory).join("git")).ok();
        }
        symlink(traps.home.join("bin/git"), "/usr/local/sbin/git").unwrap();
        fs::copy(traps.home.join("bin/git"), "/usr/local/bin/git").unwrap();
        chown("/usr/local/bin/git", Some(ORDINARY), None).unwrap();
        let words = ["--user", "agent", "--", "/bin/true"];
        let told = run(traps.around(run_with(&traps.dir, &words)), &traps.dir, secs(40));
        traps.assert_untouched("a git of the agent's");
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        // The next one is root's alone.
        assert!(told.stderr.contains("git is wired for all users in /etc/gitconfig"), "{told:?}");

        // A directory of the agent's holds nothing that root runs, and gets nothing from root.
        for path in ["/usr/local/bin", "/etc/gitconfig"] {
            chown(path, Some(ORDINARY), None).unwrap();
        }
        let before = fs::read_dir("/usr/local/bin").unwrap().count();
        let told = run(traps.around(run_with(&traps.dir, &words)), &traps.dir, secs(40));
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
        let traps = lay();
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
        let traps = lay();
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
        let traps = lay();
        nix::unistd::mkfifo(&traps.home.join("more"), Mode::from_bits_truncate(0o644)).unwrap();
        traps.own_all();
        let told = traps.run(&["doctor", "--json", "--user", "agent"]);
        assert!(told.stdout.contains("git cannot read its configuration"), "{told:?}");
        assert!(told.stdout.contains("it did not end in time"), "{told:?}");
        let words = ["--user", "agent", "--", "/bin/true"];
        let told = run(traps.around(run_with(&traps.dir, &words)), &traps.dir, secs(40));
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
        let traps = lay();
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
        let traps = lay();
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
