//! A token in a file: what becomes of each content, and of what is no file.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use molecule_tokenfs::source::SourceName;
use molecule_tokenfs::source::file::FileConfig;
use molecule_tokenfs::time::Clock;

use super::*;

struct Written {
    directory: tempfile::TempDir,
    path: PathBuf,
}

impl Written {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        Self { directory, path }
    }

    fn source(&self) -> Arc<dyn Source> {
        let (name, path) = (SourceName::new("sidecar"), self.path.clone());
        built(SourceConfig::File(FileConfig { name, path, lifetime: Duration::from_mins(20) }))
    }

    fn write(&self, content: &[u8]) {
        std::fs::write(&self.path, content).expect("it is written");
    }

    async fn fails(&self, source: &dyn Source, kind: FetchErrorKind, why: &str) {
        let error = fails(source, kind, &format!("{}: {why}", self.path.display())).await;
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        let explanation = error.explain();
        for word in ["platform", "PLATFORM_URL", "workspace", "bearer"] {
            let words = format!("{} {}", explanation.sentence, explanation.remedy);
            assert!(!words.contains(word), "{words}");
        }
    }
}

fn jwt(expires_in: i64) -> String {
    let now = i64::try_from(SystemClock.now().wall.as_secs()).expect("a time");
    let encode = |part: String| URL_SAFE_NO_PAD.encode(part);
    let body = encode(format!("{{\"exp\":{}}}", now + expires_in));
    format!("{}.{body}.c2ln", encode("{\"alg\":\"none\"}".to_owned()))
}

#[tokio::test]
async fn a_file_is_read_each_time_and_tells_its_expiry_if_it_can() {
    let file = Written::new();
    let source = file.source();
    assert_eq!((source.name(), source.can_replace_rejected()), ("sidecar", true));
    for (content, token) in [("one", "one"), ("two\n", "two"), ("three\r\n", "three")] {
        file.write(content.as_bytes());
        let fetched = fetch(&*source).await.expect("a token");
        assert_eq!(fetched.secret.expose_str(), token);
        assert_eq!(fetched.term, Term::Assumed(Duration::from_mins(20)));
    }
    file.write(format!("{}\n", jwt(600)).as_bytes());
    let fetched = fetch(&*source).await.expect("a token");
    let Term::Until { expires_at, server: None } = fetched.term else {
        panic!("{:?}", fetched.term);
    };
    let left = expires_at.saturating_sub(fetched.issued.wall);
    assert!((598..=600).contains(&left.as_secs()), "{left:?}");
}

#[tokio::test]
async fn what_holds_no_token_is_named_with_its_path_and_without_a_byte_of_it() {
    use FetchErrorKind as Kind;
    let file = Written::new();
    let source = file.source();
    file.fails(&*source, Kind::Unreachable, "it does not exist").await;
    for (content, why) in [
        (b"".to_vec(), "it is empty"),
        (b"\n".to_vec(), "it is empty"),
        (
            b"canary\n\n".to_vec(),
            "the token holds a byte that no token may hold (0x0a at offset 6)",
        ),
        (b"canary\0".to_vec(), "the token holds a byte that no token may hold (0x00 at offset 6)"),
        (b"canary \xff".to_vec(), "the token holds a byte"),
        (vec![b'a'; 64 * 1024 + 1], "the token is longer than 65536 bytes"),
        (vec![b'a'; 64 * 1024 + 100], "it is larger than 64 KiB"),
    ] {
        file.write(&content);
        file.fails(&*source, Kind::BadAnswer, why).await;
    }
    file.write(jwt(-60).as_bytes());
    file.fails(&*source, Kind::BornExpired, "by its `exp` it expired 6").await;
    file.write(&vec![b'a'; 64 * 1024]);
    assert!(fetch(&*source).await.is_ok());
}

#[tokio::test]
async fn a_file_that_is_none_holds_nobody_up() {
    let file = Written::new();
    let source = file.source();
    nix::unistd::mkfifo(&file.path, nix::sys::stat::Mode::S_IRUSR).expect("a FIFO");
    file.fails(&*source, FetchErrorKind::Forbidden, "it is not a regular file but a FIFO").await;
    std::fs::remove_file(&file.path).expect("it is removed");
    // As Kubernetes replaces a secret.
    let versions = file.directory.path().join("..data");
    std::fs::create_dir(&versions).expect("a directory");
    std::fs::write(versions.join("token"), "linked").expect("it is written");
    std::os::unix::fs::symlink("..data/token", &file.path).expect("a link");
    assert_eq!(fetch(&*source).await.expect("a token").secret.expose_str(), "linked");
}
