//! Which hosts the shim lets gh send the token to, and how.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::PathBuf;

use super::{gh, home, with};
use crate::support::{Home, SHELLS, TOKEN, succeed, tell};

/// Puts the mount's own configuration of gh there, for these hosts.
fn hosts(home: &Home, hosts: &[&str]) {
    let login = |host: &&str| {
        format!(
            "{host}:\n    oauth_token: {TOKEN}\n    users:\n        x:\n            oauth_token: {TOKEN}\n"
        )
    };
    home.write("mount/gh/hosts.yml", &hosts.iter().map(login).collect::<String>());
    home.write("mount/gh/config.yml", "version: \"1\"\n");
}

#[test]
fn for_other_hosts_than_github_gh_gets_the_logins_of_the_mount_and_no_variable() {
    for shell in SHELLS {
        let stale = [
            ("GH_TOKEN", "ghs_stale"),
            ("GITHUB_TOKEN", "ghs_stale"),
            ("GH_ENTERPRISE_TOKEN", "ghs_stale"),
            ("GITHUB_ENTERPRISE_TOKEN", "ghs_stale"),
        ];
        let bound = |home: &Home, host: &str| {
            let directory = home.mount().join("gh");
            format!("word=api\n{host}GH_CONFIG_DIR={}\n", directory.display())
        };
        for (served, host) in [
            (&["ghe.example.com", "github.com"][..], "GH_HOST=ghe.example.com\n"),
            (&["github.com", "ghe.example.com"], ""),
            (&["octo.ghe.com"], "GH_HOST=octo.ghe.com\n"),
            (&["\"127.0.0.1:8080\""], "GH_HOST=127.0.0.1:8080\n"),
            (&["\"[::1]:8080\""], "GH_HOST=[::1]:8080\n"),
        ] {
            let home = home();
            hosts(&home, served);
            let said = succeed(&mut with(gh(&home, shell, &["api"]), &stale), "");
            assert!(said.ends_with(&bound(&home, host)), "{said}");
            // Named by the settings, too.
            let named = served.join(",").replace('"', "");
            let named = [("MOLECULE_TOKENFS_HOST", named.as_str())];
            let said = succeed(&mut with(with(gh(&home, shell, &["api"]), &stale), &named), "");
            assert!(said.ends_with(&bound(&home, host)), "{said}");
        }

        let home = home();
        hosts(&home, &["ghe.example.com", "github.com"]);
        let mut command = with(gh(&home, shell, &["api"]), &[("GH_HOST", "github.com")]);
        let said = succeed(&mut command, "");
        assert!(said.ends_with(&bound(&home, "GH_HOST=github.com\n")), "{said}");
        let mut command = gh(&home, shell, &["api"]);
        let own = succeed(command.env("GITHUB_ENTERPRISE_TOKEN", "ghp_me"), "");
        assert!(own.contains("GITHUB_ENTERPRISE_TOKEN=ghp_me") && !own.contains("CONFIG"), "{own}");
        // The mock of demos is no way out.
        let said = succeed(gh(&home, shell, &["api"]).env("GH_HOST", "github.localhost"), "");
        assert!(said.ends_with("word=api\nGH_HOST=github.localhost\n"), "{said}");
    }
}

/// A directory that belongs to somebody else.
fn somebody_elses(home: &Home) -> PathBuf {
    let theirs = home.path("theirs");
    fs::create_dir_all(&theirs).unwrap();
    match chown(&theirs, Some(1000), Some(1000)) {
        Ok(()) => theirs,
        Err(_) => "/".into(), // Root's, and we are not root.
    }
}

#[test]
fn the_users_own_settings_stand_beside_the_logins_of_the_mount() {
    for shell in SHELLS {
        let home = home();
        hosts(&home, &["ghe.example.com"]);
        let own = home.path(".cache/molecule-tokenfs/gh");
        let ends = format!("GH_CONFIG_DIR={}\n", own.display());
        for (directory, text, copied) in [
            (
                "",
                "aliases:\n    co: pr checkout",
                "aliases:\n    co: pr checkout\nversion: \"1\"\n",
            ),
            ("elsewhere", "version: 1\npager: cat\n", "version: 1\npager: cat\n"),
        ] {
            let mut command = gh(&home, shell, &["api"]);
            let place = if directory.is_empty() { ".config/gh" } else { directory };
            home.write(&format!("{place}/config.yml"), text);
            if !directory.is_empty() {
                command.env("GH_CONFIG_DIR", home.path(directory));
            }
            for _ in 0..2 {
                let said = succeed(&mut command, "");
                assert!(said.ends_with(&ends), "{said}");
                assert_eq!(fs::read_to_string(own.join("config.yml")).unwrap(), copied);
                assert_eq!(
                    fs::read_link(own.join("hosts.yml")).unwrap(),
                    home.mount().join("gh/hosts.yml")
                );
                assert_eq!(fs::read_dir(&own).unwrap().count(), 2, "no token, and nothing is left");
            }
        }
        // Where the home is not the caller's, or is none, nothing is written.
        fs::remove_dir_all(home.path(".cache")).unwrap();
        let alone = format!("GH_CONFIG_DIR={}\n", home.mount().join("gh").display());
        for (name, value) in [("HOME", "/"), ("XDG_CACHE_HOME", "/dev/null/x")] {
            let mut command = gh(&home, shell, &["api"]);
            command.env("GH_CONFIG_DIR", home.path("elsewhere")).env(name, value);
            if name == "HOME" {
                command
                    .env("HOME", somebody_elses(&home))
                    .env("XDG_CACHE_HOME", home.path(".cache"));
            }
            let said = succeed(&mut command, "");
            assert!(said.ends_with(&alone), "{said}");
        }
        assert!(!home.path(".cache").exists());
    }
}

#[test]
fn without_the_logins_of_a_mount_no_server_but_github_gets_a_token() {
    for shell in SHELLS {
        let home = home();
        let enterprise = [("MOLECULE_TOKENFS_HOST", "ghe.example.com")];
        let mut command = with(gh(&home, shell, &["api"]), &enterprise);
        let (code, stdout, stderr) = tell(&mut command, "");
        assert_eq!((code, stdout.as_str(), stderr.lines().count()), (4, "", 1), "{stderr}");
        assert!(stderr.contains("ghe.example.com") && !stderr.contains(TOKEN), "{stderr}");
        // What the mount does not say is not taken for github.com.
        home.write("mount/gh/config.yml", "");
        fs::create_dir_all(home.path("mount/gh/hosts.yml")).unwrap();
        assert!(succeed(&mut gh(&home, shell, &["api"]), "").contains("GH_TOKEN="), "no file");
        fs::remove_dir(home.path("mount/gh/hosts.yml")).unwrap();
        // Readable to nobody, not even to root.
        symlink("/proc/self/mem", home.path("mount/gh/hosts.yml")).unwrap();
        let (code, stdout, stderr) = tell(&mut gh(&home, shell, &["api"]), "");
        assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
        assert!(stderr.contains("hosts.yml"), "{stderr}");
    }
}

#[test]
fn a_host_that_the_token_is_not_for_never_gets_it() {
    for shell in SHELLS {
        let home = home();
        for host in ["ghe.example.com", "octo.ghe.com", "github.com.evil.example", "com"] {
            let said = succeed(gh(&home, shell, &["api"]).env("GH_HOST", host), "");
            assert!(said.ends_with(&format!("word=api\nGH_HOST={host}\n")), "{said}");
        }
        let enterprise = [("MOLECULE_TOKENFS_HOST", "ghe.example.com"), ("GH_HOST", "github.com")];
        let said = succeed(&mut with(gh(&home, shell, &["api"]), &enterprise), "");
        assert!(!said.contains(TOKEN), "{said}");
    }
}
