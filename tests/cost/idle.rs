//! What the daemon costs while nobody asks: memory, and how often it wakes up.

use std::fs;
use std::thread;
use std::time::Duration;

use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use serde_json::json;

use crate::subjects::processes_of;
use crate::support::claim::{Claim, assert_all};
use crate::support::daemon::Daemon;
use crate::support::dir::TestDir;
use crate::support::namespace::sandboxed;
use crate::support::processes::{proportional_set_size, thread_count, wake_ups};
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
    sandboxed(settled + idle + secs(30), move || {
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
        if let Some(file) = file {
            let claims = [
                Claim::new("PSS of all our processes, MiB", total, 8.0),
                Claim::new("wake-ups a minute", woken / minutes, 1.0),
            ];
            let text = json!({ "idle": figures, "claims": claims }).to_string();
            fs::write(file, text).expect("the figures are kept");
            assert_all(&claims);
        }
    });
}
