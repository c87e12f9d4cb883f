use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::earlier::Earlier;
use super::layout::{FIRST_SLOTS, REGIONS};
use super::regions::{Kind, Whose};
use super::*;
use crate::refresh::Rejection;
use crate::refresh::policy::Clocks;
use crate::refresh::policy::clocks::Seen;
use crate::refresh::policy::{BackOff, Progress};
use crate::refresh::store::Store;
use crate::secret::{Fingerprint, MAX_SECRET_BYTES, Secret};
use crate::time::Now;
use crate::token::{FreshToken, Life, Token};
use crate::view;

const SECOND: Duration = Duration::from_secs(1);

/// The token at the root of a mount that has no other.
pub fn token(sources: Vec<&'static str>, views: Vec<u8>) -> TokenState {
    Arc::new(State::create().unwrap()).token(root(), sources, views).unwrap()
}

/// Whose it is.
pub fn root() -> Whose<'static> {
    Whose { kind: Kind::Root, name: "", configuration: b"" }
}

/// What another process makes of a state.
pub fn adopted(state: &State) -> Arc<State> {
    Arc::new(State::adopt(state.memory().try_clone_to_owned().unwrap()).unwrap())
}

fn state() -> TokenState {
    token(vec!["platform", "env"], vec![0, 7])
}

fn on_demand(name: &str) -> Whose<'_> {
    Whose { kind: Kind::OnDemand, name, configuration: b"" }
}

fn take(state: &Arc<State>, whose: Whose<'_>) -> TokenState {
    state.token(whose, vec!["env"], vec![0]).unwrap()
}

/// The number of the place that a token has.
fn number(token: &TokenState) -> u64 {
    token.place().unwrap().number()
}

/// The generation that a view shows there.
fn current(token: &TokenState, view: u8) -> u64 {
    token.place().unwrap().current(view)
}

fn now() -> Now {
    Now { boot: SECOND * 100, wall: SECOND * 1_700_000_000 }
}

fn fresh(generation: u64, text: &str, life: Life) -> FreshToken {
    let secret = Secret::new(text.as_bytes().to_vec()).unwrap();
    let token = Token { secret, generation, source: "env", issued: now(), life };
    token.usable(&now(), Duration::ZERO).unwrap()
}

#[test]
fn what_was_published_is_read_back_whole() {
    let state = state();
    let token = fresh(state.reserve(), &"a".repeat(521), Life::Known(SECOND * 3600));
    state.publish(&token, &now());
    let read = state.generation(1).unwrap();
    assert_eq!(&read.token, token.token());
    assert_eq!(read.published, token.publish(&now()));
    assert_eq!(read.published_at, now().wall);
    let current = |view| current(&state, view);
    assert_eq!((current(0), current(7), current(1)), (1, 1, 0));
    assert_eq!(state.load().token.as_ref(), Some(token.token()));
}

#[test]
fn an_unknown_expiry_stays_unknown() {
    let state = state();
    let token = fresh(state.reserve(), "ghp_own", Life::Assumed(SECOND * 60));
    state.publish(&token, &now());
    let read = state.generation(1).unwrap();
    assert_eq!((read.published.expires_at, read.token.life), (None, token.token().life));
}

#[test]
fn the_last_64_generations_stay_and_older_ones_are_gone() {
    let state = state();
    for n in 1..=70_usize {
        let generation = state.reserve();
        let text = format!("ghs_{}", "x".repeat(n * 7 % 50));
        state.publish(&fresh(generation, &text, Life::Known(SECOND * 60)), &now());
    }
    assert!(state.generation(0).is_none() && state.generation(6).is_none());
    for n in 7..=70 {
        let read = state.generation(n).unwrap();
        assert_eq!(read.token.secret.expose().len() as u64, 4 + n * 7 % 50);
    }
    assert!(state.generation(71).is_none());
}

#[test]
fn a_slot_whose_writer_died_is_not_read() {
    let state = state();
    state.publish(&fresh(state.reserve(), "ghs_whole", Life::Known(SECOND * 60)), &now());
    let (slot, first) = (state.slot(1).unwrap(), &state.region.bytes[0]);
    first.fetch_xor(0xff, Ordering::Relaxed);
    assert!(state.generation(1).is_none(), "the checksum does not fit");
    first.fetch_xor(0xff, Ordering::Relaxed);
    assert!(state.generation(1).is_some());
    slot.head.generation.store(0, Ordering::Relaxed);
    assert!(state.generation(1).is_none(), "it was being written");
}

#[test]
fn what_a_writer_that_died_has_written_is_wiped_by_the_next_one() {
    let state = state();
    for n in 0..SLOTS - 1 {
        state.publish(&fresh(state.reserve(), "ghs_whole", Life::Known(SECOND * 60)), &now());
        // It dies over the next slot, whether there was a look at that before or not.
        let slot = state.region.take_slot(n + 1).unwrap();
        let token = fresh(1_000, "died", Life::Known(SECOND * 60));
        let (bytes, published) = (&state.region.bytes, token.publish(&now()));
        let at = state.region.slots().map(|slot| slot.extent().end).max().unwrap();
        slot.write((bytes, at), token.token(), &published, None, &now(), || ());
        slot.head.generation.store(0, Ordering::Relaxed);
        let next = adopted(state.connection()).token(root(), vec!["env"], vec![0]).unwrap();
        assert_eq!(next.load().token.map(|it| it.generation), Some(n as u64 + 1), "{n}");
    }
    state.publish(&fresh(state.reserve(), "ghs_whole", Life::Known(SECOND * 60)), &now());
    let died = u64::from_le_bytes(*b"died\0\0\0\0");
    assert!(state.region.bytes.iter().all(|word| word.load(Ordering::Relaxed) != died));
    assert!((1..=SLOTS as u64).all(|generation| state.generation(generation).is_some()));
}

#[test]
fn a_longer_token_leaves_nothing_behind_a_shorter_one() {
    let state = state();
    let long = "L".repeat(200);
    state.publish(&fresh(state.reserve(), &long, Life::Known(SECOND * 60)), &now());
    for _ in 0..SLOTS {
        state.publish(&fresh(state.reserve(), "short", Life::Known(SECOND * 60)), &now());
    }
    let bytes = state.region.bytes.iter().map(|word| word.load(Ordering::Relaxed));
    assert_eq!(bytes.filter(|word| *word != 0).count(), SLOTS, "a word for each short one");
}

#[test]
fn the_longest_tokens_are_kept_whole_as_many_as_there_is_room_for() {
    let state = state();
    for n in 1..=9_u8 {
        let text = char::from(b'a' + n).to_string().repeat(MAX_SECRET_BYTES - usize::from(n));
        state.publish(&fresh(state.reserve(), &text, Life::Known(SECOND * 60)), &now());
        let read = state.generation(n.into()).unwrap();
        assert_eq!(read.token.secret.expose(), text.as_bytes());
    }
    for short in 10..=40 {
        state.publish(&fresh(state.reserve(), "short", Life::Known(SECOND * 60)), &now());
        assert!(state.generation(short).is_some());
    }
    assert!(state.generation(9).is_some(), "there was room for short ones beside it");
    assert!(state.generation(1).is_none());
}

fn learnt_clocks() -> Clocks {
    let seen = |n: u32| {
        let fingerprint = Fingerprint::from_u32(n);
        let end = 1_780_000_000_000_000_000 + u64::from(n);
        Some(Seen { fingerprint, end, proves_lag: n == 1, doubted: n == 2 })
    };
    let mut clocks =
        Clocks { anchor: Some(now()), next: 3, lag: SECOND * 600, ..Clocks::default() };
    for (n, place) in (0..3).zip(&mut clocks.seen) {
        *place = seen(n);
    }
    clocks
}

#[test]
fn another_process_finds_everything() {
    let state = state();
    state.publish(&fresh(state.reserve(), "ghs_a", Life::Known(SECOND * 60)), &now());
    let progress = Progress {
        sources: std::array::from_fn(|place| BackOff {
            strikes: 3 + u32::try_from(place).unwrap(),
            not_before: SECOND * 7,
            wish: SECOND * u32::try_from(place).unwrap(),
        }),
        next_refresh: Some(SECOND * 9),
        rejected: Some(Rejection {
            fingerprint: Fingerprint::of(b"ghs_b"),
            at: now(),
            withheld_until: SECOND * 115,
            count: 2,
            user: Some(0),
            is_denied: true,
        }),
        clocks: learnt_clocks(),
        repeats: true,
        last_open: Some(SECOND),
    };
    state.save(&progress);
    let next = adopted(state.connection());
    let adopted = next.token(root(), vec!["platform", "env"], vec![0, 7]).unwrap();
    let saved = adopted.load();
    assert_eq!(saved.progress, progress);
    assert_eq!(saved.token.unwrap().secret.expose(), b"ghs_a");
    assert_eq!(adopted.reserve(), 2, "no number twice");
}

#[test]
fn a_file_that_is_no_state_is_refused() {
    let memory = memory::anonymous(c"test").unwrap();
    assert!(State::adopt(memory.try_clone().unwrap()).is_err());
    nix::unistd::ftruncate(&memory, i64::try_from(size_of::<Shared>()).unwrap()).unwrap();
    assert!(State::adopt(memory).is_err(), "no magic");
}

#[test]
fn the_token_of_an_earlier_supervisor_is_served_until_there_is_another_one() {
    let memory = sealed(size_of::<Earlier>()).unwrap();
    let shared: Mapping<Shared> = Mapping::map(memory.as_fd(), 0).unwrap();
    shared.magic.store(MAGIC, Ordering::Relaxed);
    shared.layout.store(7, Ordering::Relaxed);
    shared.last_generation.store(41, Ordering::Relaxed);
    let earlier: Mapping<Earlier> = Mapping::map(memory.as_fd(), 0).unwrap();
    let text = |token: Option<Generation>| Some(token?.token.secret.expose_str().to_owned());
    earlier.put(fresh(41, "ghs_before", Life::Known(SECOND * 60)).token(), &[0]);
    let state = Arc::new(State::adopt(memory).unwrap());
    let (token, other) = (take(&state, root()), take(&state, on_demand("acme")));
    assert_eq!(token.load().token.unwrap().secret.expose(), b"ghs_before");
    assert_eq!((token.prepared(), current(&token, 0), current(&token, 7)), (41, 41, 0));
    assert_eq!((other.load().token, other.prepared()), (None, 0));
    token.publish(&fresh(token.reserve(), "ghs_new", Life::Known(SECOND * 60)), &now());
    assert_eq!((token.prepared(), current(&token, 0), current(&token, 7)), (42, 42, 0));
    assert_eq!(text(token.generation(42)).unwrap(), "ghs_new");
    assert_eq!(text(token.generation(41)).unwrap(), "ghs_before", "who has it open reads on");
    assert!(token.generation(40).is_none() && token.generation(0).is_none());
    assert_eq!(token.passed_at(40), None, "nobody knows");
    earlier.put(fresh(41, "ghs_torn", Life::Known(SECOND * 60)).token(), &[]);
    earlier.tear();
    assert!(token.generation(41).is_none());
}

/// Layout 7 had 4,591,576 bytes, layout 8 as many as now.
#[test]
fn a_connection_of_an_earlier_version_goes_on_and_its_numbers_too() {
    use std::mem::offset_of;
    assert_eq!((offset_of!(Shared, seen), offset_of!(Shared, last_upgrade)), (4128, 4424));
    assert_eq!((offset_of!(Shared, marks), offset_of!(Shared, handed)), (4968, 29_552));
    assert_eq!((offset_of!(Shared, journal), offset_of!(Shared, passes)), (127_856, 391_632));
    for (layout, length) in [(7, 4_591_576), (8, TOKENS + layout::LENGTH)] {
        let memory = sealed(length).unwrap();
        let before: Mapping<Shared> = Mapping::map(memory.as_fd(), 0).unwrap();
        before.magic.store(MAGIC, Ordering::Relaxed);
        before.layout.store(layout, Ordering::Relaxed);
        before.last_generation.store(41, Ordering::Relaxed);
        let state = Arc::new(State::adopt(memory).unwrap());
        assert!(!state.has_tokens());
        let token = take(&state, root());
        token.publish(&fresh(token.reserve(), "ghs_new", Life::Known(SECOND * 60)), &now());
        assert_eq!(token.load().token.unwrap().generation, 42);
        state.enter();
        assert_eq!(before.seen.load(Ordering::Relaxed), 1, "its supervisor sees that it lives");
        before.layout.store(6, Ordering::Relaxed);
        assert!(State::adopt(state.memory().try_clone_to_owned().unwrap()).is_err());
    }
}

#[test]
fn views_have_room_for_their_numbers() {
    assert!(view::ALL.iter().all(|view| usize::from(view.id()) < VIEWS));
}

#[test]
fn each_token_is_found_by_kind_name_and_configuration() {
    let state = Arc::new(State::create().unwrap());
    let named = |name, configuration| Whose { kind: Kind::Named, name, configuration };
    let whose = [root(), named("acme", b"1"), named("globex", b"1"), on_demand("acme")];
    let tokens: Vec<_> = whose.iter().map(|whose| take(&state, *whose)).collect();
    for token in &tokens {
        let text = format!("ghs_{}", token.index());
        token.publish(&fresh(token.reserve(), &text, Life::Known(SECOND * 60)), &now());
    }
    let numbers: Vec<_> = tokens.iter().map(TokenState::prepared).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "the numbers are the connection's");
    assert_eq!(tokens.iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 0]);
    // Another process, in another order.
    let next = adopted(&state);
    for (token, whose) in tokens.iter().zip(whose).rev() {
        let kept = take(&next, whose);
        assert_eq!((kept.load(), number(&kept)), (token.load(), number(token)));
    }
    let other = take(&next, named("acme", b"2"));
    assert_eq!((other.load().token, number(&other)), (None, 3), "another token of the same name");
    let mut shown = BTreeMap::new();
    next.shown(&mut shown).unwrap();
    let all: Vec<_> = shown.values().map(|shown| (&*shown.name, shown.prepared())).collect();
    assert_eq!(all, [("", 1), ("acme", 2), ("globex", 3), ("acme", 0)]);
    assert_eq!(next.on_demand().unwrap(), ["acme"]);
}

fn shared(name: &str) -> Whose<'_> {
    Whose { kind: Kind::Shared, name, configuration: b"" }
}

/// The places where somebody renames: path, what it can show, and what its view 0 shows.
fn places_of(state: &State) -> Vec<(String, u64, u64)> {
    let mut shown = BTreeMap::new();
    state.shown(&mut shown).unwrap();
    shown.into_values().map(|at| (at.name.clone(), at.prepared(), at.current(0))).collect()
}

#[test]
fn a_token_is_shown_at_many_places_which_flip_each_for_itself() {
    let state = Arc::new(State::create().unwrap());
    let token = take(&state, shared("acme"));
    let publish = || {
        let number = token.reserve();
        token.publish(&fresh(number, "ghs_acme", Life::Known(SECOND * 60)), &now());
    };
    assert!(token.place().is_none(), "only doors show it");
    let one = state.place("agent-1", &token, vec![0]).unwrap();
    publish();
    let other = state.place("agent-2", &token, vec![0]).unwrap();
    assert_eq!((one.current(0), other.current(0)), (1, 1));
    assert_eq!((one.number(), other.number()), (1, 2));
    token.rotate_with(|| ());
    one.see();
    publish();
    assert_eq!((one.current(0), other.current(0)), (1, 2), "nobody watches the other one");
    assert!(token.wants_rotation() && !token.is_settled());
    let agent = |number: u64, current| (format!("agent-{number}"), 2, current);
    assert_eq!(places_of(&state), [agent(1, 1), agent(2, 2)]);
    // The next worker finds them by path and token, also where the last one died in the middle.
    let next = adopted(&state);
    let kept = take(&next, shared("acme"));
    let again = next.place("agent-1", &kept, vec![0]).unwrap();
    assert_eq!((again.number(), again.current(0), kept.wants_rotation()), (1, 1, true));
    again.flip(0);
    again.touch(0);
    assert_eq!((one.current(0), token.wants_rotation()), (2, false));
    // Another token at the same place.
    let another = take(&next, shared("globex"));
    let bound = next.place("agent-1", &another, vec![0]).unwrap();
    kept.leave(&again, false);
    drop(again);
    assert_eq!((bound.number(), bound.current(0), bound.is_seen()), (1, 0, true));
    kept.publish(&fresh(kept.reserve(), "ghs_acme", Life::Known(SECOND * 60)), &now());
    assert_eq!((bound.current(0), another.is_settled()), (0, true));
    assert_eq!(places_of(&next), [("agent-1".to_owned(), 0, 0), agent(2, 2)]);
}

#[tokio::test(start_paused = true)]
async fn whoever_flips_what_stays_lets_go_of_a_token_that_is_forgotten() {
    let state = Arc::new(State::create().unwrap());
    let token = Arc::new(take(&state, shared("acme")));
    let index = token.index();
    let flips = Arc::clone(&token);
    let flipping = tokio::spawn(async move { flips.flip_what_stays(SECOND, || ()).await });
    tokio::time::sleep(SECOND).await;
    assert!(!flipping.is_finished());
    token.forget();
    drop(token);
    flipping.await.unwrap();
    assert_eq!(take(&state, shared("globex")).index(), index, "its memory is another's");
}

#[test]
fn a_place_that_is_left_is_nobodys_and_its_number_is_never_given_again() {
    let state = Arc::new(State::create().unwrap());
    let token = take(&state, shared("acme"));
    let place = |path: &str| state.place(path, &token, vec![0]).unwrap();
    let (left, stays) = (place("agent-1"), place("agent-2"));
    let index = left.index();
    left.see();
    token.leave(&left, true);
    assert_eq!(places_of(&state), [("agent-2".to_owned(), 0, 0)]);
    drop(left);
    let again = place("agent-1");
    assert_eq!((again.index(), again.number(), again.is_seen()), (index, 3, false));
    assert_eq!(stays.number(), 2);
}

/// What was ever written of the file that is behind a state, and not given back.
fn file(state: &State) -> Vec<u8> {
    use rustix::fs::{SeekFrom, seek};
    let (mut all, mut end) = (Vec::new(), 0);
    while let Ok(start) = seek(state.memory(), SeekFrom::Data(end)) {
        end = seek(state.memory(), SeekFrom::Hole(start)).unwrap();
        let mut part = vec![0; usize::try_from(end - start).unwrap()];
        rustix::io::pread(state.memory(), &mut part, start).unwrap();
        all.extend(part);
    }
    all
}

fn has(state: &State, text: &str) -> bool {
    file(state).windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_forgotten_token_leaves_nothing_and_its_memory_is_used_again() {
    let state = Arc::new(State::create().unwrap());
    let kept = take(&state, root());
    let token = take(&state, on_demand("acme/web"));
    token.publish(&fresh(token.reserve(), "ghs_forgotten", Life::Known(SECOND * 60)), &now());
    assert!(has(&state, "ghs_forgotten") && has(&state, "acme/web"));
    token.forget();
    assert!(token.generation(1).is_some(), "whoever has it open reads on");
    let again = take(&state, on_demand("acme/web"));
    assert!(again.load().token.is_none() && again.index() != token.index());
    let index = token.index();
    drop(token);
    assert!(!has(&state, "ghs_forgotten"));
    assert_eq!(take(&state, on_demand("globex")).index(), index, "the room is another's");
    assert_eq!(kept.index(), 0);
}

#[test]
fn what_no_token_of_the_next_worker_has_is_wiped_also_where_one_died_over_it() {
    let state = Arc::new(State::create().unwrap());
    for (name, text) in [("acme", "ghs_acme"), ("globex", "ghs_globex"), ("died", "ghs_died")] {
        let token = take(&state, on_demand(name));
        token.publish(&fresh(token.reserve(), text, Life::Known(SECOND * 60)), &now());
        if name == "died" {
            token.forget();
            // The process ends here: nothing is freed.
            std::mem::forget(token);
        }
    }
    let next = adopted(&state);
    assert_eq!(next.on_demand().unwrap(), ["acme", "globex"]);
    let acme = take(&next, on_demand("acme"));
    next.free_what_is_left();
    assert!(has(&next, "ghs_acme") && acme.generation(1).is_some());
    assert!(!has(&next, "ghs_globex") && !has(&next, "ghs_died"));
    assert_eq!(next.on_demand().unwrap(), ["acme"]);
}

#[test]
fn a_region_that_is_not_used_takes_no_memory() {
    let state = Arc::new(State::create().unwrap());
    let blocks = || nix::sys::stat::fstat(state.memory()).unwrap().st_blocks * 512;
    // The directory has memory from the first on.
    take(&state, on_demand("o/first")).forget();
    let empty = blocks();
    let tokens: Vec<_> = (0..64).map(|n| take(&state, on_demand(&format!("o/r{n}")))).collect();
    let publish = |token: &TokenState| {
        let text = format!("ghs_{}", "x".repeat(36));
        token.publish(&fresh(token.reserve(), &text, Life::Known(SECOND * 60)), &now());
    };
    let page = i64::try_from(rustix::param::page_size()).unwrap();
    for token in &tokens {
        for _ in 0..FIRST_SLOTS {
            publish(token);
        }
        token.save(&Progress::default());
        // Whoever looks for what is not there looks at every slot that was used.
        assert!(token.load().token.is_some() && !token.keeps(1_000_000));
        assert_eq!(token.passed_at(0), Some(now().boot));
    }
    assert_eq!((blocks() - empty) / 64, page, "bytes a token");
    tokens.iter().for_each(publish);
    assert_eq!((blocks() - empty) / 64, 2 * page, "slots beyond the first ones");
    tokens.iter().for_each(TokenState::forget);
    drop(tokens);
    assert_eq!(blocks(), empty, "all is given back");
}

#[test]
fn there_is_room_for_so_many_tokens_and_an_error_says_so() {
    let state = Arc::new(State::create().unwrap());
    let make = |n: usize| state.token(on_demand(&format!("o/r{n}")), vec![], vec![]);
    let tokens: Vec<_> = (0..REGIONS).map(|n| make(n).unwrap()).collect();
    let error = make(REGIONS).err().unwrap();
    assert!(error.to_string().contains("room for 4096 tokens"), "{error}");
    tokens[7].forget();
    assert!(make(REGIONS).is_err(), "somebody still uses it");
    drop(tokens);
    assert!(make(REGIONS).is_ok());
}

#[test]
fn a_region_that_cannot_be_mapped_is_given_back() {
    let mut state = State::create().unwrap();
    let memory = format!("/proc/self/fd/{}", state.memory.as_raw_fd());
    // A shared mapping of this can only be read.
    let read_only = std::fs::File::open(memory).unwrap().into();
    let memory = std::mem::replace(&mut state.memory, read_only);
    let mut state = Arc::new(state);
    assert!(state.token(on_demand("acme/web"), vec![], vec![]).is_err());
    Arc::get_mut(&mut state).unwrap().memory = memory;
    assert_eq!(take(&state, on_demand("acme/api")).index(), 0, "the next one has it");
}

#[test]
fn a_reader_beside_a_writer_sees_whole_tokens_only() {
    let state = state();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20_000 {
                let n = state.reserve();
                let letter = [b'a' + u8::try_from(n % 26).unwrap()];
                let text = std::str::from_utf8(&letter).unwrap().repeat(8 + (n % 90) as usize);
                state.publish(&fresh(n, &text, Life::Known(SECOND * 60)), &now());
            }
            stop.store(true, Ordering::Release);
        });
        let mut whole = 0_u64;
        while !stop.load(Ordering::Acquire) {
            // The oldest ones are the ones that are being overwritten.
            let n = state.prepared().saturating_sub(SLOTS as u64 - 1);
            if let Some(read) = state.generation(n) {
                let bytes = read.token.secret.expose();
                let letter = b'a' + u8::try_from(n % 26).unwrap();
                assert_eq!(bytes.len() as u64, 8 + n % 90);
                assert!(bytes.iter().all(|byte| *byte == letter), "torn");
                whole += 1;
            }
        }
        assert!(whole > 0);
    });
}

#[tokio::test(start_paused = true)]
async fn what_stays_is_flipped_when_the_renames_have_ended_or_go_on_for_ever() {
    const PATIENCE: Duration = Duration::from_millis(250);
    for (renames, latest) in [(0, PATIENCE * 2), (8, PATIENCE * 10), (u32::MAX, PATIENCE * 22)] {
        let state = Arc::new(State::create().unwrap());
        let token = Arc::new(take(&state, shared("acme")));
        token.rotate_with(|| ());
        let place = state.place("agent-1", &token, vec![0]).unwrap();
        place.see();
        place.see_view(0);
        let flips = Arc::clone(&token);
        let flipping = tokio::spawn(async move { flips.flip_what_stays(PATIENCE, || ()).await });
        token.publish(&fresh(token.reserve(), "ghs_acme", Life::Known(SECOND * 60)), &now());
        let start = tokio::time::Instant::now();
        let mut left = renames;
        while place.current(0) == 0 {
            if left > 0 {
                // Of other places, with a pause between them.
                let renaming = state.renaming();
                tokio::time::sleep(PATIENCE / 3).await;
                drop(renaming);
                left -= 1;
            }
            tokio::time::sleep(PATIENCE / 2).await;
            assert!(start.elapsed() <= latest, "{renames} renames");
        }
        assert!(start.elapsed() >= PATIENCE * renames.min(20) / 2, "{renames} renames");
        flipping.abort();
    }
}

#[test]
fn a_thread_that_nobody_can_number_is_no_helper() {
    let state = State::create().unwrap();
    state.add_helper(1, 77);
    let others = [0, 1, 76];
    assert!(state.has_helper(77) && !others.into_iter().any(|thread| state.has_helper(thread)));
    assert!(adopted(&state).has_helper(77), "the next worker knows it, too");
}
