//! Asking file readers from a runtime, with a deadline, and never too many at a time.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use zeroize::Zeroizing;

use super::answer::{self, Answer, Found, Unreadable};
use super::{LIMIT, Launcher, Request, Running};

/// How many file readers of one file may hang at a time.
const MOST_HUNG: usize = 2;
/// One that has answered is gone within this.
const END_OF_A_READER: Duration = Duration::from_millis(100);

/// A file of somebody else's.
pub struct ForeignFile {
    pub(super) request: Request,
    path: std::path::PathBuf,
    launcher: Arc<Launcher>,
    /// File readers that have not ended.
    running: Arc<AtomicUsize>,
    /// Tells that one which hung has ended.
    pub(super) freed: Arc<Notify>,
}

impl ForeignFile {
    /// A file, there or not.
    #[must_use]
    pub fn new(request: Request, launcher: Arc<Launcher>) -> Self {
        let path = request.directory.join(&request.name);
        Self { request, path, launcher, running: Arc::default(), freed: Arc::default() }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes, in [`LIMIT`].
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn read(&self) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
        self.read_found().await.map(|found| found.content)
    }

    /// The same with its mode.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub async fn read_found(&self) -> Result<Found, Unreadable> {
        self.ask(&self.request, None, Instant::now() + LIMIT).await?.found
    }

    /// Asks a file reader; `watch` is the inotify instance that it sets watches on.
    pub(super) async fn ask(
        &self,
        request: &Request,
        watch: Option<OwnedFd>,
        deadline: Instant,
    ) -> Result<Answer, Unreadable> {
        self.wait_for_room().await?;
        let mut running = self.launcher.start(request, watch)?;
        let (answer, asked) = oneshot::channel();
        let process = Process::of(&self.running);
        let (request, freed) = (request.clone(), Arc::clone(&self.freed));
        // A task of its own: whoever asks may give up, and the process may not end.
        tokio::spawn(async move {
            let is_late = running.answer(&request, answer, deadline).await;
            running.end().await;
            drop(process);
            if is_late {
                freed.notify_one();
            }
        });
        asked.await.unwrap_or(Err(Unreadable::Broken))
    }

    async fn wait_for_room(&self) -> Result<(), Unreadable> {
        let is_full = || self.running.load(Ordering::Relaxed) >= MOST_HUNG;
        if is_full() {
            sleep(END_OF_A_READER).await;
        }
        if is_full() { Err(Unreadable::Hung) } else { Ok(()) }
    }
}

impl Running {
    /// Hands the answer on; tells whether it was given up.
    async fn answer(
        &mut self,
        request: &Request,
        mut asker: oneshot::Sender<Result<Answer, Unreadable>>,
        deadline: Instant,
    ) -> bool {
        let answer = tokio::select! {
            answer = self.read_async(request) => answer,
            () = sleep_until(deadline) => Err(Unreadable::Late),
            () = asker.closed() => Err(Unreadable::Late),
        };
        let is_late = answer == Err(Unreadable::Late);
        asker.send(answer).ok();
        is_late
    }

    async fn read_async(&self, request: &Request) -> Result<Answer, Unreadable> {
        let read = async {
            let mut pipe = Receiver::from_owned_fd(self.answer.try_clone()?.into())?;
            let mut buffer = answer::buffer(request);
            let mut length = 0;
            while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
                match pipe.read(room).await? {
                    0 => return Ok((buffer, length)),
                    read => length += read,
                }
                if Answer::is_whole(buffer.get(..length).unwrap_or_default()) {
                    return Ok((buffer, length));
                }
            }
            Err(io::Error::from(io::ErrorKind::InvalidData))
        };
        let (buffer, length) = read.await.map_err(|_: io::Error| Unreadable::Broken)?;
        Answer::parse(buffer.get(..length).unwrap_or_default(), request)
    }

    /// Ends the process, and completes when it is reaped: at once, or, where its file system hangs, when
    /// that comes back.
    async fn end(mut self) {
        /// Between two looks at one that hangs.
        const LONGEST: Duration = Duration::from_secs(10);
        self.kill();
        let mut pause = Duration::from_millis(1);
        while !self.has_ended() {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST);
        }
    }
}

/// Counts a process until it is dropped.
struct Process(Arc<AtomicUsize>);

impl Process {
    fn of(running: &Arc<AtomicUsize>) -> Self {
        running.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(running))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
