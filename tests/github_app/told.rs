//! What a mount tells of its tokens on demand, and to whom.

use std::path::Path;

use molecule_tokenfs::fs::demand;
use molecule_tokenfs::status::{self, Status, metrics};

use super::*;

/// A page, as this user sees it.
fn page(app: &App, path: &Path, user: u32) -> String {
    let mut cat = command("setpriv", User::Own);
    let user = user.to_string();
    cat.args(["--reuid", &user, "--regid", &user, "--clear-groups", "cat"]).arg(path);
    run(cat, &app.dir, secs(10)).ok()
}

/// The names of its tokens, and how many of them are said to be on demand.
fn listed(status: &Status) -> (Vec<&str>, usize, usize) {
    let on_demand = status.on_demand.unwrap();
    let names = status.tokens.iter().map(|token| &*token.name).collect();
    (names, on_demand.kept, on_demand.listed)
}

#[test]
fn all_pages_tell_of_tokens_on_demand_and_looking_asks_nobody() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let document = || fs::read_to_string(daemon.path("status.json")).unwrap();
        let status = || serde_json::from_str::<Status>(&document()).unwrap();
        let numbers = || fs::read_to_string(daemon.path("metrics.prom")).unwrap();
        let size = |page: &str| fs::metadata(daemon.path(page)).unwrap().len();
        let configured = ["default", "acme", "globex"];
        assert_eq!(listed(&status()), (configured.to_vec(), 0, 0));
        assert!(numbers().contains("\nmolecule_tokenfs_on_demand_tokens 0\n"), "{}", numbers());

        fs::read(daemon.path("repos/acme/web/token")).unwrap();
        fs::read(daemon.path("orgs/globex/token")).unwrap();
        // Mistyped: its failure is none of the mount.
        fs::read(daemon.path("repos/acme/wbe/token")).unwrap_err();
        fs::read(daemon.path("repos/acme/web/token")).unwrap();
        let asked = app.demo.github().seen().len();
        let names =
            [&configured[..], &["repos/acme/web", "repos/acme/wbe", "orgs/globex"]].concat();
        for _ in 0..3 {
            let status = status();
            assert_eq!(listed(&status), (names.clone(), 3, 3), "the most lately opened first");
            let [web, wrong, globex] = status.on_demand() else { panic!("{status:?}") };
            assert_eq!((web.state.name(), globex.state.name()), ("fresh", "fresh"));
            assert_eq!((web.opens, web.fetches), (2, 1));
            assert_eq!((wrong.state.name(), &*wrong.owners), ("none", &["acme".to_owned()][..]));
            assert_eq!(wrong.last_failure.as_ref().unwrap().kind, "not_granted");
            assert_eq!(status.state.name(), "idle", "that of the mount is as before");
            // Looking at one is no use of it.
            fs::read(daemon.path("orgs/globex/status.json")).unwrap();
        }
        for (name, expected) in [("status.json", document()), ("metrics.prom", numbers())] {
            assert_eq!(size(name), expected.len() as u64, "{name}");
        }
        assert_eq!(size("status.json"), status::size(3, true) as u64);
        assert_eq!(size("metrics.prom"), metrics::size(3, true) as u64);
        let numbers = numbers();
        for line in [
            "on_demand_tokens 3",
            "on_demand_tokens_listed 3",
            "token_state{token=\"repos/acme/web\",state=\"fresh\"} 1",
            "token_state{token=\"repos/acme/wbe\",state=\"none\"} 1",
            "source_consecutive_failures{token=\"repos/acme/wbe\",source=\"acme-app\"} 1",
            "opens_total{token=\"repos/acme/web\"} 2",
        ] {
            assert!(numbers.contains(&format!("\nmolecule_tokenfs_{line}\n")), "{line}: {numbers}");
        }
        let told = app.tell(&daemon, &["status"]);
        assert_eq!(told.status.code(), Some(0), "{told:?}");
        let rows: Vec<_> = told.stdout.lines().skip(3).take(6).collect();
        let first = rows.iter().filter_map(|row| row.split_whitespace().next());
        assert_eq!(first.collect::<Vec<_>>(), names, "{told:?}");
        let json = app.tell(&daemon, &["status", "--json"]);
        assert_eq!(json.status.code(), Some(0), "{json:?}");
        let json: Status = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(listed(&json), (names.clone(), 3, 3));
        assert_eq!(app.demo.github().seen().len(), asked, "nobody was asked");

        daemon.kill_worker(nix::sys::signal::Signal::SIGKILL);
        let kept = eventually("the next worker", secs(10), || {
            serde_json::from_slice::<Status>(&fs::read(daemon.path("status.json")).ok()?).ok()
        });
        assert_eq!(listed(&kept), (names, 3, 3), "as the first worker had them");
        assert_eq!(app.demo.github().seen().len(), asked, "nobody was asked");
    });
}

#[test]
fn strangers_are_told_how_many_tokens_on_demand_there_are_and_not_which() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        fs::read(daemon.path("repos/acme/web/token")).unwrap();
        for name in ["status.json", "metrics.prom"] {
            let (owner, stranger) =
                (page(&app, &daemon.path(name), 0), page(&app, &daemon.path(name), 1001));
            assert!(owner.contains("repos/acme/web"), "{owner}");
            assert!(!stranger.contains("web"), "{stranger}");
            assert_eq!(owner.len(), stranger.len(), "the size is always the same");
        }
        let status: Status =
            serde_json::from_str(&page(&app, &daemon.path("status.json"), 1001)).unwrap();
        assert_eq!(listed(&status), (vec!["default", "acme", "globex"], 1, 0));
        let numbers = page(&app, &daemon.path("metrics.prom"), 1001);
        assert!(numbers.contains("\nmolecule_tokenfs_on_demand_tokens 1\n"), "{numbers}");
    });
}

#[test]
fn a_token_on_demand_is_also_named_by_its_directory() {
    sandboxed(secs(60), || {
        let app = on_demand(secs(3600));
        let daemon = app.mount();
        let by_token = app.tell(&daemon, &["get", "--token", "repos/Acme/Web.git"]).ok();
        assert_eq!(by_token, app.tell(&daemon, &["get", "--repo", "acme/web"]).ok());
        let name = |arguments: &[&str]| {
            let arguments = [&["status", "--json"], arguments].concat();
            let status = app.tell(&daemon, &arguments).ok();
            let status: Status = serde_json::from_str(&status).unwrap();
            status.tokens.into_iter().map(|token| token.name).collect::<Vec<_>>()
        };
        assert_eq!(name(&["--token", "repos/acme/web"]), ["acme/web"]);
        assert_eq!(name(&["--token", "repos/acme/web"]), name(&["--repo", "acme/web"]));
        let all = app.tell(&daemon, &["get", "--token", "orgs/globex"]).ok();
        assert_eq!(app.demo.ledger().verdict(all.as_bytes()), Verdict::Live);
        for (wrong, said) in [
            ("repos/initech/web", "there is no token for `initech/web`"),
            ("repos/acme", "there is no token `repos/acme`"),
            ("repos/acme/../web", "there is no token `repos/acme/../web`"),
        ] {
            let told = app.tell(&daemon, &["status", "--token", wrong]);
            assert_eq!(told.status.code(), Some(2), "{told:?}");
            assert!(told.stderr.contains(said), "{told:?}");
        }
        let told = app.tell(&daemon, &["status", "--token", "acm"]);
        assert!(told.stderr.contains("the tokens there are default, acme, globex\n"), "{told:?}");
    });
}

#[test]
fn of_as_many_tokens_as_are_kept_each_is_told() {
    sandboxed(secs(120), || {
        let app = on_demand(secs(3600));
        install_many(&app, demand::TOKENS + 10);
        let text = fs::read_to_string(&app.config).unwrap();
        let text = text.replace("owner = 'acme'", "owner = 'acme'\nmints-per-minute = 1000");
        fs::write(&app.config, text).unwrap();
        let daemon =
            Daemon::at(&app.dir).arg_pair("--config", &app.config).log_level("info").start();
        for number in 0..demand::TOKENS + 10 {
            fs::read(daemon.path(&format!("repos/acme/r{number}/token"))).unwrap();
        }
        let status: Status =
            serde_json::from_slice(&fs::read(daemon.path("status.json")).unwrap()).unwrap();
        let names: Vec<_> =
            (10..demand::TOKENS + 10).rev().map(|n| format!("repos/acme/r{n}")).collect();
        let told: Vec<_> = status.on_demand().iter().map(|token| token.name.clone()).collect();
        assert_eq!(told, names);
        let numbers = fs::read_to_string(daemon.path("metrics.prom")).unwrap();
        let listed = format!("\nmolecule_tokenfs_on_demand_tokens_listed {}\n", demand::TOKENS);
        assert!(numbers.contains(&listed), "{numbers}");
    });
}
