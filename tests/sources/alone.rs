//! Runs one test in a process of its own, where it needs another environment.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MARK: &str = "MOLECULE_TOKENFS_TEST_ALONE";
const LIMIT: Duration = Duration::from_mins(1);

/// `true` in that process. Elsewhere it starts it with these variables, waits for its success, and
/// says `false`: there is nothing left to do.
#[expect(clippy::disallowed_methods, reason = "a test's own environment and clock")]
pub fn alone(test: &str, environment: &[(&str, &str)]) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let mut child = Command::new(std::env::current_exe().expect("this executable"))
        .args(["--exact", test])
        .env(MARK, "1")
        .envs(environment.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test starts once more");
    let start = Instant::now();
    while child.try_wait().expect("its state").is_none() {
        if start.elapsed() > LIMIT {
            child.kill().expect("it can be killed");
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
    false
}
