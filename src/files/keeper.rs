//! Keeps the files of one token as its engine's word has them.

use std::io;
use std::iter;
use std::sync::Arc;
use std::time::Duration;

use crate::files::Token;
use crate::files::contents::PAGES;
use crate::files::directory::Directory;
use crate::fs::access::Access;
use crate::refresh::Snapshot;
use crate::refresh::timer::Timer;
use crate::status::counters::Counters;
use crate::status::metrics;
use crate::status::{self, Identity, Status};
use crate::time::{Clock, Now};
use crate::token::FreshToken;
use crate::view;

/// Between two tries to write or remove files.
const RETRY: Duration = Duration::from_secs(1);
/// A timer that fires in the very moment could find the token usable for another nanosecond.
const A_LITTLE_LATER: Duration = Duration::from_millis(1);

/// What the keepers of all tokens share.
pub(super) struct Kept {
    pub(super) directory: Directory,
    pub(super) access: Access,
    /// That of the directory itself.
    pub(super) first: Token,
    /// Those that have a directory of their own.
    pub(super) named: Vec<Token>,
}

/// See the module.
pub(super) struct Keeper {
    kept: Arc<Kept>,
    token: Token,
    /// The token whose views are there.
    shown: Option<FreshToken>,
    /// The last attempt to write failed.
    fails: bool,
}

impl Keeper {
    pub(super) fn new(kept: Arc<Kept>, token: Token) -> Self {
        Self { kept, token, shown: None, fails: false }
    }

    /// Keeps them for ever.
    pub(super) async fn run(mut self, clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) {
        let mut changes = self.token.handle.subscribe();
        let mut wall_set = timer.wall_set();
        loop {
            let snapshot = changes.borrow_and_update().clone();
            let next = self.look(&snapshot, &clock.now());
            let wake = async {
                match next {
                    Some(at) => timer.until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                news = changes.changed() => if news.is_err() { return },
                () = &mut wall_set => wall_set = timer.wall_set(),
                () = wake => {}
            }
        }
    }

    /// Brings the files into line, and tells when to look again though nothing changes.
    fn look(&mut self, snapshot: &Snapshot, now: &Now) -> Option<Duration> {
        let fresh = snapshot.usable(None, now);
        let views = match &fresh {
            Some(fresh) if !self.shows(fresh) => self.show(fresh.clone(), now, snapshot.min_life),
            Some(_) => Ok(()),
            None => self.hide(),
        };
        let written = views.and_then(|()| self.kept.write_pages(&self.token, now));
        if let Err(error) = &written
            && !self.fails
        {
            let path = self.kept.directory.path().join(self.token.path(""));
            let path = path.display();
            tracing::error!(
                "cannot keep the files in {path} up to date: {error}; it is tried again"
            );
        }
        self.fails = written.is_err();
        let retry = self.fails.then(|| now.boot.saturating_add(RETRY));
        let withheld = snapshot.rejected.map(|rejection| rejection.withheld_until);
        let judged_anew = match &fresh {
            Some(fresh) => {
                let left = fresh.token().left(now).saturating_sub(snapshot.min_life);
                Some(now.boot.saturating_add(left).saturating_add(A_LITTLE_LATER))
            }
            None => withheld.filter(|until| *until > now.boot && *until != Duration::MAX),
        };
        retry.into_iter().chain(judged_anew).min()
    }

    fn shows(&self, fresh: &FreshToken) -> bool {
        self.shown.as_ref().is_some_and(|it| it.token().generation == fresh.token().generation)
    }

    /// Replaces every view. Where that fails, those that are there stay while they are good.
    fn show(&mut self, fresh: FreshToken, now: &Now, min_life: Duration) -> io::Result<()> {
        let published = fresh.publish(now);
        let rendered: Vec<_> = view::ALL
            .iter()
            .map(|view| (view.path(), view::render(*view, &published, &self.token.views)))
            .collect();
        let mode = self.kept.access.view_mode;
        let files: Vec<_> = rendered
            .iter()
            .map(|(path, bytes)| (self.token.path(path), bytes.as_bytes(), mode))
            .collect();
        let replaced = self.kept.directory.replace(&files);
        if replaced.is_ok() {
            self.shown = Some(fresh);
        } else if self.shown.as_ref().is_none_or(|it| it.token().usable(now, min_life).is_none()) {
            self.hide()?;
        }
        replaced
    }

    /// Removes every view.
    fn hide(&mut self) -> io::Result<()> {
        if self.shown.is_none() {
            return Ok(());
        }
        for view in view::ALL {
            self.kept.directory.remove(&self.token.path(view.path()))?;
        }
        self.shown = None;
        if self.token.is_of_the_directory() {
            tracing::info!("no token may be served: the files are removed until one comes");
        } else {
            let name = &self.token.identity.name;
            tracing::info!(
                "no token `{name}` may be served: its files are removed until one comes"
            );
        }
        Ok(())
    }
}

/// What there is to say of a token.
type Describe = fn(&Identity, &Snapshot, &Counters, &Now) -> Status;

impl Kept {
    pub(super) fn tokens(&self) -> impl Iterator<Item = &Token> {
        iter::once(&self.first).chain(&self.named)
    }

    /// Writes the pages of a token, and those of the directory, which tell of all.
    pub(super) fn write_pages(&self, token: &Token, now: &Now) -> io::Result<()> {
        if !token.is_of_the_directory() {
            self.write(token, &[], now)?;
        }
        self.write(&self.first, &self.named, now)
    }

    /// Writes the pages of a token, which tell of others, too.
    fn write(&self, token: &Token, others: &[Token], now: &Now) -> io::Result<()> {
        let describe = |describe: Describe| {
            let describe =
                |it: &Token| describe(&it.identity, &it.handle.snapshot(), &it.counters, now);
            let mut document = describe(token);
            for other in others {
                document.add(describe(other));
            }
            document
        };
        let document = describe(status::document);
        let reduced = describe(status::document_for_strangers);
        let counters: Vec<_> =
            iter::once(token).chain(others).map(|token| &*token.counters).collect();
        let [status, metrics, full] = PAGES.map(|page| token.path(page));
        let mode = Access::STATUS_MODE;
        self.directory.replace(&[
            (status, &status::padded(&reduced), mode),
            (metrics, &metrics::padded(&document, &counters), mode),
            (full, &status::padded(&document), self.access.view_mode),
        ])
    }
}
