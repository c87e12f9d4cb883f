//! `setup gh`: the shim comes before gh, over nobody's file, and goes again.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Command;

use crate::support::{BINARY, Home, TOKEN, script, succeed, tell};

fn setup(home: &Home, words: &[&str]) -> Command {
    let mut command = home.command([BINARY, "setup", "gh"].iter().chain(words));
    let path = format!("{0}/early:{0}/late:/usr/bin:/bin", home.path("").display());
    command.env("PATH", path);
    command
}

#[test]
fn the_installed_shim_runs_the_next_gh_with_a_token() {
    let home = Home::new();
    home.program("late/gh", "#!/bin/sh\necho \"$GH_TOKEN\"\n");
    let early = home.path("early");
    let report = succeed(&mut setup(&home, &["--dir", early.to_str().unwrap()]), "");
    assert!(report.contains("late/gh") && !report.contains("Careful"), "{report}");
    assert!(report.contains("gh api /installation/repositories"), "{report}");
    let shim = early.join("gh");
    assert_eq!(fs::metadata(&shim).unwrap().mode() & 0o7777, 0o755);
    assert!(fs::read(&shim).unwrap() == fs::read(script("gh")).unwrap(), "it is another script");

    let mut command = home.command([shim.as_os_str(), "api".as_ref()]);
    let path = format!("{0}/early:{0}/late:/usr/bin:/bin", home.path("").display());
    command.env("PATH", path).env("GH_TOKEN_FILE", home.token_file());
    assert_eq!(succeed(&mut command, ""), format!("{TOKEN}\n"));
}

#[test]
fn a_shim_that_path_does_not_reach_first_is_told() {
    let home = Home::new();
    home.program("early/gh", "#!/bin/sh\n");
    for directory in ["late", "nowhere"] {
        let directory = home.path(directory);
        let report = succeed(&mut setup(&home, &["--dir", directory.to_str().unwrap()]), "");
        let advice = format!("export PATH={}:", directory.display());
        assert!(report.contains(&advice), "{report}");
    }
}

#[test]
fn nobodys_file_is_replaced_but_our_own_is() {
    let home = Home::new();
    let early = home.path("early");
    let words = ["--dir", early.to_str().unwrap()];
    let shim = home.program("early/gh", "#!/bin/sh\nexec /usr/bin/gh \"$@\"\n");
    for make in [
        &(|| {}) as &dyn Fn(),
        &|| {
            fs::remove_file(&shim).unwrap();
            symlink("/nowhere", &shim).unwrap();
        },
        &|| {
            fs::remove_file(&shim).unwrap();
            fs::create_dir(&shim).unwrap();
        },
    ] {
        make();
        let before = fs::symlink_metadata(&shim).unwrap().ino();
        let (code, _, stderr) = tell(&mut setup(&home, &words), "");
        assert_eq!(code, 1);
        assert!(stderr.contains("is there already") && stderr.contains("hint: "), "{stderr}");
        assert_eq!(fs::symlink_metadata(&shim).unwrap().ino(), before);
        let report = succeed(&mut setup(&home, &["--undo", words[0], words[1]]), "");
        assert!(report.contains("no gh shim"), "{report}");
        assert_eq!(fs::symlink_metadata(&shim).unwrap().ino(), before);
    }
    fs::remove_dir(&shim).unwrap();

    let current = fs::read_to_string(script("gh")).unwrap();
    let older = current.lines().take(2).collect::<Vec<_>>().join("\n") + "\nexit 1\n";
    home.program("early/gh", &older);
    let report = succeed(&mut setup(&home, &words), "");
    assert!(report.starts_with("Replaced an older"), "{report}");
    assert_eq!(fs::read_to_string(&shim).unwrap(), current);
    let report = succeed(&mut setup(&home, &words), "");
    assert!(report.contains("already"), "{report}");
    assert_eq!(fs::read_dir(&early).unwrap().count(), 1);

    succeed(&mut setup(&home, &["--undo", words[0], words[1]]), "");
    assert!(!shim.exists());
}

#[test]
fn the_other_way_is_lines_that_a_shell_can_run() {
    let home = Home::new();
    let mut command = setup(&home, &["--config-dir"]);
    command.env("MOLECULE_TOKENFS_MOUNTPOINT", home.mount());
    let lines = succeed(&mut command, "");
    let script = format!(
        "GH_TOKEN=x GITHUB_TOKEN=y\n{lines}\necho \"$GH_CONFIG_DIR|${{GH_TOKEN-}}|${{GITHUB_TOKEN-}}\"\n"
    );
    let said = succeed(&mut home.command(["sh"]), &script);
    assert_eq!(said, format!("{}/gh||\n", home.mount().display()));
}

#[test]
fn undo_puts_a_gh_back_that_had_moved_aside() {
    let home = Home::new();
    let shim = home.program("early/gh", &fs::read_to_string(script("gh")).unwrap());
    let aside = home.program("early/gh.before-molecule-tokenfs", "theirs");
    let undo = ["--undo", "--dir", home.path("early").to_str().unwrap()].map(str::to_owned);
    let report = succeed(&mut setup(&home, &undo.each_ref().map(String::as_str)), "");
    assert_eq!(report, format!("Put {} back, which had moved aside.\n", shim.display()));
    assert_eq!(fs::read(&shim).unwrap(), b"theirs");
    assert!(!aside.exists());
}
