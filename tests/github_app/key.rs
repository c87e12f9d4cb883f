//! A key that is a variable of the environment.

use super::*;

/// The configuration with the key in `ACME_KEY`, and the key.
fn with_a_variable() -> (App, String) {
    let app = App::new(secs(3600));
    let key = app.dir.join("acme.pem");
    let pem = fs::read_to_string(&key).unwrap();
    let text = fs::read_to_string(&app.config).unwrap();
    let file = format!("{{ file = '{}' }}", key.display());
    fs::write(&app.config, text.replace(&file, "{ env = 'ACME_KEY' }")).unwrap();
    fs::remove_file(key).unwrap();
    (app, pem)
}

#[test]
fn a_key_of_the_environment_mints_and_reaches_no_child() {
    sandboxed(secs(60), || {
        let (app, pem) = with_a_variable();
        let daemon =
            Daemon::at(&app.dir).arg_pair("--config", &app.config).env("ACME_KEY", &pem).start();
        let token = fs::read_to_string(daemon.path("token")).unwrap();
        assert_eq!(app.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
        let worker = daemon.worker().unwrap();
        let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(
            environment.contains("PATH=") && !environment.contains("ACME_KEY"),
            "{environment}"
        );
        let lines: Vec<_> = pem.lines().filter(|line| line.len() == 64).collect();
        assert!(!lines.iter().any(|line| daemon.log().contains(line)), "the key is in the log");
        // What an upgrade reads anew is the environment of the start.
        app.tell(&daemon, &["upgrade"]).ok();
        std::thread::sleep(millis(1100));
        app.tell(&daemon, &["refresh"]).ok();
        assert_ne!(fs::read_to_string(daemon.path("token")).unwrap(), token);
    });
}

#[test]
fn a_key_of_the_environment_reaches_no_command_of_run() {
    sandboxed(secs(60), || {
        let (app, pem) = with_a_variable();
        let mut inner = tokenfs(&app.dir, User::Own);
        inner.args(["run", "--no-system-wide", "--mountpoint"]).arg(app.dir.join("inner"));
        inner.arg("--config").arg(&app.config).args([
            "--",
            "sh",
            "-c",
            "env; cat \"$GH_TOKEN_FILE\"",
        ]);
        inner.env("ACME_KEY", &pem).env("HOME", app.dir.path());
        let said = run(inner, &app.dir, secs(20)).ok();
        assert!(said.contains("GH_TOKEN_FILE=") && !said.contains("ACME_KEY"), "{said}");
        let token = said.lines().last().unwrap();
        assert_eq!(app.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
    });
}

#[test]
fn a_variable_that_is_not_set_is_named() {
    sandboxed(secs(60), || {
        let (app, _) = with_a_variable();
        let daemon = app.mount();
        let told = app.tell(&daemon, &["get"]);
        assert_eq!(told.status.code(), Some(3), "{told:?}");
        for part in [
            "(the variable ACME_KEY: it was not set when the daemon was started)",
            "hint: set the variable that `private-key` names",
        ] {
            assert!(told.stderr.contains(part), "{part}: {told:?}");
        }
    });
}
