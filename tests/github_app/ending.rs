//! What becomes of the tokens when the daemon ends, and which tokens of a mount are one.

use nix::sys::signal::Signal;

use super::*;

/// What GitHub answers to this token.
fn answer_to(app: &App, token: &str) -> String {
    let mut curl = command("curl", User::Own);
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H"]);
    curl.arg(format!("Authorization: Bearer {token}"));
    curl.arg(format!("{}/installation/repositories", app.demo.url()));
    run(curl, &app.dir, secs(20)).ok().trim().to_owned()
}

fn read(daemon: &Daemon, path: &str) -> String {
    fs::read_to_string(daemon.path(path)).unwrap()
}

/// Tokens of acme's App in three places, two of which are for the same, all to be revoked at the end.
fn revoking() -> App {
    let app = App::with(secs(3600), "owner = 'acme'\nrevoke-on-exit = true");
    let text = fs::read_to_string(&app.config).unwrap();
    let text = text.replace("[tokens.default]\n", "[tokens.default]\non-demand = true\n");
    let narrow = text.split_once("[sources.acme-app]").unwrap().1;
    let narrow = format!(
        "{text}[tokens.web]\nsources = ['acme-web']\n[sources.acme-web]{narrow}repositories = ['web']\n"
    );
    fs::write(&app.config, narrow).unwrap();
    app
}

const PLACES: [&str; 4] = ["token", "web/token", "repos/acme/web/token", "repos/acme/api/token"];

#[test]
fn a_named_token_and_a_directory_on_demand_for_the_same_are_one_token() {
    sandboxed(secs(60), || {
        let app = revoking();
        let daemon = app.mount();
        let tokens = PLACES.map(|place| read(&daemon, place));
        assert_eq!(tokens[1], tokens[2]);
        assert_eq!(app.demo.github().minted(), 3);
        // Whoever asks first for another mints it for both.
        std::thread::sleep(millis(1100));
        app.tell(&daemon, &["refresh", "--token", "web"]).ok();
        app.tell(&daemon, &["refresh", "--repo", "acme/web"]).ok();
        assert_eq!(read(&daemon, PLACES[1]), read(&daemon, PLACES[2]));
        assert_ne!(read(&daemon, PLACES[1]), tokens[1]);
        assert_eq!(app.demo.github().minted(), 4);
    });
}

#[test]
fn tokens_are_revoked_at_an_orderly_end_if_that_is_asked_for() {
    sandboxed(secs(90), || {
        for by_umount in [false, true] {
            let app = revoking();
            let mut daemon = app.mount();
            let tokens = PLACES.map(|place| read(&daemon, place));
            for token in &tokens {
                assert_eq!(answer_to(&app, token), "200");
            }
            // The token of the mount is another worker's now, and none is revoked by that.
            daemon.kill_worker(Signal::SIGKILL);
            app.tell(&daemon, &["upgrade"]).ok();
            assert_eq!(read(&daemon, "token"), tokens[0]);
            let later = PLACES.map(|place| read(&daemon, place));
            for token in tokens.iter().chain(&later) {
                assert_eq!(app.demo.ledger().verdict(token.as_bytes()), Verdict::Live);
            }
            if by_umount {
                app.tell(&daemon, &["umount"]).ok();
            } else {
                daemon.process().signal(Signal::SIGTERM);
            }
            assert!(daemon.process().wait(secs(20)).success());
            for token in &later {
                assert_eq!(answer_to(&app, token), "401", "by umount: {by_umount}");
            }
            assert!(daemon.log().contains("the tokens were revoked"), "{}", daemon.log());
        }
    });
}

#[test]
fn tokens_outlive_a_daemon_that_was_not_told_to_revoke_them_or_was_killed() {
    sandboxed(secs(60), || {
        let app = App::new(secs(3600));
        let mut daemon = app.mount();
        let token = read(&daemon, "token");
        assert!(daemon.stop().success());
        assert_eq!(answer_to(&app, &token), "200");
        let app = revoking();
        let mut daemon = app.mount();
        let token = read(&daemon, "token");
        daemon.process().signal(Signal::SIGKILL);
        daemon.process().wait(secs(20));
        assert_eq!(answer_to(&app, &token), "200");
    });
}

#[test]
fn a_github_that_hangs_holds_up_no_end() {
    sandboxed(secs(60), || {
        let app = revoking();
        let mut daemon = app.mount();
        for place in PLACES {
            read(&daemon, place);
        }
        app.demo.github().hang();
        // Within the five seconds of a stop.
        assert!(daemon.stop().success());
        assert!(daemon.log().contains("not all tokens were revoked"), "{}", daemon.log());
    });
}
