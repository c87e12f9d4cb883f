//! A server of a test's own that speaks whatever it wants.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::secs;

/// A server on the loopback interface. Each connection has a thread; dropping the value ends them all.
pub struct Server {
    url: String,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What a connection's thread writes to. A write fails once the client is gone, or the server ends.
pub struct Answer {
    stream: TcpStream,
    stop: Arc<AtomicBool>,
}

impl Answer {
    /// Writes all of it. `false`: there is no sense in going on.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Writes this again and again for as long as anybody takes it.
    pub fn send_for_ever(&mut self, bytes: impl AsRef<[u8]>) {
        while self.send(&bytes) {}
    }
}

impl Server {
    /// `answer` gets the head of each request. The connection is closed when it returns.
    pub fn start(answer: impl Fn(&str, &mut Answer) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let (stop, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (answer, stopped, counted) =
            (Arc::new(answer), Arc::clone(&stop), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            let mut connections = Vec::new();
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                connections.retain(|connection: &JoinHandle<()>| !connection.is_finished());
                let (answer, stop) = (Arc::clone(&answer), Arc::clone(&stopped));
                let counted = Arc::clone(&counted);
                connections.push(std::thread::spawn(move || {
                    stream.set_nodelay(true).ok();
                    stream.set_read_timeout(Some(secs(2))).expect("a time limit");
                    stream.set_write_timeout(Some(secs(2))).expect("a time limit");
                    let mut answering = Answer { stream, stop };
                    if let Some(head) = head(&mut answering.stream) {
                        counted.fetch_add(1, Ordering::Relaxed);
                        answer(&head, &mut answering);
                    }
                }));
            }
            for connection in connections {
                connection.join().ok();
            }
        });
        Self { url, stop, requests, thread: Some(thread) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it.
        TcpStream::connect(self.url.trim_start_matches("http://")).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A request up to its first empty line.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.extend_from_slice(&byte);
    }
    String::from_utf8(head).ok()
}

/// The bearer that a request came with.
pub fn bearer(head: &str) -> Option<&str> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization:"))?;
    line.split_once("Bearer ").map(|(_, bearer)| bearer.trim())
}
