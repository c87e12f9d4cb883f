//! `scripts/gh` between scripts that record what they were run with, and before the real gh.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{Home, SHELLS, TOKEN, run, script, succeed, tell};

mod hosts;
mod repository;

/// A gh that says who it is and what it got.
const RECORDER: &str = r#"#!/bin/sh
echo "ran=$0"
for word; do echo "word=$word"; done
for name in GH_TOKEN GITHUB_TOKEN GH_ENTERPRISE_TOKEN GITHUB_ENTERPRISE_TOKEN GH_HOST GH_CONFIG_DIR; do
    eval "[ -z \"\${$name+set}\" ] || echo \"$name=\$$name\""
done
"#;

/// A home with the shim and a recorder after it.
fn home() -> Home {
    let home = Home::new();
    home.program("shim/gh", &fs::read_to_string(script("gh")).unwrap());
    home.program("real/gh", RECORDER);
    home
}

/// The shim under a shell, reading the mount's token.
fn gh(home: &Home, shell: &[&str], arguments: &[&str]) -> Command {
    let shim = home.path("shim/gh").into_os_string().into_string().unwrap();
    let mut command = home.command([shell, &[shim.as_str()], arguments].concat());
    command.env("GH_TOKEN_FILE", home.token_file());
    command.env("PATH", path(home, &["shim", "real"]));
    command
}

fn path(home: &Home, directories: &[&str]) -> String {
    let own = directories.iter().map(|directory| home.path(directory));
    let path = std::env::join_paths(own.chain(["/usr/bin".into(), "/bin".into()])).unwrap();
    path.into_string().unwrap()
}

fn with(mut command: Command, variables: &[(&str, &str)]) -> Command {
    command.envs(variables.iter().copied());
    command
}

#[test]
fn each_call_gets_the_token_that_is_there_now() {
    for shell in SHELLS {
        let home = home();
        let stale = [("GH_TOKEN", "ghs_stale"), ("GITHUB_TOKEN", "ghs_stale")];
        let said = succeed(&mut with(gh(&home, shell, &["api", "a  b", "", "*"]), &stale), "");
        let ran = home.path("real/gh");
        assert_eq!(
            said,
            format!(
                "ran={}\nword=api\nword=a  b\nword=\nword=*\nGH_TOKEN={TOKEN}\n",
                ran.display()
            )
        );
        home.put_token("ghs_second");
        assert!(succeed(&mut gh(&home, shell, &["api"]), "").contains("GH_TOKEN=ghs_second\n"));
    }
}

#[test]
fn a_token_of_the_users_own_wins() {
    for shell in SHELLS {
        let home = home();
        for own in ["ghp_me", "github_pat_me", "gho_me", "ghu_me"] {
            let said = succeed(&mut with(gh(&home, shell, &["api"]), &[("GH_TOKEN", own)]), "");
            assert!(said.ends_with(&format!("GH_TOKEN={own}\n")), "{said}");
            // gh would take a GH_TOKEN first: the stale one must go.
            let both = [("GH_TOKEN", "ghs_stale"), ("GITHUB_TOKEN", own)];
            let said = succeed(&mut with(gh(&home, shell, &["api"]), &both), "");
            assert!(said.ends_with(&format!("word=api\nGITHUB_TOKEN={own}\n")), "{said}");
        }
    }
}

#[test]
fn keep_keeps_an_inherited_token_and_is_no_excuse_without_one() {
    for shell in SHELLS {
        let home = home();
        let keep = [("MOLECULE_GH_KEEP", "1"), ("GITHUB_TOKEN", "ghs_mine")];
        let mut command = with(gh(&home, shell, &["api"]), &keep);
        command.env("GH_TOKEN_FILE", home.path("nothing"));
        assert!(succeed(&mut command, "").ends_with("word=api\nGITHUB_TOKEN=ghs_mine\n"));
        command.env_remove("GITHUB_TOKEN");
        assert_eq!(tell(&mut command, "").0, 4);
    }
}

#[test]
fn what_needs_no_token_runs_without_one() {
    for shell in SHELLS {
        let home = home();
        // Opening it would wait for ever.
        let fifo = home.path("fifo");
        succeed(&mut home.command(["mkfifo".as_ref(), fifo.as_os_str()]), "");
        for words in [
            &[][..],
            &["--version"],
            &["version"],
            &["help", "api"],
            &["--help"],
            &["completion", "-s", "bash"],
            &["config", "list"],
            &["alias", "list"],
            &["extension", "list"],
        ] {
            let mut command = gh(&home, shell, words);
            let said = succeed(command.env("GH_TOKEN_FILE", &fifo), "");
            assert!(said.starts_with("ran=") && !said.contains("TOKEN="), "{words:?}: {said}");
        }
    }
}

#[test]
fn a_login_is_answered_since_the_mount_is_one() {
    for shell in SHELLS {
        let home = home();
        for words in [
            &["auth", "login"][..],
            &["auth", "login", "--with-token"],
            &["auth", "login", "--hostname", "github.com", "--with-token"],
        ] {
            let (code, stdout, stderr) = tell(&mut gh(&home, shell, words), "ghs_piped\n");
            assert_eq!((code, stdout.as_str()), (0, ""), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
        let elsewhere = ["auth", "login", "--hostname=ghe.example.com"];
        let said = succeed(&mut gh(&home, shell, &elsewhere), "");
        assert!(said.contains("word=login\n") && !said.contains(TOKEN), "{said}");
    }
}

#[test]
fn whoever_pipes_a_token_into_a_login_is_not_killed_for_it() {
    for shell in SHELLS {
        let home = home();
        let large = "x".repeat(1 << 20);
        let mut command = gh(&home, shell, &["auth", "login", "--with-token"]);
        command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        let written = std::io::Write::write_all(&mut child.stdin.take().unwrap(), large.as_bytes());
        assert!(child.wait().unwrap().success());
        written.unwrap();
    }
}

#[test]
fn no_token_is_exit_code_4_and_one_line_that_names_status() {
    for shell in SHELLS {
        let home = home();
        let cases = [
            home.path("nothing"),
            home.path("mount"), // it cannot be read
            home.write("empty", ""),
            home.write("newline", "\n"),
            home.write("words", "Internal Server Error"),
            home.write("lines", "ghs_a\nghs_b\n"),
        ];
        for file in &cases {
            let mut command = gh(&home, shell, &["api", "/user"]);
            let (code, stdout, stderr) =
                tell(command.env("GH_TOKEN_FILE", file).env("GH_TOKEN", "ghs_stale"), "");
            assert_eq!((code, stdout.as_str()), (4, ""), "{}: {stderr}", file.display());
            assert!(stderr.ends_with("molecule-tokenfs status\n"), "{stderr}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            assert!(!stderr.contains("ghs_"), "{stderr}");
        }
    }
}

#[test]
fn without_a_mount_the_binary_is_asked() {
    for shell in SHELLS {
        let home = home();
        home.program("real/molecule-tokenfs", "#!/bin/sh\n[ \"$*\" = get ] && echo ghs_got\n");
        let mut command = gh(&home, shell, &["api"]);
        let said = succeed(command.env("GH_TOKEN_FILE", home.path("nothing")), "");
        assert!(said.ends_with("GH_TOKEN=ghs_got\n"), "{said}");

        home.program("real/molecule-tokenfs", "#!/bin/sh\necho error: no >&2\nexit 3\n");
        let (code, _, stderr) = tell(&mut command, "");
        assert_eq!((code, stderr.lines().count()), (4, 1), "{stderr}");
    }
}

#[test]
fn the_mountpoint_variable_names_a_mount_in_either_layout() {
    for shell in SHELLS {
        let home = home();
        for mountpoint in [home.mount(), home.token_file()] {
            let mut command = gh(&home, shell, &["api"]);
            command.env_remove("GH_TOKEN_FILE").env("MOLECULE_TOKENFS_MOUNTPOINT", mountpoint);
            let said = succeed(&mut command, "");
            assert!(said.ends_with(&format!("GH_TOKEN={TOKEN}\n")), "{said}");
        }
    }
}

#[test]
fn the_real_gh_is_the_next_that_is_no_shim() {
    for shell in SHELLS {
        let home = home();
        for directory in ["copy", "link", "hard", "locked", "folder/gh"] {
            fs::create_dir_all(home.path(directory)).unwrap();
        }
        fs::copy(home.path("shim/gh"), home.path("copy/gh")).unwrap();
        symlink(home.path("shim/gh"), home.path("link/gh")).unwrap();
        fs::hard_link(home.path("shim/gh"), home.path("hard/gh")).unwrap();
        home.write("locked/gh", RECORDER); // not executable
        let all = ["shim", "copy", "link", "hard", "locked", "folder", "absent", "real"];
        let mut command = gh(&home, shell, &["api"]);
        let said = succeed(command.env("PATH", path(&home, &all)), "");
        assert!(said.starts_with(&format!("ran={}\n", home.path("real/gh").display())), "{said}");
    }
}

#[test]
fn a_gh_that_moved_aside_for_a_shim_takes_its_turn() {
    for shell in SHELLS {
        let home = home();
        home.program(
            "shim/gh.before-molecule-tokenfs",
            "#!/bin/sh\nexec \"$HOME/real/gh\" aside \"$@\"\n",
        );
        let said = succeed(&mut gh(&home, shell, &["api"]), "");
        assert!(said.contains("word=aside\nword=api\n"), "{said}");
        // Also behind another shim, as in the command of `run`.
        home.program("first/gh", &fs::read_to_string(script("gh")).unwrap());
        let mut command =
            home.command([shell, &[home.path("first/gh").to_str().unwrap(), "api"]].concat());
        command.env("GH_TOKEN_FILE", home.token_file());
        command.env("PATH", path(&home, &["first", "shim", "real"]));
        let said = succeed(&mut command, "");
        assert!(said.contains("word=aside\nword=api\n"), "{said}");
        assert!(said.contains(&format!("GH_TOKEN={TOKEN}\n")), "{said}");
    }
}

#[test]
fn a_shim_that_lost_its_mark_still_knows_itself() {
    for shell in SHELLS {
        let home = home();
        let unmarked = fs::read_to_string(script("gh")).unwrap().replacen("gh shim", "?", 1);
        home.program("shim/gh", &unmarked);
        fs::create_dir(home.path("hard")).unwrap();
        fs::hard_link(home.path("shim/gh"), home.path("hard/gh")).unwrap();
        let mut command = gh(&home, shell, &["api"]);
        let said = succeed(command.env("PATH", path(&home, &["shim", "hard", "real"])), "");
        assert!(said.starts_with(&format!("ran={}\n", home.path("real/gh").display())), "{said}");
    }
}

#[test]
fn a_read_that_breaks_off_shows_nothing_of_the_token() {
    for shell in SHELLS {
        let home = home();
        // In a function's place, since busybox runs its own cat.
        let broken =
            "cat() { printf ghs_half; echo \"cat: $1: Input/output error\" >&2; return 1; }\n";
        let text = fs::read_to_string(script("gh")).unwrap().replacen(
            "\nsay()",
            &format!("\n{broken}say()"),
            1,
        );
        home.program("shim/gh", &text);
        let (code, _, stderr) = tell(&mut gh(&home, shell, &["api"]), "");
        assert_eq!(code, 4);
        assert!(stderr.contains("Input/output error") && !stderr.contains("half"), "{stderr}");
    }
}

#[test]
fn a_gh_in_the_working_directory_never_gets_the_token() {
    for shell in SHELLS {
        let home = home();
        home.program("gh", "#!/bin/sh\necho stolen\n");
        home.program("sub/gh", "#!/bin/sh\necho stolen\n");
        let rest = path(&home, &["shim", "real"]);
        for path in [format!(":{rest}"), format!(".:sub:{rest}"), rest.replacen(':', "::", 1)] {
            let said = succeed(gh(&home, shell, &["api"]).env("PATH", path), "");
            assert!(said.starts_with("ran="), "{said}");
        }
        let alone = format!("{}::.:sub:", home.path("shim").display());
        assert_eq!(tell(gh(&home, shell, &["--version"]).env("PATH", alone), "").0, 127);
    }
}

#[test]
fn a_named_gh_is_run_unless_it_is_no_program_or_the_shim() {
    for shell in SHELLS {
        let home = home();
        let named = home.program("other/gh", RECORDER);
        let mut command = gh(&home, shell, &["api"]);
        let said = succeed(command.env("MOLECULE_REAL_GH", &named), "");
        assert!(said.starts_with(&format!("ran={}\n", named.display())), "{said}");
        fs::create_dir(home.path("copy")).unwrap();
        fs::copy(home.path("shim/gh"), home.path("copy/gh")).unwrap();
        for bad in ["shim/gh", "copy/gh", "absent", "other"] {
            let (code, _, stderr) = tell(command.env("MOLECULE_REAL_GH", home.path(bad)), "");
            assert_eq!(code, 127, "{bad}: {stderr}");
            assert!(stderr.contains("MOLECULE_REAL_GH"), "{stderr}");
        }
    }
}

#[test]
fn a_wrapper_that_is_there_already_is_run_and_cannot_make_a_loop() {
    for shell in SHELLS {
        let home = home();
        let real = home.path("real/gh");
        home.program("wrap/gh", &format!("#!/bin/sh\nexec {} wrapped \"$@\"\n", real.display()));
        let mut command = gh(&home, shell, &["api"]);
        command.env("PATH", path(&home, &["shim", "wrap", "real"]));
        let said = succeed(&mut command, "");
        assert!(said.contains("word=wrapped\nword=api\n"), "{said}");
        assert!(said.contains(TOKEN), "{said}");

        home.program("wrap/gh", "#!/bin/sh\nexec gh \"$@\"\n");
        let (code, _, stderr) = tell(&mut command, "");
        assert_eq!(code, 127, "{stderr}");
        assert!(stderr.contains("MOLECULE_REAL_GH"), "{stderr}");
    }
}

#[test]
fn busybox_alone_is_enough() {
    let home = home();
    fs::create_dir(home.path("applets")).unwrap();
    symlink("/bin/busybox", home.path("applets/cat")).unwrap();
    let busybox = Path::new("/bin/busybox").to_str().unwrap();
    let mut command = gh(&home, &[busybox, "sh"], &["api"]);
    let only = [home.path("shim"), home.path("real"), home.path("applets")];
    let said = succeed(command.env("PATH", std::env::join_paths(only).unwrap()), "");
    assert!(said.ends_with(&format!("GH_TOKEN={TOKEN}\n")), "{said}");
}

#[test]
fn no_process_has_the_token_among_its_arguments() {
    let home = home();
    home.program("real/gh", "#!/bin/sh\ncat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '\n");
    let arguments = run(&mut gh(&home, &["dash"], &["api", "a-marker"]), "").stdout;
    let arguments = String::from_utf8_lossy(&arguments);
    assert!(arguments.contains("a-marker") && !arguments.contains(TOKEN));
}

#[test]
fn the_real_gh_takes_the_token_from_the_shim() {
    assert!(Path::new("/usr/bin/gh").exists(), "there is no gh: apt-get install gh");
    for shell in SHELLS {
        let home = home();
        let mut command = gh(&home, shell, &["--version"]);
        command.env("PATH", path(&home, &["shim"]));
        assert!(succeed(&mut command, "").starts_with("gh version "));
        // `auth token` prints what gh would send; no network is needed.
        let mut command = gh(&home, shell, &["auth", "token"]);
        command.env("PATH", path(&home, &["shim"])).env("GITHUB_TOKEN", "ghs_stale");
        assert_eq!(succeed(&mut command, "").trim(), TOKEN);
    }
}

#[test]
fn of_files_that_outlived_their_daemon_no_token_is_taken() {
    for shell in SHELLS {
        let home = home();
        let gh = |file: &Path| {
            let mut command = gh(&home, shell, &["api"]);
            tell(command.env("GH_TOKEN_FILE", file), "")
        };
        let link = home.path("link");
        symlink(home.token_file(), &link).unwrap();
        for file in [home.token_file(), link] {
            home.keep_files("2100-01-01T00:00:00Z", 4_102_444_800);
            assert_eq!(gh(&file).0, 0, "{shell:?}");
            home.keep_files("2001-01-01T00:00:00Z", 978_307_200);
            let (code, stdout, stderr) = gh(&file);
            assert_eq!((code, stdout.as_str()), (4, ""), "{shell:?}");
            assert!(stderr.contains("has expired") && stderr.contains("status"), "{stderr}");
        }
    }
}
