//! Real programs read their views across rotations, against a server that counts dead tokens.
//! needs: fuse, curl, busybox, jq, bash, gh, gh-2.88, gh-2.103, python
//!
//! `scripts/evidence consumers` runs the rest of the list, too.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod list;
mod site;
#[path = "../support/mod.rs"]
mod support;
#[path = "../sources/tls.rs"]
mod tls;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use list::{Consumer, Kind};
use molecule_tokenfs::demo::{Demo, Setup};
use serde_json::json;
use support::daemon::Daemon;
use support::dir::TestDir;
use support::limit::{Adopt, within};
use support::process::{Process, User, command, run};
use support::{eventually, millis, namespace, secs};

/// Four tokens are three rotations.
const TOKENS: usize = 4;

/// Long enough for a slow client on a busy machine to use what it has read: the minimum life is half
/// of it.
const LIFE: Duration = secs(16);

/// How long a consumer may take to meet [`TOKENS`] tokens.
const LIMIT: Duration = secs(90);

/// The names that gh takes for a GitHub on this machine, over plain http on port 80.
const HOSTS: &str = "127.0.0.1 localhost github.localhost api.github.localhost\n";

#[test]
fn each_consumer_reads_its_view_across_three_rotations_and_never_presents_a_dead_token() {
    namespace::sandboxed(LIMIT + secs(60), || {
        let wanted = list::wanted();
        let bench = Bench::new();
        let adopt = Adopt::here();
        let figures = thread::scope(|scope| {
            let threads = wanted
                .iter()
                .map(|consumer| {
                    let (bench, adopt) = (&bench, adopt.clone());
                    scope.spawn(move || {
                        adopt.enter();
                        bench.drive(consumer)
                    })
                })
                .collect::<Vec<_>>();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        let figures = figures
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for figure in &figures {
            println!("{figure}");
        }
        list::report(&figures);
        assert_eq!(bench.demo.ledger().counts().refused(), 0, "{:?}", bench.demo.ledger().counts());
    });
}

#[test]
fn a_token_that_was_read_once_is_counted_dead_after_its_life() {
    within(secs(20), || {
        let dir = TestDir::new();
        let demo = Demo::start(Setup::with_life(secs(2))).expect("the demo platform");
        let frozen = demo.ledger().issue().secret;
        let request = || {
            let mut curl = command("curl", User::Own);
            curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-H"])
                .arg(format!("Authorization: Bearer {}", frozen.expose_str()))
                .arg(format!("{}/consumers/frozen/", demo.url()));
            run(curl, &dir, secs(5)).ok()
        };
        assert_eq!(request(), "200");
        eventually("it is refused", secs(5), || (request() == "401").then_some(()));
        assert_eq!(demo.ledger().counts().service("frozen").dead, 1);
        assert_eq!(demo.consumers().tokens("frozen"), 1);
    });
}

/// The mount, the server, and where the consumers' files are.
struct Bench {
    dir: TestDir,
    demo: Demo,
    daemon: Daemon,
    certificate: PathBuf,
    tls_url: String,
    _tls: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let dir = TestDir::new();
        namespace::private_network(&dir);
        namespace::replace_file(Path::new("/etc/hosts"), HOSTS, &dir);
        let setup = Setup { port: 80, site: Some(site::build(&dir)), ..Setup::with_life(LIFE) };
        let demo = Demo::start(setup).expect("the demo platform");
        demo.register(&dir.join("configs")).expect("the bearer");
        let daemon = Daemon::at(&dir)
            .env("PLATFORM_URL", demo.url())
            .args(["--min-life", "8s", "--host", "github.localhost", "--host", "127.0.0.1"])
            .start();
        // In this thread's network, like everything that it starts.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let tls = tls::Tls::new();
        let tls_url = runtime.block_on(tls.serve(demo.host()));
        let certificate = dir.join("ca.pem");
        std::fs::copy(tls.certificate(), &certificate).expect("the certificate");
        Self { dir, demo, daemon, certificate, tls_url, _tls: runtime }
    }

    /// Runs a consumer until the server has seen enough different tokens from it.
    fn drive(&self, consumer: &Consumer) -> serde_json::Value {
        let name = consumer.name;
        let enough = || self.demo.consumers().tokens(name) >= TOKENS;
        let mut runs = 0;
        match consumer.kind {
            Kind::Run => eventually(&format!("{name} has met {TOKENS} tokens"), LIMIT, || {
                run(self.command(consumer, consumer.script), &self.dir, secs(40)).ok();
                runs += 1;
                thread::sleep(millis(300));
                enough().then_some(())
            }),
            Kind::Service => {
                let mut process =
                    Process::start(self.command(consumer, consumer.script), name, &self.dir);
                runs += 1;
                eventually(&format!("{name} has met {TOKENS} tokens"), LIMIT, || {
                    if let Some(status) = process.ended() {
                        panic!("{name}: {status}\n{}{}", process.stdout(), process.stderr());
                    }
                    enough().then_some(())
                });
            }
        }
        let version = run(self.command(consumer, consumer.version), &self.dir, secs(20)).ok();
        let seen = self.demo.ledger().counts().service(name);
        assert_eq!(seen.refused(), 0, "{name} presented dead or unknown tokens: {seen:?}");
        json!({
            "consumer": name,
            "version": version.split(['\n', '(']).next().unwrap_or_default().trim(),
            "view": consumer.view,
            "runs": runs,
            "tokens": self.demo.consumers().tokens(name),
            "requests": seen.live,
            "dead_or_unknown": seen.refused(),
        })
    }

    fn command(&self, consumer: &Consumer, script: &str) -> std::process::Command {
        let work = self.dir.folder(&format!("work/{}", consumer.name));
        let mut command = command(consumer.shell, User::Own);
        command
            .args(["-ec", script])
            .current_dir(&work)
            .env("HOME", &work)
            .env("MOUNT", self.daemon.mountpoint())
            .env("TOOLS", support::process::registry_tools())
            .env("URL", format!("http://127.0.0.1/consumers/{}", consumer.name))
            .env("TLS_URL", format!("{}/consumers/{}", self.tls_url, consumer.name))
            .env("CERTIFICATE", &self.certificate)
            .env("CARGO", env!("CARGO"));
        command
    }
}
