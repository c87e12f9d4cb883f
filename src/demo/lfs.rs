//! A git-lfs server: the batch API with `basic` transfers, behind the ledger's check.
//!
//! `…/REPOSITORY/info/lfs/objects/batch` says where objects are to be had or put: at
//! `…/objects/OID` of the same server, which checks a token on every request. They are kept under
//! `lfs/objects` of the repository, as git-lfs itself does. Locks and the `verify` action are not
//! there. Specification: `batch.md` and `basic-transfers.md` of git-lfs.

use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::demo::faults::Service;
use crate::demo::git::{self, PREFIX, refusal};
use crate::demo::ledger::{Ledger, Verdict};
use crate::demo::reply::{Body, plain, respond};
use crate::demo::rest;

/// What comes between the path of a repository and that of the interface.
const INFIX: &str = "/info/lfs/";

/// The largest object, and the largest list of objects, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Whether a path of the git server belongs to git-lfs.
pub(super) fn is_endpoint(path: &str) -> bool {
    path.contains(INFIX)
}

/// Answers one request of a git-lfs client.
pub(super) async fn answer(
    ledger: &Ledger,
    root: Option<&Path>,
    request: Request<Incoming>,
) -> Response<Body> {
    let token = rest::credential(request.headers());
    let repository = git::repository(request.uri().path());
    match ledger.check_for(Service::Lfs.name(), token.as_deref(), repository) {
        Some(Verdict::Live) => {}
        Some(Verdict::OutOfScope) => {
            return plain(StatusCode::NOT_FOUND, "Repository not found.\n");
        }
        _ => return refusal(),
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let found = path.split_once(INFIX).and_then(|(repository, rest)| {
        let store = Store::of(root?, repository.strip_prefix(PREFIX)?)?;
        let host = parts.headers.get(HOST)?.to_str().ok()?;
        Some((store, rest, format!("http://{host}{repository}{INFIX}objects/")))
    });
    let Some((store, rest, objects)) = found else {
        return error(StatusCode::NOT_FOUND, "there is no such repository");
    };
    let Ok(body) = Limited::new(body, MAX_BODY_BYTES).collect().await else {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "the demo takes 64 MiB at most");
    };
    let body = body.to_bytes();
    let oid = rest.strip_prefix("objects/").and_then(Oid::parse);
    match (&parts.method, oid) {
        (&Method::POST, None) if rest == "objects/batch" => batch(&store, &objects, &body),
        (&Method::GET, Some(oid)) => match store.read(oid) {
            Ok(object) => respond(StatusCode::OK, "application/octet-stream", object.into()),
            Err(why) => failure(&why),
        },
        (&Method::PUT, Some(oid)) => match store.write(oid, &body) {
            Ok(()) => respond(StatusCode::OK, MEDIA_TYPE, Bytes::new()),
            Err(why) => failure(&why),
        },
        _ => error(StatusCode::NOT_FOUND, "the demo does not know this part of git-lfs"),
    }
}

/// The type of every answer but an object.
const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Download,
    Upload,
}

/// A batch request, as far as the `basic` transfer needs it.
#[derive(Deserialize)]
struct Batch {
    operation: Operation,
    objects: Vec<Wanted>,
}

#[derive(Deserialize)]
struct Wanted {
    oid: String,
    size: u64,
}

/// Says for each object what to do about it. `objects` is the URL that their names follow.
fn batch(store: &Store, objects: &str, body: &[u8]) -> Response<Body> {
    let batch = match serde_json::from_slice::<Batch>(body) {
        Ok(batch) => batch,
        Err(why) => return error(StatusCode::UNPROCESSABLE_ENTITY, &why.to_string()),
    };
    let answers = batch.objects.iter().map(|Wanted { oid, size }| {
        let mut answer = json!({ "oid": oid, "size": size });
        let (key, value) = match (Oid::parse(oid), batch.operation) {
            (None, _) => ("error", json!({ "code": 422, "message": "no SHA-256" })),
            (Some(it), Operation::Download) if store.has(it) => {
                ("actions", json!({ "download": { "href": format!("{objects}{oid}") } }))
            }
            (Some(_), Operation::Download) => {
                ("error", json!({ "code": 404, "message": "there is no such object" }))
            }
            // Nothing to do is told by no actions.
            (Some(it), Operation::Upload) if store.has(it) => return answer,
            (Some(_), Operation::Upload) => {
                ("actions", json!({ "upload": { "href": format!("{objects}{oid}") } }))
            }
        };
        if let Value::Object(fields) = &mut answer {
            fields.insert(key.to_owned(), value);
        }
        answer
    });
    let answers = json!({ "transfer": "basic", "objects": answers.collect::<Vec<_>>() });
    respond(StatusCode::OK, MEDIA_TYPE, answers.to_string().into())
}

fn error(status: StatusCode, message: &str) -> Response<Body> {
    respond(status, MEDIA_TYPE, json!({ "message": message }).to_string().into())
}

fn failure(why: &io::Error) -> Response<Body> {
    let status = match why.kind() {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::InvalidData => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    error(status, &why.to_string())
}

/// The name of an object: its SHA-256 in 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Oid<'a>(&'a str);

impl<'a> Oid<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (digits && text.len() == 64).then_some(Self(text))
    }

    fn names(self, object: &[u8]) -> bool {
        let hex = digest(&SHA256, object).as_ref().iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        hex == self.0
    }
}

/// The objects of one repository.
struct Store(PathBuf);

impl Store {
    /// `None`: there is no repository at this path, or it leads out of `root`.
    fn of(root: &Path, repository: &str) -> Option<Self> {
        let repository = Path::new(repository.trim_start_matches('/'));
        let inside = repository.components().all(|part| matches!(part, Component::Normal(_)));
        let repository = root.join(repository);
        (inside && repository.join("HEAD").is_file())
            .then(|| Self(repository.join("lfs").join("objects")))
    }

    fn has(&self, oid: Oid<'_>) -> bool {
        self.path(oid).is_file()
    }

    fn read(&self, oid: Oid<'_>) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(oid))
    }

    /// Keeps an object, unless its name is not its own.
    fn write(&self, oid: Oid<'_>, object: &[u8]) -> io::Result<()> {
        if !oid.names(object) {
            return Err(io::Error::new(ErrorKind::InvalidData, "the object has another SHA-256"));
        }
        let path = self.path(oid);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, object)
    }

    /// `ab/cd/abcd…`, as in a clone.
    fn path(&self, Oid(oid): Oid<'_>) -> PathBuf {
        let part = |range| oid.get(range).unwrap_or_default();
        self.0.join(part(0..2)).join(part(2..4)).join(oid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf x | sha256sum`
    const X: &str = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

    #[test]
    fn an_object_is_kept_under_its_own_name_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("work.git")).unwrap();
        assert!(Store::of(root.path(), "/work.git").is_none(), "it is no repository yet");
        std::fs::write(root.path().join("work.git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let store = Store::of(root.path(), "/work.git").unwrap();
        let oid = Oid::parse(X).unwrap();
        assert_eq!(store.write(oid, b"y").unwrap_err().kind(), ErrorKind::InvalidData);
        assert!(!store.has(oid));
        store.write(oid, b"x").unwrap();
        assert_eq!(store.read(oid).unwrap(), b"x");
        assert!(store.0.join("2d/71").join(X).is_file());
    }

    #[test]
    fn nothing_outside_the_root_is_a_repository_and_no_path_a_name() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("HEAD"), "").unwrap();
        let root = outside.path().join("root");
        std::fs::create_dir(&root).unwrap();
        for path in ["/..", "/../root/..", "/./../"] {
            assert!(Store::of(&root, path).is_none(), "{path}");
        }
        for name in ["", "batch", "../../HEAD", &X[1..], &X.to_uppercase()] {
            assert_eq!(Oid::parse(name), None, "{name}");
        }
    }
}
