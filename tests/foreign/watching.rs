//! A file of somebody else's that is read and watched by file readers, without a daemon.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use molecule_tokenfs::foreign::{Launcher, Request, Unreadable, WatchedFile};
use tokio::time::timeout;

use crate::support::daemon::PROGRAM;
use crate::support::millis;
use crate::support::secs;

/// Long enough for a loaded machine; a test that waits this long has failed.
const SOON: Duration = secs(20);
/// How long nothing must happen; longer than what a look may be put off.
const QUIET: Duration = millis(600);

fn launcher(program: &str) -> Arc<Launcher> {
    Arc::new(Launcher::new(File::open(program).expect("a program")))
}

fn watched(path: &Path) -> WatchedFile {
    WatchedFile::new(Request::file(path, 1024), launcher(PROGRAM))
}

async fn wakes(file: &WatchedFile, because: &str) {
    timeout(SOON, file.changed()).await.unwrap_or_else(|_| panic!("not woken: {because}"));
}

async fn sleeps(file: &WatchedFile, although: &str) {
    assert!(timeout(QUIET, file.changed()).await.is_err(), "woken: {although}");
}

async fn settles(file: &WatchedFile) {
    while timeout(QUIET * 3, file.changed()).await.is_ok() {}
}

#[tokio::test]
async fn a_file_wakes_when_it_appears_changes_is_replaced_and_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bearer");
    let file = watched(&path);
    assert_eq!(file.read().await.unwrap_err(), Unreadable::Missing);
    sleeps(&file, "it is not there").await;
    fs::write(&path, "one").unwrap();
    wakes(&file, "it appeared").await;
    // The end of the write may be reported apart from its beginning.
    settles(&file).await;
    assert_eq!(file.read().await.unwrap().as_slice(), b"one");
    fs::write(directory.path().join("other"), "x").unwrap();
    sleeps(&file, "another file appeared").await;

    fs::write(directory.path().join("new"), "two").unwrap();
    fs::rename(directory.path().join("new"), &path).unwrap();
    wakes(&file, "another file was renamed onto it").await;
    fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
    wakes(&file, "its mode changed").await;
    fs::remove_file(&path).unwrap();
    wakes(&file, "it was removed").await;
    sleeps(&file, "all was reported").await;
}

#[tokio::test]
async fn a_change_while_nobody_waits_is_reported_to_the_next_who_does_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bearer");
    let file = watched(&path);
    file.read().await.unwrap_err();
    fs::write(&path, "one").unwrap();
    wakes(&file, "it appeared before anybody waited").await;
    sleeps(&file, "that was reported").await;
    fs::write(&path, "three").unwrap();
    file.read().await.unwrap();
    sleeps(&file, "it was read since").await;
}

#[tokio::test]
async fn directories_may_come_later_and_all_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/bearer");
    let file = watched(&path);
    file.read().await.unwrap_err();
    let waiting = file.changed();
    let making = async {
        fs::create_dir(directory.path().join("a")).unwrap();
        tokio::time::sleep(QUIET).await;
        fs::create_dir(directory.path().join("a/b")).unwrap();
        tokio::time::sleep(QUIET).await;
        fs::write(&path, "one").unwrap();
    };
    let (woken, ()) = tokio::join!(timeout(SOON, waiting), making);
    woken.expect("woken when the file came");

    settles(&file).await;
    let waiting = file.changed();
    let moving = async {
        tokio::time::sleep(QUIET).await;
        fs::rename(directory.path().join("a"), directory.path().join("away")).unwrap();
    };
    let (woken, ()) = tokio::join!(timeout(SOON, waiting), moving);
    woken.expect("woken when a directory above went away");
}

#[tokio::test]
async fn a_link_that_is_swapped_on_the_way_wakes() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for version in ["v1", "v2"] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("bearer"), version).unwrap();
    }
    symlink("v1", at("data")).unwrap();
    symlink("data/bearer", at("bearer")).unwrap();
    let file = watched(&at("bearer"));
    assert_eq!(file.read().await.unwrap().as_slice(), b"v1");
    sleeps(&file, "nothing changed").await;
    symlink("v2", at("data.new")).unwrap();
    fs::rename(at("data.new"), at("data")).unwrap();
    wakes(&file, "the link points elsewhere").await;
    assert_eq!(file.read().await.unwrap().as_slice(), b"v2");
    // The target changes in a directory that is not watched.
    fs::write(at("v2").join("bearer"), "v2, changed").unwrap();
    wakes(&file, "the linked file changed in place").await;
}

#[tokio::test]
async fn a_file_reader_that_answers_nonsense_is_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("bearer");
    fs::write(&path, "one").unwrap();
    // They say nothing, repeat the request once and for ever, and fail.
    for program in ["/bin/true", "/bin/echo", "/usr/bin/yes", "/bin/false", "/bin/cat"] {
        let file = WatchedFile::new(Request::file(&path, 1024), launcher(program));
        for _ in 0..5 {
            assert_eq!(file.read().await.unwrap_err(), Unreadable::Broken, "{program}");
        }
    }
    let file = WatchedFile::new(Request::file(&path, 1024), launcher("/etc/passwd"));
    let why = file.read().await.unwrap_err();
    assert_eq!(why, Unreadable::NotStarted { errno: libc::EACCES });
}

#[tokio::test]
async fn many_reads_put_off_the_next_change_by_no_more_than_a_few_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bearer");
    fs::write(&path, "one").unwrap();
    let file = watched(&path);
    // Each of them is a process, as many as in a minute of changes at a steady pace.
    for _ in 0..60 {
        file.read().await.unwrap();
    }
    fs::write(&path, "another").unwrap();
    wakes(&file, "it was changed").await;
}
