//! What the log says, how loudly, and what it never says.

use std::io::Write;
use std::sync::Mutex;

use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn count(&self, level: &str, words: &str) -> usize {
        self.text().lines().filter(|line| line.contains(level) && line.contains(words)).count()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
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
fn listen() -> (Lines, tracing::subscriber::DefaultGuard) {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    (lines, tracing::subscriber::set_default(subscriber))
}

#[tokio::test(start_paused = true)]
async fn three_identical_failures_are_warnings_the_rest_is_debug_and_the_recovery_one_line() {
    let (lines, _guard) = listen();
    let world = World::of(fail(FetchErrorKind::ServerError));
    let _ = world.open().await;
    pass(10 * MINUTE).await;
    assert_eq!(lines.count("WARN", ": no token"), 3, "{}", lines.text());
    assert_eq!(lines.count("DEBUG", ": no token"), world.requests() - 3);
    // Another failure is news again.
    world.platform().always(fail(FetchErrorKind::Unreachable));
    pass(10 * MINUTE).await;
    assert_eq!(lines.count("WARN", ": no token"), 6, "{}", lines.text());
    world.platform().always(Scripted::NewToken(HOUR));
    pass(HOUR).await;
    assert_eq!(lines.count("INFO", "the source works again"), 1, "{}", lines.text());
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_logged_with_fingerprint_generation_source_and_plan_but_never_the_token() {
    let (lines, _guard) = listen();
    let world = World::of(Scripted::NewToken(HOUR));
    let fresh = world.open_ok().await;
    world.handle.reject(fresh.token().fingerprint());
    pass(2 * HOUR).await;
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
