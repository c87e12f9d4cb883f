//! A mount of seventeen tokens of an App: that of the root, eight named ones, eight on demand. And what
//! their issuer says of each token that a reader got.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use molecule_tokenfs::demo::github::Installation;
use molecule_tokenfs::demo::ledger::{Entry, Scope};
use molecule_tokenfs::demo::{Demo, Setup};
use molecule_tokenfs::refresh::Windows;
use serde::Serialize;

use crate::support::daemon::{Builder, Daemon};
use crate::support::dir::TestDir;
use crate::support::opens::{Opens, Reader, Seen, boot};
use crate::support::{millis, patience, secs};
use crate::{Series, evidence};

/// The least life at open.
const MIN_LIFE: Duration = millis(500);
/// What expiry and `Date` hide of a life, as they are cut to seconds.
const CUT: Duration = secs(1);
/// Milliseconds of the ledger are cut: an expiry is up to one later than it says.
const MILLISECOND: Duration = millis(1);

const OWNERS: [&str; 2] = ["acme", "globex"];
/// The repositories of each owner, which have the same names: for the first the token of the root is, for
/// some the named ones, and for some those on demand.
const ROOT: &str = "core";
const NAMED: [&str; 4] = ["web", "api", "docs", "infra"];
const ON_DEMAND: [&str; 3] = ["site", "tools", "data"];

/// How long tokens live that all rotate in a scene.
pub fn short_life() -> Duration {
    if evidence().is_some() { secs(6) } else { secs(4) }
}

/// A token's directory, and what the token must be for.
struct Place {
    /// Where it is in the mount; empty for the root.
    path: String,
    scope: Scope,
}

/// A view that is read.
#[derive(Clone, Copy)]
enum View {
    Token,
    Live,
    Header,
    GitCredential,
}

impl View {
    fn path(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Live => "live/token",
            Self::Header => "header",
            Self::GitCredential => "git-credential",
        }
    }

    /// The token in it; `None` where it has another form.
    fn token(self, bytes: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Token | Self::Live => Some(bytes),
            Self::Header => bytes.strip_prefix(b"Authorization: Bearer ")?.strip_suffix(b"\n"),
            Self::GitCredential => {
                let text = bytes.strip_prefix(b"username=x-access-token\npassword=")?;
                let end = text.iter().position(|&byte| byte == b'\n')?;
                let (token, rest) = text.split_at(end);
                let expiry = rest.strip_prefix(b"\npassword_expiry_utc=")?.strip_suffix(b"\n")?;
                let is_number = !expiry.is_empty() && expiry.iter().all(u8::is_ascii_digit);
                is_number.then_some(token)
            }
        }
    }
}

/// What readers got.
#[derive(Default)]
struct Got {
    /// Each token, and which place gave it first.
    tokens: HashMap<Vec<u8>, (usize, Entry)>,
    of_another: u64,
    dead: u64,
}

/// See the module.
pub struct Tokens {
    demo: Demo,
    config: PathBuf,
    places: Vec<Place>,
    life: Duration,
    windows: Windows,
    /// How much later than asked GitHub answers.
    slow: Duration,
    got: Mutex<Got>,
}

/// What came of it, but for what [`Seen`] tells.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub tokens: usize,
    /// Of the token that was renewed least.
    pub fewest_rotations: usize,
    /// Tokens that two places gave, or that are for another owner or repository than their place.
    pub of_another_owner_or_repository: u64,
    /// Opens whose token had less than the minimum life left all the time, by the issuer's clock.
    pub dead: u64,
    /// Tokens that were minted.
    pub fetches: usize,
    /// Of these, the ones that came sooner than the life of the one before asked for.
    pub before_their_time: usize,
    /// Of these, the ones that no reader ever got: the worker died before it had written them down.
    pub lost_in_flight: usize,
    /// Of the lost, the ones after which no worker died before the next one for the same was minted.
    pub lost_without_a_death: usize,
}

impl Verdict {
    /// Whether no token was wrong, and no other was asked for because of so many deaths. A death loses what
    /// is in flight, of each token one at most.
    pub fn holds(&self) -> bool {
        self.of_another_owner_or_repository == 0
            && self.dead == 0
            && self.before_their_time == 0
            && self.lost_without_a_death == 0
    }
}

/// What the log of a scene tells.
#[derive(Default)]
pub struct Log {
    /// When workers died (boot clock); of an upgrade, from its beginning to its end.
    pub deaths: Vec<Range<Duration>>,
    /// The fingerprints of tokens that were certainly written down: their worker went on to another one.
    pub written: HashSet<String>,
}

/// A token that was minted.
struct Minted {
    entry: Entry,
    scope: Scope,
    is_got: bool,
}

/// How much later than its worker's death was noticed a token may be minted that it had asked for, besides
/// what GitHub takes.
const LATE: Duration = millis(50);

impl Tokens {
    /// Two owners have installed an App. Its key and the configuration are in the directory. GitHub answers
    /// `slow` later than asked; if that is any time, opens of the credential shall wait for it.
    pub fn new(dir: &TestDir, life: Duration, slow: Duration) -> Arc<Self> {
        let demo = Demo::start(Setup::with_life(life)).expect("the demo platform starts");
        demo.github().slow(slow);
        let key = dir.join("app.pem");
        let client_id = demo.github().create_app(&key).expect("an App");
        let all: Vec<_> = [ROOT].into_iter().chain(NAMED).chain(ON_DEMAND).collect();
        let mut places = Vec::new();
        let mut add = |path: String, owner: &str, repositories: &[&str]| {
            let repositories = repositories.iter().map(|name| (*name).to_owned()).collect();
            let scope = Scope { owner: owner.to_owned(), repositories: Some(repositories) };
            places.push(Place { path, scope });
        };
        let source = |name: &str, scope: &str| {
            format!(
                "[sources.{name}]\ntype = 'github-app'\nclient-id = '{client_id}'\n\
                 private-key = {{ file = '{}' }}\napi-url = '{}'\nmints-per-minute = 100000\n{scope}\n",
                key.display(),
                demo.url()
            )
        };
        // What is opened on demand comes from any installation of the App. Tokens for the same would be one.
        let of_root = format!("owner = '{}'\nrepositories = ['{ROOT}']", OWNERS[0]);
        let mut text = source("root", &of_root) + &source("any", "");
        text += "[tokens.default]\nsources = ['root', 'any']\non-demand = true\n";
        add(String::new(), OWNERS[0], &[ROOT]);
        for (id, owner) in (71..).zip(OWNERS) {
            demo.github().install(Installation::of(id, owner, &all));
            for name in NAMED {
                let token = format!("{owner}-{name}");
                text += &source(&token, &format!("owner = '{owner}'\nrepositories = ['{name}']"));
                write!(text, "[tokens.{token}]\nsources = ['{token}']\n").expect("a string");
                add(format!("{token}/"), owner, &[name]);
            }
            for name in ON_DEMAND {
                add(format!("repos/{owner}/{name}/"), owner, &[name]);
            }
        }
        // That of the first owner would be for what the root's source may give.
        add(format!("orgs/{}/", OWNERS[1]), OWNERS[1], &all);
        add(format!("repos/{}/{ROOT}/", OWNERS[1]), OWNERS[1], &[ROOT]);
        let config = dir.file("tokenfs.toml", text);
        let git_min_life = (!slow.is_zero()).then(|| life / 2);
        let windows = Windows { min_life: Some(MIN_LIFE), git_min_life, ..Windows::default() };
        Arc::new(Self { demo, config, places, life, windows, slow, got: Mutex::default() })
    }

    /// A mount of them.
    pub fn daemon<'a>(&self, series: &Series, dir: &'a TestDir, args: &[&str]) -> Builder<'a> {
        let span = |span: Duration| format!("{}ms", span.as_millis());
        let min_life = span(MIN_LIFE);
        let daemon = series
            .daemon(dir, &["--min-life", &min_life, "--open-timeout", "30s"])
            .args(args)
            .arg_pair("--config", &self.config);
        match self.windows.git_min_life {
            Some(least) => daemon.arg_pair("--git-min-life", span(least)),
            None => daemon,
        }
    }

    /// One reader of each token, and of every other one a second, of another view.
    pub fn readers(self: &Arc<Self>, daemon: &Daemon) -> Vec<Reader> {
        let others = [View::GitCredential, View::Header].into_iter().cycle();
        let mut readers = vec![self.reader(daemon, 0, View::Live)];
        for (place, other) in (0..self.places.len()).step_by(2).zip(others) {
            readers.push(self.reader(daemon, place, other));
        }
        readers.extend((0..self.places.len()).map(|place| self.reader(daemon, place, View::Token)));
        readers
    }

    /// A reader of the credential of each token. Its opens wait where another is under way.
    pub fn patient_readers(self: &Arc<Self>, daemon: &Daemon) -> Vec<Reader> {
        let places = 0..self.places.len();
        places.map(|place| self.reader(daemon, place, View::GitCredential)).collect()
    }

    fn reader(self: &Arc<Self>, daemon: &Daemon, place: usize, view: View) -> Reader {
        let path = daemon.path(&self.places[place].path).join(view.path());
        let tokens = Arc::clone(self);
        let mut last: Option<(Vec<u8>, Entry)> = None;
        let is_right = move |bytes: &[u8], open: Range<Duration>| {
            let Some(token) = view.token(bytes) else { return false };
            let known = last.as_ref().filter(|(last, _)| last == token).map(|(_, entry)| *entry);
            let Some(entry) = known.or_else(|| tokens.note(place, token)) else { return false };
            if known.is_none() {
                last = Some((token.to_vec(), entry));
            }
            if !was_fresh(&entry, &open) {
                tokens.got().dead += 1;
            }
            true
        };
        Reader { path, is_right: Box::new(is_right) }
    }

    /// A place gave this token. `None` where nobody issued it.
    fn note(&self, place: usize, token: &[u8]) -> Option<Entry> {
        let entry = self.demo.ledger().entry(token)?;
        let scope = self.demo.ledger().scope(token);
        let mut got = self.got();
        let (first, _) = *got.tokens.entry(token.to_vec()).or_insert((place, entry));
        let is_its_own = first == place && scope.as_ref() == Some(&self.places[place].scope);
        got.of_another += u64::from(!is_its_own);
        Some(entry)
    }

    fn got(&self) -> MutexGuard<'_, Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often each token was renewed; `None` for one that nobody got.
    fn rotations(&self) -> Vec<Option<usize>> {
        let got = self.got();
        let of = |place| got.tokens.values().filter(|(its, _)| *its == place).count();
        (0..self.places.len()).map(|place| of(place).checked_sub(1)).collect()
    }

    /// Waits until each token was renewed so often, or tells those that were not.
    pub fn wait_for_rotations(&self, number: usize) -> Result<(), Vec<&str>> {
        let times = u32::try_from(number).expect("a small number");
        let limit = boot() + patience(secs(20) + self.life * times);
        loop {
            let rotations = self.places.iter().zip(self.rotations());
            let late = rotations.filter(|(_, times)| times.is_none_or(|times| times < number));
            let late: Vec<_> = late.map(|(place, _)| &*place.path).collect();
            if late.is_empty() {
                return Ok(());
            } else if boot() > limit {
                return Err(late);
            }
            std::thread::sleep(millis(10));
        }
    }

    /// Judges what was minted by now. What was minted last has the time to reach a reader.
    pub fn end(&self, readers: Opens, log: impl Fn() -> Log) -> (Seen, Verdict) {
        let (now, limit) = (boot(), boot() + secs(10));
        while boot() < limit && self.verdict(now, &log()).lost_without_a_death > 0 {
            std::thread::sleep(millis(50));
        }
        let seen = readers.end();
        (seen, self.verdict(now, &log()))
    }

    /// All that was minted, in this order.
    fn minted(&self) -> Vec<Minted> {
        let ledger = self.demo.ledger();
        let minted = ledger.secrets().into_iter().filter_map(|token| {
            let (entry, scope) = (ledger.entry(&token)?, ledger.scope(&token)?);
            Some(Minted { entry, scope, is_got: self.got().tokens.contains_key(&token) })
        });
        let mut minted: Vec<_> = minted.collect();
        minted.sort_by_key(|minted| minted.entry.issued_ms);
        minted
    }

    /// Of what was minted until then.
    fn verdict(&self, until: Duration, log: &Log) -> Verdict {
        let minted = self.minted();
        let (mut early, mut lost, mut without_a_death) = (0, 0, 0);
        let is_placed = |minted: &&Minted| self.places.iter().any(|its| its.scope == minted.scope);
        let strange = minted.len() - minted.iter().filter(is_placed).count();
        for place in &self.places {
            let its: Vec<_> = minted.iter().filter(|minted| minted.scope == place.scope).collect();
            // The newest one that the mount had, and whether it was its first.
            let mut had: Option<(&Entry, bool)> = None;
            for (number, Minted { entry, is_got, .. }) in its.iter().enumerate() {
                early += usize::from(
                    had.is_some_and(|(before, is_first)| self.is_early(before, entry, is_first)),
                );
                if *is_got || log.written.contains(&entry.fingerprint.to_string()) {
                    had = Some((entry, had.is_none()));
                }
                if *is_got || issued(entry) > until {
                    continue;
                }
                lost += 1;
                let next = its.get(number + 1).map_or(Duration::MAX, |next| issued(&next.entry));
                let of_it = issued(entry)..next;
                without_a_death += usize::from(!log.deaths.iter().any(|death| {
                    death.start < of_it.end && of_it.start <= death.end + LATE + self.slow
                }));
            }
        }
        let fewest_rotations = self.rotations().into_iter().min().flatten().unwrap_or_default();
        let got = self.got();
        Verdict {
            tokens: self.places.len(),
            fewest_rotations,
            of_another_owner_or_repository: got.of_another + strange as u64,
            dead: got.dead,
            fetches: self.demo.github().minted(),
            before_their_time: early,
            lost_in_flight: lost,
            lost_without_a_death: without_a_death,
        }
    }

    /// Whether a token came sooner than the life of the one before asks for, which was the first of a
    /// daemon or not.
    fn is_early(&self, before: &Entry, token: &Entry, is_first: bool) -> bool {
        let life = Duration::from_millis(before.expires_ms).saturating_sub(issued(before));
        let latest = self.windows.latest_refresh(life.saturating_sub(CUT), false);
        // After a start it is spread.
        let earliest = if is_first { latest / 4 } else { latest };
        // A token ages from the moment when it was asked for, after a question about the installation.
        let asked = 2 * self.slow + if evidence().is_some() { millis(250) } else { secs(1) };
        issued(token).saturating_sub(issued(before)) < earliest.saturating_sub(asked)
    }
}

fn issued(entry: &Entry) -> Duration {
    Duration::from_millis(entry.issued_ms)
}

/// Whether at some instant of the open the token had the minimum life left by the issuer's clock. Life only
/// runs down, so the first instant at which it existed is the best one.
fn was_fresh(entry: &Entry, open: &Range<Duration>) -> bool {
    let instant = open.start.max(issued(entry));
    instant <= open.end + MILLISECOND
        && entry.live_at(instant + MIN_LIFE.saturating_sub(MILLISECOND))
}
