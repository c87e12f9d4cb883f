//! What the engine logs, how loudly, and what it never logs.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic")]

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use molecule_tokenfs::error::FetchErrorKind;
use molecule_tokenfs::refresh::simulated::{Scripted, ScriptedSource, SimulatedTime};
use molecule_tokenfs::refresh::store::MemoryStore;
use molecule_tokenfs::refresh::{Engine, Handle, Windows};
use molecule_tokenfs::time::Clock;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn count(&self, level: &str, message: &str) -> usize {
        let message = format!("engine: {message} ");
        self.text().lines().filter(|line| line.contains(level) && line.contains(&message)).count()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Everything that is logged on this thread while the guard lives.
fn listen() -> (Lines, DefaultGuard) {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

fn start(standing: Scripted) -> (SimulatedTime, ScriptedSource, Handle) {
    let time = SimulatedTime::new();
    let clock: Arc<dyn Clock> = Arc::new(time.clone());
    let source = ScriptedSource::new("platform", clock.clone(), standing);
    let (handle, engine) = Engine::new(
        vec![Arc::new(source.clone())],
        Windows::default(),
        Arc::new(MemoryStore::default()),
        clock,
        Arc::new(time.clone()),
        7,
    );
    tokio::spawn(engine.run());
    (time, source, handle)
}

#[tokio::test(start_paused = true)]
async fn three_identical_failures_are_warnings_the_rest_is_debug_and_the_recovery_one_line() {
    let (lines, _guard) = listen();
    let (time, source, handle) = start(Scripted::Fail(FetchErrorKind::ServerError));
    let _ = handle.token(None, time.now().boot).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(lines.count("WARN", "no token"), 3, "{}", lines.text());
    assert_eq!(lines.count("DEBUG", "no token"), source.requests().len() - 3);
    // Another failure is news again.
    source.always(Scripted::Fail(FetchErrorKind::Unreachable));
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(lines.count("WARN", "no token"), 6, "{}", lines.text());
    source.always(Scripted::NewToken(HOUR));
    tokio::time::sleep(HOUR).await;
    assert_eq!(lines.count("INFO", "the source works again"), 1, "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_logged_with_fingerprint_generation_source_and_plan_but_never_the_token() {
    let (lines, _guard) = listen();
    let (time, _, handle) = start(Scripted::NewToken(HOUR));
    let fresh = handle.token(None, time.now().boot + MINUTE).await.expect("a token");
    handle.reject(fresh.token().fingerprint(), None);
    tokio::time::sleep(2 * HOUR).await;
    let text = lines.text();
    let first = text.lines().find(|line| line.contains("a new token")).expect("a rotation");
    let fingerprint = fresh.token().fingerprint().to_string();
    for part in ["INFO", &fingerprint, "generation=1", "platform", "left_seconds=3600", "next_ref"]
    {
        assert!(first.contains(part), "{part} is not in {first}");
    }
    assert!(text.lines().count() > 4);
    assert!(!text.contains("ghs_platform"), "{text}");
}
