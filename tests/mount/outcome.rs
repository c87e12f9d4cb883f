//! Every way in which a platform can fail: the errno that a reader sees and when, what `status` says
//! and advises, and that it heals by itself; the same with a token in the environment, which is
//! served meanwhile.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::error::FetchErrorKind as Kind;
use nix::errno::Errno;
use tokio::net::TcpSocket;

use crate::Workspace;
use crate::support::daemon::{Builder, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::limit::each;
use crate::support::namespace::{replace_file, sandboxed};
use crate::support::process::{Finished, errno};
use crate::support::{eventually, secs};

/// How long an open waits here.
const DEADLINE: Duration = secs(1);
/// The same where a token is expected, for which a loaded machine may take its time.
const PATIENT_DEADLINE: Duration = secs(4);
/// What a loaded machine may add to it.
const SLACK: Duration = secs(2);
/// How long it may take until a fault that heals by itself is over: the longest back-off, though here
/// it is short yet.
const HEALED: Duration = secs(40);
/// The same where the bearer file tells it; the slow retry comes after 45 seconds.
const HEALED_AT_ONCE: Duration = secs(10);

/// The slow retry after a permanent failure, and what a request may take.
const HEALED_SLOWLY: Duration = secs(65);
/// Names the file for the seconds that each fault took to heal: then nothing hastens the slow retry.
const FIGURES: &str = "MOLECULE_HEALING_JSON";

/// A user's own token.
const IN_THE_ENVIRONMENT: &str = "ghp_0fTheEnvironment0123456789abcdefghij";
/// A host that nobody has until `/etc/hosts` names it.
const NOBODY: &str = "platform.invalid";

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
enum Wrong {
    /// The platform's answers.
    Answer(Fault),
    /// Nobody listens at its port.
    Refused,
    /// Its name does not resolve.
    NoName,
    /// The bearer file is missing.
    NoBearer,
    /// It holds this.
    Bearer(&'static str),
}

/// What goes wrong, and what a reader and `status` make of it.
type Case = (Wrong, Errno, Kind, &'static str);

const CASES: &[Case] = {
    use Wrong::{Answer, Bearer, NoBearer, NoName, Refused};
    const NONE: Errno = Errno::ENOKEY;
    const REJECTED: Errno = Errno::EKEYREJECTED;
    &[
        (Answer(Fault::Status(401)), REJECTED, Kind::Unauthorized, "answers 401 Unauthorized"),
        (Answer(Fault::Status(403)), REJECTED, Kind::Forbidden, "answers 403 Forbidden"),
        (Answer(Fault::Status(404)), REJECTED, Kind::NotFound, "answers 404 Not Found"),
        (Answer(Fault::Status(500)), NONE, Kind::ServerError, "answers 500 Internal Server Error"),
        (Answer(Fault::RetryAfter(3)), NONE, Kind::RateLimited, "answers 429 Too Many Requests"),
        (Answer(Fault::RateLimit(3)), NONE, Kind::RateLimited, "answers 403 Forbidden"),
        (Answer(Fault::Hang), Errno::ETIMEDOUT, Kind::TimedOut, "no answer in 2 seconds"),
        (Answer(Fault::Close), NONE, Kind::Unreachable, "closed before message completed"),
        (Answer(Fault::Reset), NONE, Kind::Unreachable, "no whole answer from http://127.0.0.1:"),
        (Answer(Fault::Cut), NONE, Kind::Unreachable, "no whole answer from http://127.0.0.1:"),
        (Answer(Fault::Html), NONE, Kind::BadAnswer, "text/html: the body is not JSON"),
        (Answer(Fault::Truncated), NONE, Kind::BadAnswer, "ends in the middle of the JSON"),
        (Answer(Fault::EmptyToken), NONE, Kind::BadAnswer, "the token is empty"),
        (Answer(Fault::NewlineToken), NONE, Kind::BadAnswer, "0x0a at offset"),
        (Answer(Fault::NulToken), NONE, Kind::BadAnswer, "0x00 at offset"),
        (Answer(Fault::BornExpired), NONE, Kind::BornExpired, "it expired"),
        (Answer(Fault::Huge), NONE, Kind::BadAnswer, "answers with more than 1024 KiB"),
        (Answer(Fault::HugeStream), NONE, Kind::BadAnswer, "answers with more than 1024 KiB"),
        (Answer(Fault::RedirectElsewhere), REJECTED, Kind::Redirected, "redirects to http://127.0"),
        (Refused, NONE, Kind::Unreachable, "Connection refused"),
        (NoName, NONE, Kind::Unreachable, "failed to lookup address"),
        (NoBearer, NONE, Kind::NotRegistered, ".auth_token: it does not exist"),
        (Bearer(""), NONE, Kind::NotRegistered, ".auth_token: it is empty"),
        (Bearer("not-the-one"), REJECTED, Kind::Unauthorized, "answers 401 Unauthorized"),
        (Bearer("two\nlines"), REJECTED, Kind::BearerUnusable, "it has more than one line"),
        (Bearer("a\0b"), REJECTED, Kind::BearerUnusable, "the byte 0x00 at offset 1"),
    ]
};

/// A port of 127.0.0.1 that is taken and at which nobody listens.
struct ClosedPort {
    port: u16,
    _socket: TcpSocket,
}

impl ClosedPort {
    fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self { port: socket.local_addr().unwrap().port(), _socket: socket }
    }
}

/// A workspace in which something is wrong.
struct Broken<'a> {
    workspace: Workspace,
    wrong: Wrong,
    closed: Option<ClosedPort>,
    hosts: &'a Path,
}

impl<'a> Broken<'a> {
    fn start(
        wrong: Wrong,
        hosts: &'a Path,
        deadline: Duration,
        change: impl FnOnce(Builder<'_>) -> Builder<'_>,
    ) -> Self {
        let closed = matches!(wrong, Wrong::Refused).then(ClosedPort::new);
        let dir = TestDir::new();
        let demo = Demo::start(Setup::default()).expect("the demo platform starts");
        let bearer = demo.register(&dir.join("configs")).expect("the workspace registers");
        let (_, port) = demo.host().split_once(':').unwrap();
        let url = match wrong {
            Wrong::Refused => format!("http://127.0.0.1:{}", closed.as_ref().unwrap().port),
            Wrong::NoName => format!("http://{NOBODY}:{port}"),
            Wrong::Answer(_) | Wrong::NoBearer | Wrong::Bearer(_) => demo.url().to_owned(),
        };
        match wrong {
            Wrong::Answer(fault) => demo.faults().stick(Service::Platform, Some(fault)),
            Wrong::NoBearer => fs::remove_file(bearer).unwrap(),
            Wrong::Bearer(text) => fs::write(bearer, text).unwrap(),
            Wrong::Refused | Wrong::NoName => {}
        }
        // Only for what hangs: a loaded machine may need longer for what does not.
        let patience = if let Wrong::Answer(Fault::Hang) = wrong { "2s" } else { "10s" };
        let deadline = format!("{}s", deadline.as_secs());
        let limits = ["--open-timeout", &deadline, "--request-timeout", patience];
        let workspace = Workspace::start_in(dir, demo, |_, builder| {
            change(builder.env("PLATFORM_URL", url).args(limits))
        });
        Self { workspace, wrong, closed, hosts }
    }

    /// Ends what is wrong, and says how long it may take until that is noticed.
    fn heal(&mut self, kind: Kind) -> Duration {
        let workspace = &mut self.workspace;
        match self.wrong {
            Wrong::Answer(_) => workspace.demo.faults().heal(),
            Wrong::Refused => {
                let port = self.closed.take().unwrap().port;
                // A process that another thread is just starting holds the socket until its exec.
                workspace.demo = eventually("the port is free", secs(5), || {
                    Demo::start(Setup { port, ..Setup::default() }).ok()
                });
            }
            Wrong::NoName => fs::write(self.hosts, format!("127.0.0.1 {NOBODY}\n")).unwrap(),
            Wrong::NoBearer | Wrong::Bearer(_) => {}
        }
        let is_about_the_bearer =
            matches!(self.wrong, Wrong::NoBearer | Wrong::Bearer(_) | Wrong::Refused);
        let is_hastened = figures_file().is_none() && !kind.is_transient();
        if is_about_the_bearer || is_hastened {
            workspace.demo.register(&workspace.dir.join("configs")).unwrap();
        }
        if kind.is_transient() {
            HEALED
        } else if is_about_the_bearer || is_hastened {
            HEALED_AT_ONCE
        } else {
            HEALED_SLOWLY
        }
    }

    /// What `status` says in words, once the failure of this kind is known.
    fn status_of(&self, kind: Kind) -> Finished {
        eventually("status.json names the failure", secs(20), || {
            let status = self.workspace.status();
            (status.pointer("/tokens/0/last_failure/kind")? == kind.name()).then_some(())
        });
        said(&self.workspace)
    }

    /// `status` says what failed, and what to do about it.
    fn explains(&self, kind: Kind, detail: &str, state: &str, code: i32) {
        let said = self.status_of(kind);
        let explanation = kind.explain();
        let advice = format!("\nwhat to do\n  platform: {}\n", explanation.remedy);
        for part in [explanation.sentence, detail, advice.as_str()] {
            assert!(said.stdout.contains(part), "`{part}` is not in: {}", said.stdout);
        }
        assert!(said.stdout.starts_with(&format!("{state}: ")), "{}", said.stdout);
        assert_eq!(said.status.code(), Some(code), "{}", said.stdout);
        assert_eq!(self.workspace.status().pointer("/state").unwrap(), state);
    }

    /// The platform's first good answer is served, and all is well. Gives how long that took.
    #[expect(clippy::disallowed_methods, reason = "a test measures real time")]
    fn heals(&mut self, kind: Kind) -> Duration {
        let limit = self.heal(kind);
        let start = Instant::now();
        let path = self.workspace.path("token");
        let token = eventually("a token of the platform is served", limit, || {
            fs::read(&path).ok().filter(|token| token != IN_THE_ENVIRONMENT.as_bytes())
        });
        assert_eq!(self.workspace.demo.ledger().verdict(&token), Verdict::Live);
        let took = start.elapsed();
        let said = said(&self.workspace);
        assert!(said.stdout.starts_with("fresh: a token of platform is served\n"), "{said:?}");
        assert_eq!(said.status.code(), Some(0));
        took
    }
}

#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for the figures")]
fn figures_file() -> Option<std::ffi::OsString> {
    std::env::var_os(FIGURES)
}

fn said(workspace: &Workspace) -> Finished {
    tokenfs_run(&workspace.dir, &["status", workspace.path("").to_str().unwrap()])
}

/// Its symbol, for example `ENOKEY`.
fn errno_name(errno: Errno) -> String {
    format!("{errno:?}")
}

/// Opens and reads, which takes no longer than the deadline.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
fn read_in_time(path: &Path, deadline: Duration) -> Result<Vec<u8>, Errno> {
    let start = Instant::now();
    let read = fs::read(path).map_err(|error| errno(&error).unwrap());
    let took = start.elapsed();
    assert!(took <= deadline + SLACK, "took {took:?}: {:?}", read.map(|_| "a token"));
    read
}

/// The errno of an open that must fail. A deadline that passes while a fetch is under way is
/// ETIMEDOUT by the rule, whatever fails: such an open is made again, unless that is what is waited
/// for.
fn refusal(path: &Path, expected: Errno) -> Errno {
    for _ in 0..10 {
        let errno = read_in_time(path, DEADLINE).expect_err("no token is served");
        if errno == expected || errno != Errno::ETIMEDOUT {
            return errno;
        }
    }
    Errno::ETIMEDOUT
}

/// Names are looked up in a file of the test's, and by a server on this machine that is not there.
fn without_names(dir: &TestDir) -> std::path::PathBuf {
    replace_file(Path::new("/etc/hosts"), "", dir);
    replace_file(Path::new("/etc/resolv.conf"), "nameserver 127.0.0.1\n", dir);
    dir.join("replaced-etc-hosts")
}

fn name((wrong, ..): Case) -> String {
    format!("{wrong:?}")
}

#[test]
fn whatever_fails_is_a_named_error_in_time_is_explained_and_heals() {
    let limit = if figures_file().is_some() { secs(300) } else { secs(90) };
    sandboxed(limit, || {
        let dir = TestDir::new();
        let hosts = without_names(&dir);
        let figures = Mutex::new(Vec::new());
        each(CASES, name, |(wrong, errno, kind, detail)| {
            let mut broken = Broken::start(wrong, &hosts, DEADLINE, |builder| builder);
            assert_eq!(refusal(&broken.workspace.path("token"), errno), errno);
            broken.explains(kind, detail, "none", 3);
            let refusals = &broken.workspace.status()["tokens"][0]["refusals"];
            assert!(refusals[errno_name(errno)].as_u64() > Some(0));
            if let Wrong::Answer(Fault::RedirectElsewhere) = wrong {
                assert_eq!(broken.workspace.demo.strays().requests(), 0, "nobody went there");
            }
            let took = broken.heals(kind).as_secs_f64();
            figures.lock().unwrap().push(serde_json::json!({
                "fault": format!("{wrong:?}"),
                "kind": kind.name(),
                "errno": errno_name(errno),
                "transient": kind.is_transient(),
                "seconds_until_healed": (took * 10.0).round() / 10.0,
            }));
        });
        if let Some(file) = figures_file() {
            let figures = figures.into_inner().unwrap();
            fs::write(file, serde_json::to_string_pretty(&figures).unwrap() + "\n").unwrap();
        }
    });
}

#[test]
fn whatever_fails_the_environments_token_is_served_until_the_platform_gives_one() {
    sandboxed(secs(90), || {
        let dir = TestDir::new();
        let hosts = without_names(&dir);
        each(CASES, name, |(wrong, _, kind, detail)| {
            let mut broken = Broken::start(wrong, &hosts, PATIENT_DEADLINE, |builder| {
                builder.env("GITHUB_TOKEN", IN_THE_ENVIRONMENT)
            });
            let read = read_in_time(&broken.workspace.path("token"), PATIENT_DEADLINE);
            assert_eq!(read.as_deref(), Ok(IN_THE_ENVIRONMENT.as_bytes()));
            broken.explains(kind, detail, "degraded", 1);
            assert_eq!(broken.workspace.status()["tokens"][0]["source"], "env");
            broken.heals(kind);
        });
    });
}

/// A token, and then an outage of this kind that lasts until the token's life is over.
fn runs_out(fault: Fault, errno: Errno, summary: &str) {
    let workspace = Workspace::start_with(Setup::with_life(secs(4)), |builder| {
        builder.args(["--open-timeout", "1s", "--request-timeout", "5s"])
    });
    let (path, ledger) = (workspace.path("token"), workspace.demo.ledger());
    let first = fs::read(&path).unwrap();
    workspace.demo.faults().stick(Service::Platform, Some(fault));
    let seen = eventually("the token is not served any more", secs(10), || {
        match read_in_time(&path, DEADLINE) {
            Ok(token) => {
                assert!(token == first, "nobody gave another");
                assert_eq!(ledger.verdict(&token), Verdict::Live);
                None
            }
            // By the rule: see `refusal`.
            Err(Errno::ETIMEDOUT) if errno != Errno::ETIMEDOUT => None,
            Err(seen) => Some(seen),
        }
    });
    assert_eq!(seen, errno);
    let is_over = || ledger.verdict(&first) == Verdict::Dead;
    eventually("its life is over", secs(5), || is_over().then_some(()));
    let said = said(&workspace);
    assert!(said.stdout.contains(summary), "{}", said.stdout);
    assert_eq!(said.status.code(), Some(3), "{}", said.stdout);

    // Nobody has to wait for the end of a back-off who knows better.
    workspace.demo.faults().heal();
    fs::write(workspace.path("refresh"), "now").unwrap();
    let token = eventually("another token", HEALED_AT_ONCE, || fs::read(&path).ok());
    assert_eq!(ledger.verdict(&token), Verdict::Live);
}

#[test]
fn a_token_that_ran_out_during_an_outage_is_named_by_what_fails() {
    const CASES: &[(Fault, Errno, &str)] = &[
        (Fault::Status(500), Errno::EKEYEXPIRED, "the last token ran out, and platform gives no"),
        (Fault::Close, Errno::EKEYEXPIRED, "the last token ran out, and platform gives no other"),
        (Fault::BornExpired, Errno::EKEYEXPIRED, "the last token ran out, and platform gives no"),
        (Fault::Status(401), Errno::EKEYREJECTED, "the last token ran out, and platform gives no"),
        (Fault::Hang, Errno::ETIMEDOUT, "the last token ran out; a fetch is under way"),
    ];
    sandboxed(secs(90), || {
        let run = |(fault, errno, summary)| runs_out(fault, errno, summary);
        each(CASES, |(fault, ..)| fault.to_string(), run);
    });
}
