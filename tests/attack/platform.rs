//! The platform that the daemon knows: the demo platform, and servers that take its place for a while.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::server::{Answer, Server};
use crate::support::{millis, secs};
use crate::timeline::boot;

/// What only root may read in the daemon's surroundings. It has a bearer's form.
pub const ROOTS_SECRET: &str = "canary-of-root-0123456789";

/// Answers a request with this head.
pub type Answers = fn(&str, &mut Answer);

/// The server at the daemon's `PLATFORM_URL`.
pub struct Front {
    server: Server,
    bad: Arc<Mutex<Option<Answers>>>,
    leaked: Arc<AtomicU64>,
}

impl Front {
    /// Before the demo platform at this host.
    pub fn start(host: &str) -> Self {
        let (bad, leaked) = (Arc::new(Mutex::new(None::<Answers>)), Arc::new(AtomicU64::new(0)));
        let (now, counted, host) = (Arc::clone(&bad), Arc::clone(&leaked), host.to_owned());
        let server = Server::start(move |head: &str, to: &mut Answer| {
            if head.contains(ROOTS_SECRET) || head.contains("Bearer ghs_") {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            let bad = *now.lock().unwrap();
            match bad {
                Some(answer) => answer(head, to),
                None => relay(&host, head, to),
            }
        });
        Self { server, bad, leaked }
    }

    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.server.requests()
    }

    /// This one answers from now on; `None`: the demo platform does.
    pub fn answer_with(&self, bad: Option<Answers>) {
        *self.bad.lock().unwrap() = bad;
    }

    /// Requests that came with [`ROOTS_SECRET`], or with a token, as the bearer.
    pub fn leaked(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }
}

/// Hands a request on. One that hangs is given up when the daemon has long done so.
fn relay(host: &str, head: &str, to: &mut Answer) {
    let Ok(mut stream) = TcpStream::connect(host) else { return };
    stream.set_read_timeout(Some(millis(200))).expect("a time limit");
    let head = head.trim_end().to_owned() + "\r\nConnection: close\r\n\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let end = boot() + secs(4);
    let mut bytes = [0; 16384];
    while boot() < end {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                if !to.send(&bytes[..length]) {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && to.send("") => {}
            Err(_) => return,
        }
    }
}
