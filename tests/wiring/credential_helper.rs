//! The three helpers, as git runs them and by hand: the one-liner, the shell's and the binary's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use molecule_tokenfs::secret::Fingerprint;

use crate::support::{BINARY, Home, SHELLS, TOKEN, gits, script, succeed, tell};

const REQUEST: &str = "protocol=https\nhost=github.com\n";

/// The helpers that follow the whole protocol, without their action: the script under each shell and
/// the binary.
fn helpers(home: &Home) -> Vec<Vec<String>> {
    let script = script("git-credential-molecule").into_os_string().into_string().unwrap();
    let mount = home.mount().into_os_string().into_string().unwrap();
    let mut helpers: Vec<Vec<String>> = SHELLS
        .iter()
        .map(|shell| shell.iter().map(ToString::to_string).chain([script.clone()]).collect())
        .collect();
    helpers.push(vec![BINARY.to_owned(), "git-credential".to_owned()]);
    for helper in &mut helpers {
        helper.extend(["--mountpoint".to_owned(), mount.clone()]);
    }
    helpers
}

fn ask(home: &Home, helper: &[String], words: &[&str]) -> Command {
    home.command(helper.iter().map(String::as_str).chain(words.iter().copied()))
}

fn fingerprint(token: &str) -> String {
    Fingerprint::of(token.as_bytes()).to_string()
}

fn view() -> String {
    format!("username=x-access-token\npassword={TOKEN}\npassword_expiry_utc=4102444800\n")
}

#[test]
fn the_first_get_offers_to_go_on_and_the_second_reports_the_refused_token() {
    let home = Home::new();
    for helper in helpers(&home) {
        let first = succeed(&mut ask(&home, &helper, &["get"]), REQUEST);
        let state = format!("state[]=mol.{}\n", fingerprint(TOKEN));
        assert_eq!(first, format!("capability[]=state\n{state}continue=1\n{}", view()));
        assert_eq!(home.refreshed(), "");

        let again = format!("capability[]=state\n{REQUEST}{state}\n");
        assert_eq!(succeed(&mut ask(&home, &helper, &["get"]), &again), view());
        assert_eq!(home.refreshed(), format!("{}\n", fingerprint(TOKEN)));

        // Another helper's state, or one that is no fingerprint, is not ours to act upon.
        for foreign in ["state[]=other.0badf00d", "state[]=mol.../x", "state[]=mol.0badf00d00"] {
            let input = format!("{REQUEST}{foreign}\n");
            assert_eq!(succeed(&mut ask(&home, &helper, &["get"]), &input), first, "{helper:?}");
            assert_eq!(home.refreshed(), "");
        }
    }
}

#[test]
fn erase_reports_the_password_and_store_does_nothing() {
    let home = Home::new();
    for helper in helpers(&home) {
        let input = format!("{REQUEST}username=x-access-token\npassword=ghs_dead=\n");
        for ignored in ["store", "an-action-of-the-future"] {
            assert_eq!(succeed(&mut ask(&home, &helper, &[ignored]), &input), "");
        }
        assert_eq!(succeed(&mut ask(&home, &helper, &["erase"]), REQUEST), "");
        assert_eq!(home.refreshed(), "", "{helper:?}");
        assert_eq!(succeed(&mut ask(&home, &helper, &["erase"]), &input), "");
        assert_eq!(home.refreshed(), format!("{}\n", fingerprint("ghs_dead=")));
    }
}

#[test]
fn only_the_named_hosts_over_https_are_answered() {
    let home = Home::new();
    let hosts = ["--host", "github.com", "--host", "127.0.0.1:8080", "--host", "127.evil.example"];
    for helper in helpers(&home) {
        for (request, answered) in [
            ("protocol=https\nhost=github.com\npath=owner/repo.git\n", true),
            ("protocol=https\nhost=127.0.0.1:8080\n", true),
            ("protocol=http\nhost=127.0.0.1:8080\n", true),
            ("protocol=http\nhost=127.evil.example\n", false),
            ("protocol=http\nhost=github.com\n", false),
            ("protocol=https\nhost=127.0.0.1\n", false),
            ("protocol=https\nhost=github.com:443\n", false),
            ("protocol=https\nhost=github.com.evil.example\n", false),
            ("protocol=https\nhost=*\n", false),
            ("protocol=https\nhost=github.com 127.0.0.1:8080\n", false),
            ("protocol=https\nhost=evil.example\npath=github.com\n", false),
            ("protocol=https\n", false),
            ("", false),
        ] {
            for action in ["get", "erase"] {
                let input = format!("{request}password=ghs_dead\n");
                let words = [&hosts[..], &[action]].concat();
                let said = succeed(&mut ask(&home, &helper, &words), &input);
                if action == "get" {
                    assert_eq!(said.contains(TOKEN), answered, "{helper:?}: {request}");
                }
                assert_eq!(said.is_empty(), action == "erase" || !answered, "{said}");
                let told = !home.refreshed().is_empty();
                assert_eq!(told, action == "erase" && answered, "{helper:?}: {request}");
            }
        }
    }
}

#[test]
fn without_a_token_git_is_told_to_quit_and_the_person_why() {
    let home = Home::new();
    fs::remove_file(home.mount().join("git-credential")).unwrap();
    for contents in [None, Some(""), Some("username=x-access-token\npassword=\n")] {
        if let Some(contents) = contents {
            home.write("mount/git-credential", contents);
        }
        for helper in helpers(&home) {
            let (code, stdout, stderr) = tell(&mut ask(&home, &helper, &["get"]), REQUEST);
            assert_eq!((code, stdout.as_str()), (1, "quit=1\n"), "{helper:?}");
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
            assert!(stderr.ends_with("molecule-tokenfs status\n"), "{stderr}");
        }
    }
}

#[test]
fn a_mount_in_file_layout_is_answered_from_too() {
    let home = Home::new();
    let file = home.token_file();
    for helper in helpers(&home) {
        let mountpoint = ["--mountpoint", file.to_str().unwrap()];
        // The last one counts in the shell; clap takes one: replace it.
        let helper: Vec<String> = helper[..helper.len() - 2].to_vec();
        let words = [&mountpoint[..], &["get"]].concat();
        let mut ask = ask(&home, &helper, &words);
        if helper[0] == BINARY {
            // It knows a mount from a plain file; tests/e2e mounts one.
            let (code, said, why) = tell(&mut ask, REQUEST);
            assert_eq!((code, said.as_str()), (1, "quit=1\n"), "{why}");
            assert!(why.contains("nothing is mounted there"), "{why}");
            continue;
        }
        let said = succeed(&mut ask, REQUEST);
        assert!(
            said.ends_with(&format!("username=x-access-token\npassword={TOKEN}\n")),
            "{helper:?}: {said}"
        );
    }
}

#[test]
fn the_shell_helper_needs_nothing_but_busybox() {
    let home = Home::new();
    fs::create_dir(home.path("applets")).unwrap();
    for applet in ["cat", "ls", "sha256sum"] {
        symlink("/bin/busybox", home.path("applets").join(applet)).unwrap();
    }
    let script = script("git-credential-molecule");
    let words = ["/bin/busybox", "sh", script.to_str().unwrap(), "get"];
    let mut command = home.command(words);
    command.env("PATH", home.path("applets")).env("MOLECULE_TOKENFS_MOUNTPOINT", home.mount());
    let said = succeed(&mut command, REQUEST);
    assert!(said.contains(&fingerprint(TOKEN)) && said.ends_with(&view()), "{said}");
}

/// The three forms that the README shows, as values of `credential.https://github.com.helper`.
fn forms(home: &Home) -> [String; 3] {
    let mount = home.mount();
    let mount = mount.display();
    let script = script("git-credential-molecule");
    [
        format!("!cat {mount}/git-credential #"),
        format!("{} --mountpoint {mount}", script.display()),
        format!("{BINARY} git-credential --mountpoint {mount}"),
    ]
}

fn git(home: &Home, git: &Path, words: &[&str]) -> Command {
    let mut command = home.command([git.to_str().unwrap()].iter().chain(words));
    command.env("GIT_TERMINAL_PROMPT", "0");
    command
}

#[test]
fn git_itself_gets_the_token_through_each_form() {
    for program in gits() {
        let home = Home::new();
        for form in forms(&home) {
            let git = |words: &[&str]| git(&home, &program, words);
            let key = "credential.https://github.com.helper";
            succeed(&mut git(&["config", "--global", "--replace-all", key, &form]), "");

            let filled = succeed(&mut git(&["credential", "fill"]), REQUEST);
            for line in ["username=x-access-token".to_owned(), format!("password={TOKEN}")] {
                assert!(filled.lines().any(|filled| filled == line), "{form}: {filled}");
            }
            assert!(!filled.contains("continue"), "{filled}");
            let (code, _, stderr) = tell(&mut git(&["credential", "approve"]), &filled);
            assert_eq!((code, stderr.as_str()), (0, ""), "{form}");
            let (code, _, stderr) = tell(&mut git(&["credential", "reject"]), &filled);
            assert_eq!((code, stderr.as_str()), (0, ""), "{form}");
            let mut told = String::new();
            if !form.contains("!cat") {
                told = format!("{}\n", fingerprint(TOKEN));
            }
            assert_eq!(home.refreshed(), told, "{form}");

            for other in ["protocol=https\nhost=evil.example\n", "protocol=http\nhost=github.com\n"]
            {
                let (code, stdout, _) = tell(&mut git(&["credential", "fill"]), other);
                assert_eq!(code, 128, "{form}: {stdout}");
                assert!(!stdout.contains(TOKEN), "{form}");
            }
        }
    }
}

#[test]
fn git_stops_cleanly_where_there_is_no_token() {
    for program in gits() {
        let home = Home::new();
        fs::remove_file(home.mount().join("git-credential")).unwrap();
        let [_, shell, binary] = forms(&home);
        for form in [shell, binary] {
            let key = "credential.https://github.com.helper";
            let git = |words: &[&str], input| tell(&mut git(&home, &program, words), input);
            git(&["config", "--global", "--replace-all", key, &form], "");
            let (code, stdout, stderr) = git(&["credential", "fill"], REQUEST);
            assert_eq!((code, stdout.as_str()), (128, ""), "{form}");
            assert!(stderr.contains("molecule-tokenfs status"), "{stderr}");
            assert!(stderr.contains("told us to quit"), "it never prompts: {stderr}");
        }
    }
}

#[test]
fn of_files_that_outlived_their_daemon_none_is_answered() {
    let home = Home::new();
    let get = |helper: &[String]| tell(&mut ask(&home, helper, &["get"]), REQUEST);
    home.keep_files("2100-01-01T00:00:00Z", 4_102_444_800);
    for helper in helpers(&home) {
        let (code, answer, errors) = get(&helper);
        assert_eq!(code, 0, "{helper:?}: {errors}");
        assert!(answer.contains(TOKEN), "{helper:?}");
    }
    home.keep_files("2001-01-01T00:00:00Z", 978_307_200);
    for helper in helpers(&home) {
        let (code, answer, errors) = get(&helper);
        assert_eq!((code, answer.as_str()), (1, "quit=1\n"), "{helper:?}: {errors}");
        assert!(errors.contains("no token: ") && errors.contains("status"), "{errors}");
    }
}

#[test]
fn the_token_is_that_of_the_repository_else_that_of_its_owner_else_that_of_the_mount() {
    let home = Home::new();
    for (place, about) in [
        ("repos/acme/web", r#""state": "fresh""#),
        (
            "globex",
            r#""owners": ["globex", "globex-labs"], "hosts": ["github.com"], "state": "idle""#,
        ),
        ("other", r#""owners": ["initech"], "hosts": ["ghe.example.com"], "state": "idle""#),
    ] {
        let view = format!("username=x-access-token\npassword=ghs_{}\n", place.replace('/', "_"));
        home.write(&format!("mount/{place}/git-credential"), &view);
        home.write(&format!("mount/{place}/refresh"), "");
        home.write(
            &format!("mount/{place}/status.json"),
            &format!(r#"{{"tokens": [{{{about}}}]}}"#),
        );
    }
    for helper in helpers(&home) {
        for (path, token) in [
            ("acme/web.git", "ghs_repos_acme_web"),
            ("Acme/Web", "ghs_repos_acme_web"),
            ("acme/web.git/info/lfs", "ghs_repos_acme_web"),
            ("acme/other.git", TOKEN),
            ("globex/docs.git", "ghs_globex"),
            ("Globex-Labs/x", "ghs_globex"),
            ("initech/x", TOKEN),
            ("globex", TOKEN),
            ("../globex/x", "ghs_globex"),
            ("globex/..", TOKEN),
        ] {
            let request = format!("{REQUEST}path={path}\n");
            let said = succeed(&mut ask(&home, &helper, &["get"]), &request);
            assert!(said.contains(&format!("\npassword={token}\n")), "{helper:?} {path}: {said}");
        }
        // What is refused is told to the token that it was.
        let request = format!("{REQUEST}path=globex/docs\npassword=ghs_globex\n");
        succeed(&mut ask(&home, &helper, &["erase"]), &request);
        let told = fs::read_to_string(home.path("mount/globex/refresh")).unwrap();
        assert_eq!(told, format!("{}\n", fingerprint("ghs_globex")), "{helper:?}");
        home.write("mount/globex/refresh", "");
        assert_eq!(home.refreshed(), "");
    }
}
