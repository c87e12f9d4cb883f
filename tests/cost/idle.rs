//! What the daemon costs while nobody asks: memory, and how often it wakes up.

use std::fs;
use std::thread;
use std::time::Duration;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use serde::Serialize;
use serde_json::json;

use crate::subjects::processes_of;
use crate::support::claim::{Claim, assert_all};
use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::processes::{memory_of_its_own, proportional_set_size, thread_count, wake_ups};
use crate::support::secs;
use crate::tls::Tls;
use crate::wanted;

/// What is left over from the fetch has ended by then: connections, timers, threads of the resolver.
const SETTLED: Duration = secs(20);
const IDLE: Duration = Duration::from_mins(10);

const MIB: f64 = 1024.0 * 1024.0;

#[test]
fn a_daemon_with_a_token_in_hand_sleeps() {
    let file = wanted("MOLECULE_IDLE_JSON");
    let (settled, idle) = if file.is_some() { (SETTLED, IDLE) } else { (secs(0), secs(1)) };
    sandboxed(3 * settled + idle + secs(60), move || {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default()).expect("the demo platform starts");
        demo.register(&dir.join("configs")).expect("the workspace registers");
        let (runtime, tls) = (tokio::runtime::Runtime::new().expect("a runtime"), Tls::new());
        let daemon = Daemon::at(&dir)
            .log_level("info")
            .env("PLATFORM_URL", runtime.block_on(tls.serve(demo.host())))
            .env("WORKSPACE_ID", &demo.address().workspace_id)
            .env("MOLECULE_TOKENFS_CA_FILE", tls.certificate())
            .start();
        let token = fs::read(daemon.path("token")).expect("a token");
        let processes = processes_of(&daemon.path("status.json"));
        thread::sleep(settled);

        let before = wake_ups(&processes);
        thread::sleep(idle);
        let woken = wake_ups(&processes) - before;
        let minutes = idle.as_secs_f64() / 60.0;
        let [supervisor, worker] = [0, 1].map(|n| proportional_set_size(processes[n]));
        #[expect(clippy::cast_precision_loss, reason = "far from 2^52")]
        let (total, woken) = ((supervisor + worker) as f64 / MIB, woken as f64);
        let figures = json!({
            "idle_seconds": idle.as_secs(),
            "wake_ups": woken,
            "threads": thread_count(&processes),
            "supervisor_pss_kib": supervisor / 1024,
            "worker_pss_kib": worker / 1024,
            "pss_mib": (total * 100.0).round() / 100.0,
        });
        println!("{figures:#}");

        assert!(total > 0.0);
        assert_eq!(demo.ledger().verdict(&token), Verdict::Live);
        assert_eq!(demo.ledger().counts().platform.requests, 1, "one fetch, before all this");
        drop(daemon);
        let named = NamedTokens::measure(settled);
        println!("{named:?}");
        if let Some(file) = file {
            let claims = [
                Claim::new("PSS of all our processes, MiB", total, 3.5),
                Claim::new("wake-ups a minute", woken / minutes, 1.0),
                Claim::new("memory of a further named token, KiB", named.kib_each(), 64.0),
            ];
            let text =
                json!({ "idle": figures, "named_tokens": named, "claims": claims }).to_string();
            fs::write(file, text).expect("the figures are kept");
            assert_all(&claims);
        }
    });
}

/// A mount of one token beside one of many, all of an App, each opened once.
#[derive(Debug, Serialize)]
struct NamedTokens {
    further: u32,
    kib_with_one: u64,
    kib_with_all: u64,
}

/// How many tokens there are beside `default`.
const FURTHER: u32 = 8;

impl NamedTokens {
    fn measure(settled: Duration) -> Self {
        Self {
            further: FURTHER,
            kib_with_one: kib_of_an_app(0, settled),
            kib_with_all: kib_of_an_app(FURTHER, settled),
        }
    }

    fn kib_each(&self) -> f64 {
        let kib = |number: u64| f64::from(u32::try_from(number).expect("less than 4 TiB"));
        (kib(self.kib_with_all) - kib(self.kib_with_one)) / f64::from(self.further)
    }
}

/// The memory of its own of a daemon that holds a token for an installation, and so many for one repository each.
fn kib_of_an_app(further: u32, settled: Duration) -> u64 {
    let dir = TestDir::new();
    let demo = Demo::start(Setup::default()).expect("the demo platform starts");
    let (runtime, tls) = (tokio::runtime::Runtime::new().expect("a runtime"), Tls::new());
    let url = runtime.block_on(tls.serve(demo.host()));
    let key = dir.join("app.pem");
    let client_id = demo.github().create_app(&key).expect("an App");
    let names: Vec<_> = (0..further).map(|number| format!("repo-{number}")).collect();
    let repositories: Vec<_> = names.iter().map(String::as_str).collect();
    demo.github().install(Installation::of(1, "acme", &repositories));
    let source = |name: &str, scope: &str| {
        format!(
            "[tokens.{name}]\nsources = ['of-{name}']\n\
             [sources.of-{name}]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
             private-key = {{ file = '{}' }}\napi-url = '{url}'\nca-file = '{}'\n\
             owner = 'acme'\n{scope}\n",
            key.display(),
            tls.certificate().display()
        )
    };
    let mut config = source("default", "");
    config.extend(names.iter().map(|name| source(name, &format!("repositories = ['{name}']"))));
    let file = dir.join("tokenfs.toml");
    fs::write(&file, config).expect("a configuration");
    let daemon = Daemon::at(&dir).log_level("info").arg_pair("--config", &file).start();
    let mut tokens = vec![fs::read(daemon.path("token")).expect("the token `default`")];
    for name in &names {
        tokens.push(fs::read(daemon.path(&format!("{name}/token"))).expect("a named token"));
    }
    let processes = processes_of(&daemon.path("status.json"));
    thread::sleep(settled);
    let memory: u64 = processes.iter().map(|&process| memory_of_its_own(process)).sum();
    assert!(tokens.iter().all(|token| demo.ledger().verdict(token) == Verdict::Live));
    assert_eq!(demo.github().minted(), tokens.len(), "each was fetched once");
    memory / 1024
}
