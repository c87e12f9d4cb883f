//! The demo platform keeps its word: what it issues is live, what it did not is refused, and it
//! fails as ordered.
//! needs: git, gh

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::{Report, Verdict};
use molecule_tokenfs::demo::{Demo, Setup};
use serde_json::{Value, json};

const ADMIN: &str = "/admin/github-installation-token";

/// An HTTP answer, read to the end of the connection.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// One request on a connection of its own, with a limit of ten seconds.
fn request(demo: &Demo, line: &str, headers: &str, body: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(demo.host())?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    write!(
        stream,
        "{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}",
        demo.host()
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.ok_or(ErrorKind::UnexpectedEof)?;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("a head in ASCII");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Ok(Answer { status, head, body: bytes[end + 4..].to_vec() })
}

/// A registered workspace: the header with its bearer.
fn bearer(demo: &Demo, dir: &Path) -> String {
    let file = demo.register(dir).expect("the bearer file");
    format!("Authorization: Bearer {}\r\n", std::fs::read_to_string(file).expect("the bearer"))
}

fn fetch(demo: &Demo, bearer: &str) -> std::io::Result<Answer> {
    request(demo, &format!("GET {ADMIN}"), bearer, "")
}

#[test]
fn a_token_comes_with_the_right_bearer_at_both_paths_and_is_live() {
    let demo = Demo::start(Setup::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bearer = bearer(&demo, dir.path());
    let workspace = demo.address().workspace_id.clone();
    for path in [ADMIN.to_owned(), format!("/workspaces/{workspace}/github-installation-token")] {
        let answer = request(&demo, &format!("GET {path}"), &bearer, "").unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.header("date").unwrap().ends_with(" GMT"));
        let json = answer.json();
        assert!(json["expires_at"].as_str().unwrap().ends_with('Z'), "{json}");
        let token = json["token"].as_str().unwrap();
        assert_eq!(demo.ledger().verdict(token.as_bytes()), Verdict::Live);
    }
    let other = request(&demo, "GET /workspaces/x/github-installation-token", &bearer, "").unwrap();
    assert_eq!(other.status, 404);
    assert_eq!(fetch(&demo, "Authorization: Bearer wrong\r\n").unwrap().status, 401);
    demo.rotate_bearer();
    assert_eq!(fetch(&demo, &bearer).unwrap().status, 401);
    let platform = demo.ledger().counts().platform;
    assert_eq!((platform.requests, platform.unauthorized, platform.issued), (5, 2, 2));
}

#[test]
fn every_fault_shows_on_the_wire_as_it_is_named() {
    let demo = Demo::start(Setup::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bearer = bearer(&demo, dir.path());
    let fetch = |fault| {
        demo.faults().once(Service::Platform, fault);
        fetch(&demo, &bearer)
    };

    for code in [401, 403, 404, 429, 500, 503] {
        assert_eq!(fetch(Fault::Status(code)).unwrap().status, code);
    }
    assert_eq!(fetch(Fault::RetryAfter(7)).unwrap().header("retry-after"), Some("7"));
    assert_eq!(fetch(Fault::Html).unwrap().header("content-type"), Some("text/html"));
    assert!(serde_json::from_slice::<Value>(&fetch(Fault::Truncated).unwrap().body).is_err());
    assert_eq!(fetch(Fault::EmptyToken).unwrap().json()["token"], "");
    let newline = fetch(Fault::NewlineToken).unwrap().json();
    assert!(newline["token"].as_str().unwrap().ends_with('\n'));
    assert!(fetch(Fault::NulToken).unwrap().json()["token"].as_str().unwrap().contains('\0'));
    let born_expired = fetch(Fault::BornExpired).unwrap().json();
    let token = born_expired["token"].as_str().unwrap().as_bytes();
    assert_eq!(demo.ledger().verdict(token), Verdict::Dead);
    let again = fetch(Fault::Repeat).unwrap().json();
    assert_eq!(again["token"], born_expired["token"]);
    assert!(fetch(Fault::Huge).unwrap().body.len() > 10 * 1024 * 1024);
    assert_eq!(fetch(Fault::NoDate).unwrap().header("date"), None);
    assert!(fetch(Fault::OtherKey).unwrap().json()["access_token"].is_string());
    assert_eq!(fetch(Fault::NoExpiry).unwrap().json()["expires_at"], Value::Null);
    let cut = fetch(Fault::Cut).unwrap();
    let promised: usize = cut.header("content-length").unwrap().parse().unwrap();
    assert!(cut.body.len() < promised);
    assert_eq!(fetch(Fault::Close).err().unwrap().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(fetch(Fault::Reset).err().unwrap().kind(), ErrorKind::ConnectionReset);

    let date_of = |answer: Answer| {
        let date = answer.header("date").unwrap().to_owned();
        jiff::fmt::rfc2822::parse(&date).unwrap().timestamp().as_second()
    };
    let ahead = date_of(fetch(Fault::DateOff(7200)).unwrap());
    let right = date_of(fetch(Fault::Slow(Duration::from_millis(1))).unwrap());
    assert!((7198..=7200).contains(&(ahead - right)), "{ahead} {right}");

    let same = fetch(Fault::RedirectSame).unwrap();
    assert_eq!(same.status, 307);
    let target = same.header("location").unwrap();
    assert_eq!(request(&demo, &format!("GET {target}"), &bearer, "").unwrap().status, 200);
    let elsewhere = fetch(Fault::RedirectElsewhere).unwrap();
    let target = elsewhere.header("location").unwrap();
    assert!(target.starts_with("http://127.0.0.1:") && !target.starts_with(demo.url()), "{target}");
    assert_eq!(demo.strays().requests(), 0);
}

#[test]
fn a_hanging_platform_says_nothing_and_still_stops_when_dropped() {
    let demo = Demo::start(Setup::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bearer = bearer(&demo, dir.path());
    demo.faults().stick(Service::Platform, Some(Fault::Hang));
    let mut stream = TcpStream::connect(demo.host()).unwrap();
    write!(stream, "GET {ADMIN} HTTP/1.1\r\nHost: x\r\n{bearer}\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // A call with a time limit is not begun again after a signal (signal(7)).
    let error = loop {
        match stream.read(&mut [0; 1]).unwrap_err() {
            error if error.kind() == ErrorKind::Interrupted => {}
            error => break error,
        }
    };
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    drop(demo);
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
}

#[test]
fn another_process_orders_faults_and_reads_the_ledger_without_a_token_in_it() {
    let demo = Demo::start(Setup::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bearer = bearer(&demo, dir.path());
    let post = |path: &str, body: Value| {
        request(&demo, &format!("POST {path}"), "", &body.to_string()).unwrap()
    };
    let order = json!({ "service": "platform", "script": ["status:503", "ok"], "sticky": "html" });
    assert_eq!(post("/demo/fault", order).status, 200);
    assert_eq!(fetch(&demo, &bearer).unwrap().status, 503);
    let token = fetch(&demo, &bearer).unwrap().json()["token"].as_str().unwrap().to_owned();
    assert_eq!(fetch(&demo, &bearer).unwrap().header("content-type"), Some("text/html"));
    assert_eq!(post("/demo/fault", json!({ "sticky": "htlm" })).status, 400);
    assert_eq!(post("/demo/fault", json!({})).status, 200);
    assert_eq!(fetch(&demo, &bearer).unwrap().status, 200);
    assert_eq!(post("/demo/revoke", json!({})).json()["revoked"], 2);
    assert_eq!(demo.ledger().verdict(token.as_bytes()), Verdict::Revoked);
    let ledger = request(&demo, "GET /demo/ledger", "", "").unwrap();
    let report: Report = serde_json::from_slice(&ledger.body).unwrap();
    assert_eq!(report.tokens.len(), 2);
    assert!(!String::from_utf8(ledger.body).unwrap().contains(&token));
}

/// A client's command with nothing of this machine in it and at most a minute to live.
fn client(program: &str, home: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg("60").arg(program).env_clear().current_dir(home);
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", home);
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    command
}

fn run(command: &mut Command, install: &str) -> Output {
    let output = command.output().expect("timeout(1) runs");
    assert_ne!(output.status.code(), Some(127), "install it: apt-get install {install}");
    output
}

fn git(home: &Path, arguments: &[&str]) -> Output {
    let mut command = client("git", home);
    command.args(["-c", "user.name=Test", "-c", "user.email=test@localhost"]);
    command.args(["-c", "credential.helper=!cat \"$HOME/credential\" #"]);
    run(command.args(arguments), "git")
}

/// Fails the test with what the command said, unless it succeeded.
#[track_caller]
fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn git_clones_and_pushes_with_a_live_token_and_gets_401_with_a_dead_one() {
    let home = tempfile::tempdir().unwrap();
    let repositories = tempfile::tempdir().unwrap();
    let setup = Setup { git_root: Some(repositories.path().to_owned()), ..Setup::default() };
    let demo = Demo::start(setup).unwrap();
    let url = demo.create_repository("work.git").unwrap();
    let credential = |token: &str| {
        let text = format!("username=x-access-token\npassword={token}\n");
        std::fs::write(home.path().join("credential"), text).unwrap();
    };
    let live = demo.ledger().issue().secret;
    credential(live.expose_str());
    succeeds(&git(home.path(), &["clone", "--quiet", &url, "work"]));

    // Large enough that git sends it in chunks, compressible enough that it gzips requests.
    let noise: Vec<u8> = (0..600_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
    std::fs::write(home.path().join("work/noise"), noise).unwrap();
    for n in 0..100 {
        succeeds(&git(home.path(), &["-C", "work", "tag", &format!("tag-with-a-name-{n}")]));
    }
    succeeds(&git(home.path(), &["-C", "work", "add", "noise"]));
    succeeds(&git(home.path(), &["-C", "work", "commit", "--quiet", "-m", "Noise"]));
    succeeds(&git(home.path(), &["-C", "work", "push", "--quiet", "--tags", "origin", "main"]));
    succeeds(&git(home.path(), &["clone", "--quiet", &url, "again"]));
    assert_eq!(
        std::fs::read(home.path().join("work/noise")).unwrap(),
        std::fs::read(home.path().join("again/noise")).unwrap()
    );
    let before = demo.ledger().counts().service("git");
    assert_eq!(before.refused(), 0, "{before:?}");
    assert!(before.live >= 6, "{before:?}");

    let dead = demo.ledger().issue_dead().secret;
    credential(dead.expose_str());
    let refused = git(home.path(), &["-C", "work", "fetch"]);
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("Authentication failed"), "{said}");
    assert_eq!(demo.ledger().counts().service("git").dead, 1);
}

#[test]
fn a_fault_of_the_git_server_reaches_the_client_and_heals() {
    let home = tempfile::tempdir().unwrap();
    let repositories = tempfile::tempdir().unwrap();
    let setup = Setup { git_root: Some(repositories.path().to_owned()), ..Setup::default() };
    let demo = Demo::start(setup).unwrap();
    let url = demo.create_repository("work.git").unwrap();
    let token = demo.ledger().issue().secret;
    let text = format!("username=x\npassword={}\n", token.expose_str());
    std::fs::write(home.path().join("credential"), text).unwrap();
    demo.faults().stick(Service::Git, Some(Fault::Status(503)));
    let failed = git(home.path(), &["ls-remote", &url]);
    assert!(String::from_utf8_lossy(&failed.stderr).contains("503"), "{failed:?}");
    demo.faults().heal();
    succeeds(&git(home.path(), &["ls-remote", &url]));
}

#[test]
fn gh_asks_for_the_user_over_the_unix_socket() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("socket");
    let setup = Setup { unix_socket: Some(socket.clone()), ..Setup::default() };
    let demo = Demo::start(setup).unwrap();
    let config = home.path().join("gh");
    std::fs::create_dir(&config).unwrap();
    let text = format!("version: \"1\"\nhttp_unix_socket: {}\n", socket.display());
    std::fs::write(config.join("config.yml"), text).unwrap();
    let gh = |token: &str, path: &str| {
        let mut command = client("gh", home.path());
        command.args(["api", path]).env("GH_CONFIG_DIR", &config);
        command.env("GH_HOST", "github.localhost").env("GH_TOKEN", token);
        command.env("GH_ENTERPRISE_TOKEN", token);
        run(&mut command, "gh")
    };
    let live = demo.ledger().issue().secret;
    let user = gh(live.expose_str(), "/user");
    succeeds(&user);
    let json: Value = serde_json::from_slice(&user.stdout).unwrap();
    assert_eq!(json["login"], "molecule-demo[bot]");
    succeeds(&gh(live.expose_str(), "/installation/repositories"));
    let refused = gh(demo.ledger().issue_dead().secret.expose_str(), "/user");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("401"), "{refused:?}");
    let rest = demo.ledger().counts().service("rest");
    assert_eq!((rest.live, rest.dead, rest.unknown), (2, 1, 0));
}

#[test]
fn as_a_process_of_its_own_it_says_where_it_is_and_ends_with_its_input() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let dir = tempfile::tempdir().unwrap();
    let repositories = dir.path().join("repositories");
    std::fs::create_dir(&repositories).unwrap();
    let mut command = client(env!("CARGO_BIN_EXE_molecule-tokenfs"), dir.path());
    command.args(["demo-platform", "--life", "90s", "--repository", "work.git", "--git-root"]);
    command.arg(&repositories).args(["--configs-dir", "configs"]);
    let mut platform = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(platform.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let said: Value = serde_json::from_str(&line).unwrap();
    let url = said["url"].as_str().unwrap();
    let bearer = std::fs::read_to_string(dir.path().join(said["bearer_file"].as_str().unwrap()));
    let mut curl = client("curl", dir.path());
    curl.args(["-fsS", "-H", &format!("Authorization: Bearer {}", bearer.unwrap())]);
    let fetched = run(curl.arg(format!("{url}{ADMIN}")), "curl");
    succeeds(&fetched);
    let fetched: Value = serde_json::from_slice(&fetched.stdout).unwrap();
    let credential = format!("username=x\npassword={}\n", fetched["token"].as_str().unwrap());
    std::fs::write(dir.path().join("credential"), credential).unwrap();
    let repository = said["repositories"][0].as_str().unwrap();
    succeeds(&git(dir.path(), &["ls-remote", repository]));
    drop(platform.stdin.take());
    assert!(platform.wait().unwrap().success());
}
