//! `setup git`: what it writes, that it can be repeated, and that undoing gives everything back.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::{BINARY, Home, TOKEN, gits, succeed, tell};

const KEY: &str = "credential.https://github.com.helper";
const USERS: &str = "# mine\n[user]\n\tname = me ; yes\n[credential]\n\thelper = store\n";

fn setup(home: &Home, words: &[&str]) -> Command {
    home.command([BINARY, "setup", "git"].iter().chain(words))
}

fn git(home: &Home, words: &[&str]) -> Command {
    let mut command = home.command(["git"].iter().chain(words));
    command.env("GIT_TERMINAL_PROMPT", "0");
    command
}

fn config(home: &Home) -> String {
    fs::read_to_string(home.path(".gitconfig")).unwrap()
}

#[test]
fn git_asks_the_mount_and_no_earlier_helper_gets_the_token() {
    for program in gits() {
        let home = Home::new();
        home.write(".gitconfig", USERS);
        let mount = home.mount();
        let report = succeed(&mut setup(&home, &["--mountpoint", mount.to_str().unwrap()]), "");
        assert!(report.contains("https://github.com"), "{report}");
        assert!(!report.contains("Careful"), "{report}");

        let helpers = succeed(&mut git(&home, &["config", "--get-all", KEY]), "");
        let ours = format!("{BINARY} git-credential --mountpoint {}", mount.display());
        assert_eq!(helpers, format!("\n{ours}\n"), "an empty one first");
        let lfs = succeed(&mut git(&home, &["config", "--bool", "lfs.cachecredentials"]), "");
        assert_eq!(lfs, "false\n");

        let real = |action, input: &str| {
            let words = [program.to_str().unwrap(), "credential", action];
            succeed(home.command(words).env("GIT_TERMINAL_PROMPT", "0"), input)
        };
        let filled = real("fill", "protocol=https\nhost=github.com\n");
        assert!(filled.contains(&format!("password={TOKEN}\n")), "{filled}");
        real("approve", &filled);
        assert!(!home.path(".git-credentials").exists(), "`store` saved the token");
    }
}

#[test]
fn the_comment_in_the_file_undoes_it() {
    let home = Home::new();
    let file = home.path("my own/config");
    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, USERS).unwrap();
    succeed(&mut setup(&home, &["--file", file.to_str().unwrap()]), "");
    let text = fs::read_to_string(&file).unwrap();
    let undo = text.split_once("(undo: molecule-tokenfs").unwrap().1.split_once(")\n").unwrap().0;
    succeed(&mut home.command(["sh", "-c", &format!("{BINARY}{undo}")]), "");
    assert_eq!(fs::read_to_string(&file).unwrap(), USERS);
}

#[test]
fn a_second_run_changes_nothing() {
    let home = Home::new();
    home.write(".gitconfig", USERS);
    succeed(&mut setup(&home, &["--host", "github.com", "--host", "ghe.example.com:8443"]), "");
    let (once, inode) = (config(&home), fs::metadata(home.path(".gitconfig")).unwrap().ino());
    let again = setup(&home, &["--host", "github.com", "--host", "ghe.example.com:8443"]);
    let report = succeed(&mut { again }, "");
    assert!(report.contains("Nothing to change"), "{report}");
    assert_eq!(config(&home), once);
    assert_eq!(fs::metadata(home.path(".gitconfig")).unwrap().ino(), inode);

    let report = succeed(&mut setup(&home, &[]), "");
    assert!(report.contains("No longer set up: https://ghe.example.com:8443"), "{report}");
    assert_eq!(config(&home).matches("git-credential").count(), 1);
}

#[test]
fn the_hosts_of_the_settings_are_set_up_where_none_is_named() {
    let home = Home::new();
    let mut command = setup(&home, &[]);
    command.env("MOLECULE_TOKENFS_HOST", "github.com,ghe.example.com");
    let report = succeed(&mut command, "");
    assert!(report.contains("https://github.com, https://ghe.example.com"), "{report}");
    let helper = "credential.https://ghe.example.com.helper";
    let helper = succeed(&mut git(&home, &["config", "--get-all", helper]), "");
    assert_eq!(helper, format!("\n{BINARY} git-credential --host ghe.example.com\n"));
}

#[test]
fn undo_gives_back_every_byte() {
    for users in [USERS, "", "[a]\n\tb = \"c\\\"d\"\n\n\n"] {
        let home = Home::new();
        home.write(".gitconfig", users);
        succeed(&mut setup(&home, &[]), "");
        assert_ne!(config(&home), users);
        succeed(&mut setup(&home, &["--undo"]), "");
        assert_eq!(config(&home), users);
        let report = succeed(&mut setup(&home, &["--undo"]), "");
        assert!(report.contains("nothing of setup's"), "{report}");
        assert_eq!(config(&home), users);
    }
}

#[test]
fn undo_finds_what_a_program_of_another_name_wrote() {
    let home = Home::new();
    home.write(".gitconfig", USERS);
    let other = home.path("mtfs");
    fs::copy(BINARY, &other).unwrap();
    let other = other.to_str().unwrap();
    succeed(&mut home.command([other, "setup", "git", "--host", "ghe.example.com"]), "");
    assert!(
        config(&home).contains("/mtfs git-credential --host ghe.example.com"),
        "{}",
        config(&home)
    );
    succeed(&mut setup(&home, &["--undo"]), "");
    assert_eq!(config(&home), USERS);

    // The helper in the shell may have any name, too; and any program takes the block over.
    let helper = home.path("ask");
    let words = ["--shell-helper", helper.to_str().unwrap()];
    succeed(&mut setup(&home, &words), "");
    succeed(&mut home.command([other, "setup", "git"]), "");
    assert_eq!(config(&home).matches("[credential \"").count(), 1);
    succeed(&mut setup(&home, &["--undo"]), "");
    assert_eq!(config(&home), USERS);
}

#[test]
fn undo_removes_a_file_that_setup_made_and_keeps_what_the_user_added() {
    let home = Home::new();
    succeed(&mut setup(&home, &[]), "");
    succeed(&mut setup(&home, &[]), "");
    succeed(&mut setup(&home, &["--undo"]), "");
    assert!(!home.path(".gitconfig").exists());

    succeed(&mut setup(&home, &[]), "");
    succeed(&mut git(&home, &["config", "--global", "lfs.locksverify", "true"]), "");
    let username = "credential.https://github.com.username";
    succeed(&mut git(&home, &["config", "--global", username, "me"]), "");
    succeed(&mut git(&home, &["config", "--global", "user.name", "me"]), "");
    succeed(&mut setup(&home, &["--undo"]), "");
    let list = succeed(&mut git(&home, &["config", "--global", "--list"]), "");
    assert_eq!(list, format!("{username}=me\nlfs.locksverify=true\nuser.name=me\n"));
}

#[test]
fn a_later_helper_that_would_keep_the_token_is_named() {
    let home = Home::new();
    home.write("more", "[credential]\n\thelper = store\n");
    home.write(".gitconfig", "[user]\n\tname = me\n");
    succeed(&mut setup(&home, &[]), "");
    // An include after our lines, as a user may add it later.
    let text = config(&home) + "[include]\n\tpath = ~/more\n";
    home.write(".gitconfig", &text);
    let mut command = setup(&home, &["--file", home.path(".gitconfig").to_str().unwrap()]);
    let report = succeed(&mut command, "");
    assert!(!report.contains("Careful"), "our lines move to the end: {report}");

    // A repository's own configuration comes after the user's in any case.
    succeed(&mut git(&home, &["init", "-q", "repository"]), "");
    let local = ["-C", "repository", "config", "credential.helper", "cache --timeout=1"];
    succeed(&mut git(&home, &local), "");
    let words = [BINARY, "setup", "git"];
    let mut command = home.ordinary_command(words);
    let report = succeed(command.current_dir(home.path("repository")), "");
    assert!(
        report.contains("Careful: the helper `cache --timeout=1` in file:.git/config comes after"),
        "{report}"
    );

    let local = ["git", "-C", "repository", "config", "credential.helper", ""];
    succeed(&mut home.ordinary_command(local), "");
    let report = succeed(&mut command, "");
    assert!(report.contains("git will not ask the mount"), "{report}");
}

#[test]
fn helpers_in_files_that_are_included_before_are_reset() {
    let home = Home::new();
    home.write("more", "[credential \"https://github.com\"]\n\thelper = store\n");
    home.write(".gitconfig", "[include]\n\tpath = ~/more\n");
    let report = succeed(&mut setup(&home, &[]), "");
    assert!(!report.contains("Careful"), "{report}");
    assert_eq!(fs::read_to_string(home.path("more")).unwrap().matches("helper").count(), 1);
}

#[test]
fn a_symbolic_link_stays_one_and_mode_and_contents_are_kept() {
    let home = Home::new();
    let real = home.write("dotfiles/gitconfig", USERS);
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    symlink("dotfiles/gitconfig", home.path(".gitconfig")).unwrap();
    succeed(&mut setup(&home, &[]), "");
    assert_eq!(fs::read_link(home.path(".gitconfig")).unwrap(), Path::new("dotfiles/gitconfig"));
    assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, 0o640);
    assert!(fs::read_to_string(&real).unwrap().starts_with(USERS));
    succeed(&mut setup(&home, &["--undo"]), "");
    assert_eq!(fs::read_to_string(&real).unwrap(), USERS);
    assert_eq!(fs::read_dir(home.path("dotfiles")).unwrap().count(), 1);

    // Also where the file behind the link is not there yet.
    fs::remove_file(&real).unwrap();
    succeed(&mut setup(&home, &[]), "");
    assert!(real.exists() && home.path(".gitconfig").is_symlink());
}

#[test]
fn a_file_that_git_cannot_read_or_is_writing_is_left_alone() {
    let home = Home::new();
    home.write(".gitconfig", "[user\nname");
    let (code, _, stderr) = tell(&mut setup(&home, &[]), "");
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(config(&home), "[user\nname");

    home.write(".gitconfig", USERS);
    home.write(".gitconfig.lock", "");
    let (code, _, stderr) = tell(&mut setup(&home, &[]), "");
    assert_eq!(code, 1);
    assert!(stderr.contains("hint: ") && stderr.contains(".gitconfig.lock"), "{stderr}");
    assert_eq!(config(&home), USERS);
    assert!(home.path(".gitconfig.lock").exists(), "it is another's lock");
}

#[test]
fn the_scopes_write_the_file_that_git_would() {
    for program in gits() {
        let home = Home::new();
        let bin = program.parent().unwrap().to_str().unwrap();
        let path = format!("{bin}:/usr/bin:/bin");
        let system = home.path("etc-gitconfig");
        let mut command = setup(&home, &["--system"]);
        command.env("PATH", &path).env("GIT_CONFIG_SYSTEM", &system);
        let report = succeed(command.env_remove("GIT_CONFIG_NOSYSTEM"), "");
        assert!(!report.contains("Careful"), "{report}");
        assert!(fs::read_to_string(&system).unwrap().contains("git-credential"));
        let mut command = setup(&home, &["--system", "--undo"]);
        succeed(command.env("PATH", &path).env("GIT_CONFIG_SYSTEM", &system), "");
        assert!(!system.exists());
    }
    let home = Home::new();
    let xdg = home.write(".config/git/config", "");
    succeed(&mut setup(&home, &["--global"]), "");
    assert!(fs::read_to_string(&xdg).unwrap().contains("git-credential"));
    assert!(!home.path(".gitconfig").exists());
    assert_eq!(tell(&mut setup(&home, &["--global", "--system"]), "").0, 2);
}

#[test]
fn the_helper_in_the_shell_is_written_and_used_and_removed() {
    let home = Home::new();
    let helper = home.path("bin dir/git-credential-molecule");
    let helper_word = helper.to_str().unwrap();
    let mount = home.mount();
    let words = ["--shell-helper", helper_word, "--mountpoint", mount.to_str().unwrap()];
    succeed(&mut setup(&home, &words), "");
    let filled =
        succeed(&mut git(&home, &["credential", "fill"]), "protocol=https\nhost=github.com\n");
    assert!(filled.contains(&format!("password={TOKEN}\n")), "{filled}");
    succeed(&mut setup(&home, &["--undo", "--shell-helper", helper_word]), "");
    assert!(!helper.exists() && !home.path(".gitconfig").exists());

    home.write("bin dir/git-credential-molecule", "#!/bin/sh\n# somebody else's\n");
    let (code, _, stderr) = tell(&mut setup(&home, &words), "");
    assert_eq!(code, 1);
    assert!(stderr.contains("is not ours"), "{stderr}");
    assert!(!home.path(".gitconfig").exists(), "nothing is left half done");
}
