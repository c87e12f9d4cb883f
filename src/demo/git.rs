//! A smart-HTTP git server: `git http-backend` behind the ledger's check.
//!
//! The server speaks CGI (RFC 3875) to `git-http-backend(1)`, streaming both ways, so that clones
//! and pushes of any size work as they do against GitHub.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command as StdCommand, Stdio};
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use hyper::{Request, Response, StatusCode};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::demo::faults::Service;
use crate::demo::ledger::{Ledger, Verdict};
use crate::demo::reply::{Body, plain};
use crate::demo::rest;
use crate::spawn;

/// What paths of the git server begin with.
pub(super) const PREFIX: &str = "/git";

/// The longest head that a CGI program may answer with.
const MAX_CGI_HEAD: u64 = 16 * 1024;

/// Answers one request of a git client.
pub(super) async fn answer(
    ledger: &Ledger,
    root: Option<&Path>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(root) = root else {
        return plain(StatusCode::NOT_FOUND, "this demo has no repositories");
    };
    let password = rest::credential(request.headers());
    let repository = repository(request.uri().path());
    match ledger.check_for(Service::Git.name(), password.as_deref(), repository) {
        Some(Verdict::Live) => {}
        Some(Verdict::OutOfScope) => {
            return plain(StatusCode::NOT_FOUND, "Repository not found.\n");
        }
        _ => return refusal(),
    }
    match backend(root, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, "git http-backend cannot answer; is git installed?");
            plain(StatusCode::INTERNAL_SERVER_ERROR, "git http-backend cannot answer\n")
        }
    }
}

/// Owner and name of the repository that a path is about: `/git/OWNER/NAME.git/…`.
pub(super) fn repository(path: &str) -> Option<(&str, &str)> {
    let (owner, rest) = path.strip_prefix(PREFIX)?.strip_prefix('/')?.split_once('/')?;
    let (name, _) = rest.split_once('/').unwrap_or((rest, ""));
    Some((owner, name.strip_suffix(".git").unwrap_or(name)))
}

/// 401 as git and git-lfs understand it: they ask a credential helper.
pub(super) fn refusal() -> Response<Body> {
    let mut response = plain(StatusCode::UNAUTHORIZED, "a live token is needed\n");
    let realm = HeaderValue::from_static("Basic realm=\"the demo's git server\"");
    response.headers_mut().insert(WWW_AUTHENTICATE, realm);
    response
}

async fn backend(root: &Path, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let header = |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut command = Command::from(git(root)?);
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path().trim_start_matches(PREFIX))
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("REMOTE_USER", "x-access-token")
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Away from the terminal's signals: it ends with its request, and stops for nobody.
        .process_group(0)
        .kill_on_drop(true);
    for (variable, value) in [
        ("CONTENT_TYPE", header(CONTENT_TYPE)),
        ("CONTENT_LENGTH", header(CONTENT_LENGTH)),
        ("HTTP_CONTENT_ENCODING", header(CONTENT_ENCODING)),
        ("GIT_PROTOCOL", header(HeaderName::from_static("git-protocol"))),
    ] {
        if let Some(value) = value {
            command.env(variable, value);
        }
    }
    let mut child = command.spawn()?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    tokio::spawn(feed(body, stdin));
    let mut stdout = BufReader::new(stdout);
    let mut response = Response::new(());
    read_head(&mut stdout, &mut response).await?;
    Ok(response.map(|()| ProcessBody { stdout, _child: child }.boxed_unsync()))
}

/// The request's body on its way into the process. That the process stops reading is its right.
async fn feed(mut body: Incoming, mut stdin: ChildStdin) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(data) = frame.data_ref() else { continue };
        if stdin.write_all(data).await.is_err() {
            return;
        }
    }
}

/// Reads a CGI head: header lines up to an empty one, `Status` among them (RFC 3875 §6).
async fn read_head(
    stdout: &mut BufReader<ChildStdout>,
    response: &mut Response<()>,
) -> io::Result<()> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a CGI answer");
    let mut head = stdout.take(MAX_CGI_HEAD);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).await? == 0 {
            return Err(bad());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(());
        }
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split(' ').next().unwrap_or_default();
            *response.status_mut() = code.parse().map_err(|_| bad())?;
        } else {
            let name: HeaderName = name.parse().map_err(|_| bad())?;
            response.headers_mut().insert(name, value.parse().map_err(|_| bad())?);
        }
    }
}

/// What a process writes, as a body. The process is killed when the client goes away.
struct ProcessBody {
    stdout: BufReader<ChildStdout>,
    _child: Child,
}

impl hyper::body::Body for ProcessBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut space = [0; 16 * 1024];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stdout).poll_read(context, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(None),
            Poll::Ready(Ok(())) => {
                Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(buffer.filled())))))
            }
        }
    }
}

/// Makes a bare repository `name` with one commit on `main`, ready to be pushed to.
pub(super) fn create_repository(root: &Path, name: &str) -> io::Result<PathBuf> {
    let path = root.join(name);
    let run = |arguments: &[&OsStr]| -> io::Result<String> {
        let output = git(root)?.args(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("git {arguments:?} failed: {}", said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let directory = path.as_os_str();
    let word = OsStr::new;
    run(&[word("init"), word("--quiet"), word("--bare"), directory])?;
    let inside = |arguments: &[&str]| {
        let mut all = vec![word("-C"), directory];
        all.extend(arguments.iter().map(OsStr::new));
        run(&all)
    };
    inside(&["symbolic-ref", "HEAD", "refs/heads/main"])?;
    let tree = inside(&["hash-object", "-w", "-t", "tree", "--stdin"])?;
    let commit = inside(&["commit-tree", "-m", "The demo begins", &tree])?;
    inside(&["update-ref", "refs/heads/main", &commit])?;
    Ok(path)
}

/// `git` as the server runs it: with no configuration but this.
fn git(root: &Path) -> io::Result<StdCommand> {
    let mut command = spawn::command("git").map_err(|missing| {
        io::Error::other(format!("{missing}; install it: apt-get install git"))
    })?;
    for inherited in [
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_CONFIG_PARAMETERS",
        "GIT_TRACE",
        "GIT_TRACE_CURL",
        "GIT_CURL_VERBOSE",
        "XDG_CONFIG_HOME",
    ] {
        command.env_remove(inherited);
    }
    let settings = [("http.receivepack", "true"), ("safe.directory", "*"), ("gc.auto", "0")];
    command.env("GIT_CONFIG_COUNT", settings.len().to_string());
    for (index, (key, value)) in settings.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{index}"), key);
        command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
    }
    command
        .current_dir(root)
        .env("HOME", root)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "The demo")
        .env("GIT_AUTHOR_EMAIL", "demo@localhost")
        .env("GIT_COMMITTER_NAME", "The demo")
        .env("GIT_COMMITTER_EMAIL", "demo@localhost");
    Ok(command)
}
