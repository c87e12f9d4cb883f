//! Every host there is, as one server that notes what it is sent.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::support::dir::TestDir;
use crate::support::namespace;
use crate::tls::Tls;

/// Requests to a host that carried the token, and those that did not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub with: usize,
    pub without: usize,
}

type Requests = Arc<Mutex<Vec<(String, String)>>>;

/// All of these names, over http and https, in a network of this thread's own.
pub struct Recorder {
    /// The host of each request, and all of the request.
    requests: Requests,
    tls: Tls,
    _runtime: Runtime,
}

impl Recorder {
    /// Call it in `sandboxed` only. A request for `/redirect` is sent on to `elsewhere`.
    pub fn start(names: &[&str], elsewhere: &str, dir: &TestDir) -> Self {
        let hosts = format!("127.0.0.1 localhost {}\n", names.join(" "));
        namespace::replace_file(std::path::Path::new("/etc/hosts"), &hosts, dir);
        namespace::private_network(dir);
        let tls = Tls::of(names.iter().copied());
        let requests = Requests::default();
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        // Bound here: the runtime's own threads may be in another network.
        for (port, acceptor) in [(80, None), (443, Some(tls.acceptor()))] {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            let (requests, elsewhere) = (Arc::clone(&requests), elsewhere.to_owned());
            runtime.spawn(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let (requests, elsewhere) = (Arc::clone(&requests), elsewhere.clone());
                    let acceptor = acceptor.clone();
                    tokio::spawn(async move {
                        match acceptor {
                            None => answer(stream, &requests, &elsewhere).await,
                            Some(acceptor) => {
                                answer(acceptor.accept(stream).await?, &requests, &elsewhere).await
                            }
                        }
                    });
                }
            });
        }
        Self { requests, tls, _runtime: runtime }
    }

    /// The certificates to trust.
    pub fn certificates(&self) -> PathBuf {
        self.tls.certificate()
    }

    /// What each host has seen since the last call.
    pub fn seen(&self, token: &str) -> BTreeMap<String, Seen> {
        let mut seen = BTreeMap::<String, Seen>::new();
        for (host, request) in std::mem::take(&mut *self.requests.lock().unwrap()) {
            let seen = seen.entry(host).or_default();
            if carries(&request, token) { seen.with += 1 } else { seen.without += 1 }
        }
        seen
    }
}

/// Whether a token is in a request, as it is or as `Basic` has it (RFC 7617).
fn carries(request: &str, token: &str) -> bool {
    let basic = request.split_whitespace().filter_map(|word| {
        let decoded = base64::engine::general_purpose::STANDARD.decode(word).ok()?;
        String::from_utf8(decoded).ok()
    });
    request.contains(token) || basic.into_iter().any(|decoded| decoded.contains(token))
}

/// Takes one request, as a GitHub that everything is fine with.
async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    requests: &Requests,
    elsewhere: &str,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let request = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            break text.into_owned();
        }
    };
    let host = header(&request, "host").unwrap_or_default().to_owned();
    let path = request.split_whitespace().nth(1).unwrap_or_default().to_owned();
    requests.lock().unwrap().push((host, request));
    let (status, extra) = if path.contains("redirect") {
        ("302 Found", format!("Location: {elsewhere}\r\n"))
    } else if path.contains("info/refs") {
        // git asks for a credential then.
        ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n".to_owned())
    } else {
        ("200 OK", "X-OAuth-Scopes: repo, read:org\r\n".to_owned())
    };
    let body =
        r#"{"data":{"viewer":{"login":"x"},"repository":{"name":"r","owner":{"login":"o"}}}}"#;
    let answer = format!(
        "HTTP/1.1 {status}\r\n{extra}Content-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// A header of a request.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().take_while(|line| !line.is_empty()).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
