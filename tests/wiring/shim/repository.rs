//! Which of a mount's tokens the shim gives gh: that of the repository which gh is about.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::{gh, home, path, with};
use crate::support::{Home, SHELLS, TOKEN, succeed, tell};

/// What a named token says of itself.
fn named(home: &Home, name: &str, owners: &[&str], hosts: &[&str]) {
    let list = |words: &[&str]| serde_json::to_string_pretty(words).unwrap();
    let (owners, hosts) = (list(owners), list(hosts));
    let document = format!(
        "{{\n  \"tokens\": [\n    {{\n \"name\": \"{name}\",\n \"owners\": {owners},\n \"hosts\": {hosts},\n \
         \"state\": \"fresh\",\n \"summary\": \"\\\"owners\\\": [\\\"acme\\\"]\"\n    }}\n  ]\n}}\n"
    );
    home.write(&format!("mount/{name}/status.json"), &document);
    home.write(&format!("mount/{name}/token"), &format!("ghs_{name}"));
}

/// A home whose mount makes tokens on demand for acme/web and all of acme, and has a token for globex.
fn many() -> Home {
    let home = home();
    home.write("mount/repos/acme/web/token", "ghs_web");
    home.write("mount/orgs/acme/token", "ghs_acme");
    named(&home, "globex", &["globex", "globex-labs"], &["github.com"]);
    home
}

/// The token that gh gets.
fn token_of(command: &mut Command) -> String {
    let said = succeed(command, "");
    let token = said.lines().find_map(|line| line.strip_prefix("GH_TOKEN="));
    token.unwrap_or_else(|| panic!("{command:?}: {said}")).to_owned()
}

#[test]
fn it_is_that_of_the_repository_or_owner_in_the_command_line() {
    const WEB: &str = "ghs_web";
    const GLOBEX: &str = "ghs_globex";
    const ACME: &str = "ghs_acme";
    let query =
        |owner: &str| format!("query={{ repository(owner: \"{owner}\", name:\"web\") {{ id }} }}");
    let (literal, variable) =
        (query("acme"), "query=query($owner: String!){ repository(owner: $owner) }");
    let cases: &[(&[&str], &str)] = &[
        (&["pr", "list", "-R", "acme/web"], WEB),
        (&["pr", "list", "-RAcme/Web"], WEB),
        (&["pr", "list", "-wR", "acme/web"], WEB),
        (&["pr", "-R", "acme/web", "list"], WEB),
        (&["pr", "list", "--repo=github.com/acme/web"], WEB),
        (&["pr", "list", "--repo", "https://github.com/acme/web.git"], WEB),
        (&["pr", "list", "-R", "git@github.com:acme/web.git"], WEB),
        (&["release", "create", "-d", "-R", "acme/web", "v1"], WEB),
        (&["run", "list", "--repo", "globex/docs"], GLOBEX),
        (&["run", "list", "-R", "Globex-Labs/docs"], GLOBEX),
        // A page of one wins over -R, as in gh.
        (&["pr", "view", "-c", "https://github.com/acme/web/pull/3", "-R", "globex/docs"], WEB),
        (&["issue", "view", "https://github.com/acme/web/issues/3#x"], WEB),
        (&["co", "https://github.com/acme/web/pull/3"], WEB),
        // What a text says is not meant.
        (&["pr", "close", "-c", "https://github.com/acme/web/pull/3", "7"], TOKEN),
        (&["pr", "comment", "7", "--body", "-Racme/web", "-R", "globex/docs"], GLOBEX),
        (
            &[
                "pr",
                "create",
                "--title",
                "see acme/web",
                "--body",
                "https://github.com/acme/web/pull/1",
            ],
            TOKEN,
        ),
        (&["repo", "clone", "acme/web"], WEB),
        (&["repo", "clone", "https://github.com/acme/web", "there", "--", "-b", "globex/x"], WEB),
        (&["repo", "view", "-b", "globex/feature", "acme/web"], WEB),
        (&["repo", "fork", "acme/web", "--org", "globex"], WEB),
        (&["repo", "create", "acme/new", "--private"], ACME),
        (&["repo", "list", "acme", "-L", "5"], ACME),
        (&["repo", "list"], TOKEN),
        (&["api", "repos/acme/web/pulls?state=open"], WEB),
        (&["api", "-X", "POST", "/repos/acme/web/issues", "-f", "title=repos/globex/x"], WEB),
        (&["api", "https://api.github.com/repos/acme/web"], WEB),
        (&["api", "orgs/acme/members", "--paginate"], ACME),
        (&["api", "/orgs/globex"], GLOBEX),
        (&["api", "user"], TOKEN),
        (&["api", "graphql", "-f", &literal], WEB),
        (&["api", "graphql", "-F", "owner=globex", "-F", "name=x", "-f", variable], GLOBEX),
        (&["secret", "list", "--org", "acme"], ACME),
        (&["variable", "set", "X", "-oglobex", "--body", "y"], GLOBEX),
        (&["search", "prs", "--owner", "globex", "fix"], GLOBEX),
        // Of neither owner: no other token can do better.
        (&["pr", "list", "-R", "initech/x"], TOKEN),
        // No repositories at all.
        (&["pr", "list", "-R", "acme/.."], TOKEN),
        (&["pr", "list", "-R", "../acme/web"], TOKEN),
        (&["pr", "list", "-R", "acme"], TOKEN),
        (&["pr", "list", "-R"], TOKEN),
    ];
    for shell in SHELLS {
        let home = many();
        for (words, token) in cases {
            assert_eq!(token_of(&mut gh(&home, shell, words)), *token, "{shell:?} {words:?}");
        }
        let variable = [("GH_REPO", "acme/web")];
        for words in [&["pr", "list"][..], &["api", "repos/{owner}/{repo}"], &["auth", "token"]] {
            let token = token_of(&mut with(gh(&home, shell, words), &variable));
            assert_eq!(token, WEB, "{words:?}");
        }
        let words = ["pr", "list", "-R", "globex/docs"];
        assert_eq!(token_of(&mut with(gh(&home, shell, &words), &variable)), GLOBEX);
    }
}

/// A clone in this home with these remotes and lines of configuration.
fn clone(home: &Home, name: &str, remotes: &[(&str, &str)], settings: &[(&str, &str)]) {
    let place = home.path(name).into_os_string().into_string().unwrap();
    succeed(&mut home.command(["git", "init", "-q", &place]), "");
    for (remote, address) in remotes {
        succeed(&mut home.command(["git", "-C", &place, "remote", "add", remote, address]), "");
    }
    for (key, value) in settings {
        succeed(&mut home.command(["git", "-C", &place, "config", key, value]), "");
    }
}

#[test]
fn in_a_clone_it_is_that_of_the_remote_that_gh_itself_takes() {
    const WEB: &str = "https://github.com/acme/web.git";
    const DOCS: &str = "git@github.com:globex/docs.git";
    const BASE: (&str, &str) = ("remote.b.gh-resolved", "base");
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        (&[("origin", WEB)], &[], "acme/web", "ghs_web"),
        (&[("mine", DOCS)], &[], "globex/docs", "ghs_globex"),
        (&[("origin", WEB), ("upstream", DOCS)], &[], "globex/docs", "ghs_globex"),
        (&[("origin", WEB), ("github", DOCS)], &[], "globex/docs", "ghs_globex"),
        (&[("github", WEB), ("upstream", DOCS)], &[], "globex/docs", "ghs_globex"),
        (&[("a", DOCS), ("origin", WEB)], &[], "acme/web", "ghs_web"),
        (&[("a", WEB), ("b", DOCS)], &[], "acme/web", "ghs_web"),
        (&[("upstream", WEB), ("b", DOCS)], &[BASE], "globex/docs", "ghs_globex"),
        (
            &[("origin", WEB), ("b", WEB)],
            &[("remote.b.gh-resolved", "globex/docs")],
            "globex/docs",
            "ghs_globex",
        ),
        (
            &[("upstream", "https://git.example.com/acme/web"), ("origin", DOCS)],
            &[],
            "globex/docs",
            "ghs_globex",
        ),
        (
            &[("origin", "hub:web.git")],
            &[("url.https://github.com/acme/.insteadOf", "hub:")],
            "acme/web",
            "ghs_web",
        ),
    ];
    for shell in SHELLS {
        let home = many();
        for (number, (remotes, settings, repository, token)) in cases.iter().enumerate() {
            let name = format!("clone-{number}");
            clone(&home, &name, remotes, settings);
            let within = |words: &[&str]| {
                let mut command = gh(&home, shell, words);
                command.current_dir(home.path(&name));
                command
            };
            assert_eq!(token_of(&mut within(&["pr", "list"])), *token, "{remotes:?}");
            let placeholder = ["api", "repos/{owner}/{repo}/pulls"];
            assert_eq!(token_of(&mut within(&placeholder)), *token, "{remotes:?}");
            // What gh takes, by its own words. No network is needed.
            let mut real = within(&["browse", "--no-browser"]);
            real.env("PATH", path(&home, &["shim"]));
            let said = succeed(&mut real, "");
            assert_eq!(said.trim(), format!("https://github.com/{repository}"), "{remotes:?}");
            // These are no business of the clone.
            assert_eq!(token_of(&mut within(&["api", "user"])), TOKEN);
            assert_eq!(token_of(&mut within(&["search", "repos", "x"])), TOKEN);
            assert_eq!(token_of(&mut within(&["repo", "clone", "initech/x"])), TOKEN);
        }
    }
}

#[test]
fn a_mount_with_one_token_does_not_make_the_shim_ask_git() {
    let home = home();
    home.program("real/git", "#!/bin/sh\ntouch \"$HOME/asked\"\n");
    assert_eq!(token_of(&mut gh(&home, &["dash"], &["pr", "list"])), TOKEN);
    assert!(!home.path("asked").exists());
}

#[test]
fn a_repository_at_a_host_that_a_token_is_not_for_never_gets_that_token() {
    for shell in SHELLS {
        let home = many();
        let at = |host: &str| {
            ["pr".to_owned(), "list".to_owned(), "-R".to_owned(), format!("{host}/globex/docs")]
        };
        let get = |host: &str, variables: &[(&str, &str)]| {
            let words = at(host);
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            succeed(&mut with(gh(&home, shell, &words), variables), "")
        };
        let said = get("ghe.example.com", &[]);
        assert!(!said.contains("ghs_globex"), "{said}");
        let said = get("ghe.example.com", &[("GH_HOST", "ghe.example.com")]);
        assert!(!said.contains("TOKEN="), "{said}");
        // One for that host is bound to it, whatever the variable says of the mount's own token.
        named(&home, "ghe", &["globex"], &["ghe.example.com"]);
        home.write("mount/ghe/gh/hosts.yml", "ghe.example.com:\n    oauth_token: ghs_ghe\n");
        for variables in [&[][..], &[("MOLECULE_TOKENFS_HOST", "github.com")]] {
            let said = get("ghe.example.com", variables);
            let directory = home.mount().join("ghe/gh");
            let end = format!("GH_HOST=ghe.example.com\nGH_CONFIG_DIR={}\n", directory.display());
            assert!(said.ends_with(&end) && !said.contains("TOKEN="), "{said}");
            let said = get("github.com", variables);
            assert!(said.ends_with("GH_TOKEN=ghs_globex\n"), "{said}");
        }
        // One that turns out to be for another host is not taken either.
        home.write("mount/repos/acme/web/gh/hosts.yml", "ghe.example.com:\n    oauth_token: x\n");
        let words = ["pr", "list", "-R", "github.com/acme/web"];
        assert_eq!(token_of(&mut gh(&home, shell, &words)), TOKEN);
    }
}

#[test]
fn a_repository_without_a_token_is_named_with_what_to_do() {
    for shell in SHELLS {
        let home = many();
        let broken = |file: &Path| {
            fs::remove_file(file).unwrap();
            // Readable to nobody, not even to root.
            symlink("/proc/self/mem", file).unwrap();
        };
        broken(&home.path("mount/repos/acme/web/token"));
        broken(&home.path("mount/globex/token"));
        for (repository, whose, remedy) in [
            ("acme/web", "acme/web", "molecule-tokenfs status --repo acme/web\n"),
            ("globex/docs", "globex", "molecule-tokenfs status --token globex\n"),
        ] {
            let mut command = gh(&home, shell, &["pr", "list", "-R", repository]);
            let (code, stdout, stderr) = tell(&mut command, "");
            assert_eq!((code, stdout.as_str(), stderr.lines().count()), (4, "", 1), "{stderr}");
            let start = format!("gh: no token for {whose}: ");
            assert!(stderr.starts_with(&start) && stderr.ends_with(remedy), "{stderr}");
        }
    }
}

#[test]
fn a_token_file_that_is_not_at_the_root_of_a_mount_is_taken_as_it_is() {
    for shell in SHELLS {
        let home = many();
        for (file, text) in [("mount/live/token", "ghs_live"), ("mount/header", "ghs_other")] {
            let file = home.write(file, text);
            let mut command = gh(&home, shell, &["pr", "list", "-R", "acme/web"]);
            assert_eq!(token_of(command.env("GH_TOKEN_FILE", file)), text);
        }
    }
}

#[test]
fn busybox_alone_is_enough_to_choose() {
    let home = many();
    fs::create_dir(home.path("applets")).unwrap();
    for applet in ["cat", "tr"] {
        symlink("/bin/busybox", home.path("applets").join(applet)).unwrap();
    }
    for (repository, token) in [("ACME/web", "ghs_web"), ("GlobeX/docs", "ghs_globex")] {
        let mut command = gh(&home, &["/bin/busybox", "sh"], &["pr", "list", "-R", repository]);
        let only = [home.path("shim"), home.path("real"), home.path("applets")];
        assert_eq!(token_of(command.env("PATH", std::env::join_paths(only).unwrap())), token);
    }
}
