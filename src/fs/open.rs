//! Who may open what when: the rules for generations, marks and live inodes.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::journal::{Call, Waits};
use super::tables::Mark;
use super::{Cache, Fs, Open, Opened, Request};
use crate::caller::Caller;
use crate::error::{ReadError, ReadErrorKind};
use crate::token::FreshToken;

/// How long an open whose deadline has passed, as after a stop, waits for its view to show what is there:
/// a rotation takes some milliseconds, and with it `fstat` tells the size of what is read. Who waits for
/// the deadline is not told much later.
const LAST_MOMENT: Duration = Duration::from_millis(75);

/// An open that waits this much longer than it may was answered without our hearing of it.
const GIVEN_UP: Duration = Duration::from_mins(1);

/// A name leads to a generation for [`NAME_TTL`](super::NAME_TTL) at most. This long after that
/// generation has passed, no path walk can still be on its way to it.
const PASSED_LONG_AGO: Duration = Duration::from_secs(5);

impl Fs {
    pub(super) fn open_generation(
        self: &Arc<Self>,
        request: &Request,
        call: &Call,
        generation: u64,
        view: u8,
    ) -> Open {
        let marks = &self.connection.shared().marks;
        let mark = marks.take(&self.connection.writers, request.caller.thread, request.unique);
        let keep = Opened { handle: generation, cache: Cache::Keep };
        // The open before a second look has waited already.
        let patient = mark.is_none() && self.is_patient(request, view);
        let caller = Some(request.caller);
        // Nearly every open.
        if self.place.current(view) == generation && self.serves(generation, caller, patient) {
            return Open::Now(Ok(keep));
        }
        let fresh = self.usable(caller, patient);
        // A patient open does not take an older token, though others may.
        let may_serve = |fresh: &FreshToken| {
            if patient {
                fresh.token().generation == generation
            } else {
                self.may_serve(generation, caller, fresh)
            }
        };
        if generation != 0 && fresh.as_ref().is_some_and(may_serve) {
            let is_current = self.place.current(view) == generation;
            let is_the_second_look =
                mark.is_some_and(|mark| mark.view == view && generation >= mark.generation);
            if is_current || is_the_second_look || self.is_spared() {
                return Open::Now(Ok(keep));
            }
        }
        let may_look_again =
            mark.is_none() && !self.is_spared() && !self.passed_long_ago(generation);
        if let Some(fresh) = fresh
            && (!may_look_again || self.shows(view, &fresh))
        {
            return Open::Now(self.look_again(request, view, &fresh, may_look_again));
        }
        self.wait(request, call, view, patient, move |fs, request, fresh| {
            // What the source gave may be the very token that was there.
            if generation == fresh.token().generation && fs.place.current(view) == generation {
                return Some(Ok(keep));
            }
            let is_settled = !may_look_again || fs.shows(view, fresh);
            is_settled.then(|| fs.look_again(request, view, fresh, may_look_again))
        })
    }

    /// Whether an open of this view waits for a token that lasts. It does not if there is no room to wait.
    fn is_patient(&self, request: &Request, view: u8) -> bool {
        self.held.contains(&view) && self.connection.shared().journal.has_room(request.unique)
    }

    /// Whether a generation may be served at once.
    fn serves(&self, generation: u64, caller: Option<Caller>, patient: bool) -> bool {
        if patient {
            self.token.serves_lasting(generation, caller)
        } else {
            self.token.serves(generation, caller)
        }
    }

    /// The token that may be served at once.
    fn usable(&self, caller: Option<Caller>, patient: bool) -> Option<FreshToken> {
        if patient { self.token.usable_and_lasting(caller) } else { self.token.usable(caller) }
    }

    /// Whether the reader may already be on its second path walk, unknown to us: then it is served what
    /// it found.
    fn is_spared(&self) -> bool {
        self.connection.is_spared(self.clock.now().boot)
    }

    /// Whether no path can have led to this generation any more: its inode is bound, or held by a file
    /// system above or by a listener (`fanotify(7)`). To these the kernel would pass ESTALE on.
    fn passed_long_ago(&self, generation: u64) -> bool {
        let passed_at = self.state.passed_at(generation);
        passed_at.is_some_and(|at| self.clock.now().boot.saturating_sub(at) >= PASSED_LONG_AGO)
    }

    /// Whether a view already shows the generation of a token.
    fn shows(&self, view: u8, fresh: &FreshToken) -> bool {
        self.place.current(view) >= fresh.token().generation
    }

    /// Whether a generation's own token may be served. It nearly always is the one just judged.
    fn may_serve(&self, generation: u64, caller: Option<Caller>, fresh: &FreshToken) -> bool {
        fresh.token().generation == generation
            || self
                .state
                .generation(generation)
                .is_some_and(|generation| self.token.accepts(&generation.token, caller))
    }

    /// The inode is not what its view shows: let the kernel look the name up again, if this thread
    /// has not just done so; else serve the newest generation through this very handle.
    fn look_again(
        &self,
        request: &Request,
        view: u8,
        fresh: &FreshToken,
        may_look_again: bool,
    ) -> Result<Opened, Errno> {
        let mark = Mark { view, generation: self.place.current(view) };
        let (marks, thread) = (&self.connection.shared().marks, request.caller.thread);
        let now = self.clock.now().boot;
        if may_look_again && marks.set(&self.connection.writers, thread, mark, now) {
            return Err(Errno::ESTALE);
        }
        Ok(self.newest(fresh))
    }

    /// The newest generation, through whatever inode.
    fn newest(&self, fresh: &FreshToken) -> Opened {
        let handle = self.state.prepared().max(fresh.token().generation);
        Opened { handle, cache: Cache::Direct }
    }

    pub(super) fn open_live(self: &Arc<Self>, request: &Request, call: &Call, view: u8) -> Open {
        let hand = move |fs: &Self, request: &Request, fresh: &FreshToken| {
            let opened = fs.newest(fresh);
            let (thread, of) = (request.caller.thread, (fs.place.index(), view));
            let handed = &fs.connection.shared().handed;
            handed.set(&fs.connection.writers, thread, of, opened.handle);
            opened
        };
        let patient = self.is_patient(request, view);
        match self.usable(Some(request.caller), patient) {
            Some(fresh) => Open::Now(Ok(hand(self, request, &fresh))),
            None => self.wait(request, call, view, patient, move |fs, request, fresh| {
                Some(Ok(hand(fs, request, fresh)))
            }),
        }
    }

    /// Waits for a usable token until the open's deadline, counted from when the request was first
    /// seen, and then, where `settle` asks for it, until the view shows it. A `patient` open first waits
    /// up to half of that time for a token that lasts.
    fn wait(
        self: &Arc<Self>,
        request: &Request,
        call: &Call,
        view: u8,
        patient: bool,
        settle: impl Fn(&Self, &Request, &FreshToken) -> Option<Result<Opened, Errno>> + Send + 'static,
    ) -> Open {
        let (fs, request) = (Arc::clone(self), *request);
        let Some(first_seen) = self.note_wait(&request, call) else {
            return Open::Now(Err(self.refuse(ReadErrorKind::TooMany)));
        };
        let caller = Some(request.caller);
        Open::Wait(Box::pin(async move {
            let deadline = first_seen.saturating_add(fs.config.open_timeout);
            if patient {
                let until = first_seen.saturating_add(fs.config.open_timeout / 2);
                fs.token.await_lasting(caller, until, deadline).await;
            }
            let opened = loop {
                match fs.token.token(caller, deadline).await {
                    Ok(fresh) => {
                        if let Some(opened) = settle(&fs, &request, &fresh) {
                            break opened;
                        }
                        fs.shown(view, fresh.token().generation, deadline).await;
                        // Else judged anew: somebody may have stopped us meanwhile.
                        if fs.clock.now().boot >= deadline
                            && let Some(fresh) = fs.token.usable(caller)
                        {
                            let settled = settle(&fs, &request, &fresh);
                            break settled.unwrap_or_else(|| Ok(fs.newest(&fresh)));
                        }
                    }
                    Err(error) => break Err(fs.refused_open(&request, &error)),
                }
            };
            let waited = fs.clock.now().boot.saturating_sub(first_seen);
            if opened.is_ok() {
                fs.counters.opened(waited);
            }
            opened
        }))
    }

    /// Notes that an open waits, so that it outlives this process; since when. `None` where there is no
    /// room for it.
    pub(super) fn note_wait(&self, request: &Request, call: &Call) -> Option<Duration> {
        let now = self.clock.now().boot;
        let given_up = now.saturating_sub(self.config.open_timeout).saturating_sub(GIVEN_UP);
        let waits = Waits { now, again: request.again, given_up };
        let shared = self.connection.shared();
        shared.journal.wait(&shared.waits, request.unique, call, &request.caller, waits)
    }

    /// Completes when the view shows the generation, or at the deadline; not before [`LAST_MOMENT`].
    async fn shown(&self, view: u8, generation: u64, deadline: Duration) {
        let left = deadline.saturating_sub(self.clock.now().boot).max(LAST_MOMENT);
        tokio::time::timeout(left, self.place.flipped(view, generation)).await.ok();
    }

    fn refused_open(&self, request: &Request, error: &ReadError) -> Errno {
        let Caller { thread, .. } = request.caller;
        // Looked up for this line alone, and not where it is not written.
        let errno = error.kind.errno_name();
        tracing::debug!(uid = request.caller.uid(), thread, errno, "open refused: {error}");
        self.refuse(error.kind)
    }
}
