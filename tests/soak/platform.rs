//! The demo platform in a process of its own, ruled through its `/demo/` pages.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Stdio;

use molecule_tokenfs::demo::Address;
use molecule_tokenfs::demo::faults::{Order, Service};
use molecule_tokenfs::demo::ledger::Report;

use crate::support::daemon::tokenfs;
use crate::support::dir::TestDir;
use crate::support::process::{Process, User};
use crate::support::{eventually, secs};

pub struct Platform {
    pub address: Address,
    bearer_file: PathBuf,
    _process: Process,
}

impl Platform {
    /// Starts it with tokens that live this long, and registers the workspace of `dir`.
    pub fn start(dir: &TestDir, life: &str) -> Self {
        let configs = dir.join("configs");
        let mut command = tokenfs(dir, User::Own);
        command.args(["demo-platform", "--life", life, "--configs-dir"]).arg(&configs);
        // It ends with its standard input, which this process holds.
        command.stdin(Stdio::piped());
        let process = Process::start(command, "platform", dir);
        let address = eventually("the platform says where it is", secs(10), || {
            serde_json::from_str(&process.stdout()).ok()
        });
        Self { address, bearer_file: configs.join(".auth_token"), _process: process }
    }

    /// The next requests meet `script`, one each, and all after them `sticky`.
    pub fn fail(&self, script: &[&str], sticky: Option<&str>) {
        let order = Order {
            service: Service::Platform,
            script: script.iter().map(|&fault| fault.to_owned()).collect(),
            sticky: sticky.map(str::to_owned),
            latency_ms: 0,
        };
        self.ask("POST /demo/fault", &serde_json::to_string(&order).unwrap());
    }

    /// The bearer file is replaced by the same bearer: the daemon tries again at once.
    pub fn register_anew(&self) {
        let new = self.bearer_file.with_extension("new");
        fs::copy(&self.bearer_file, &new).expect("the bearer file is copied");
        fs::rename(new, &self.bearer_file).expect("the bearer file is replaced");
    }

    /// Everything that it issued and saw.
    pub fn report(&self) -> Report {
        serde_json::from_slice(&self.ask("GET /demo/ledger", "")).expect("a report")
    }

    fn ask(&self, what: &str, body: &str) -> Vec<u8> {
        let host = self.address.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(host).expect("the platform is there");
        let length = body.len();
        write!(
            stream,
            "{what} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        answer.split_off(end + 4)
    }
}
