use super::*;
use crate::refresh::Rejection;
use crate::refresh::policy::Clocks;
use crate::refresh::policy::clocks::Seen;
use crate::secret::{Fingerprint, Secret};
use crate::token::{Life, Token};

const SECOND: Duration = Duration::from_secs(1);

fn state() -> State {
    State::create(vec!["platform", "env"], vec![0, 7]).unwrap()
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
    assert_eq!((state.current(0), state.current(7), state.current(1)), (1, 1, 0));
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
    let slot = state.slot(1).unwrap();
    slot.bytes[0].fetch_xor(0xff, Ordering::Relaxed);
    assert!(state.generation(1).is_none(), "the checksum does not fit");
    slot.bytes[0].fetch_xor(0xff, Ordering::Relaxed);
    assert!(state.generation(1).is_some());
    slot.generation.store(0, Ordering::Relaxed);
    assert!(state.generation(1).is_none(), "it was being written");
}

#[test]
fn a_longer_token_leaves_nothing_behind_a_shorter_one() {
    let state = state();
    let long = "L".repeat(200);
    state.publish(&fresh(1, &long, Life::Known(SECOND * 60)), &now());
    state.publish(&fresh(65, "short", Life::Known(SECOND * 60)), &now());
    let rest = &state.slot(1).unwrap().bytes[1..];
    assert!(rest.iter().all(|word| word.load(Ordering::Relaxed) == 0));
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
        strikes: 3,
        not_before: SECOND * 7,
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
    let memory = state.memory().unwrap().try_clone_to_owned().unwrap();
    let adopted = State::adopt(memory, vec!["platform", "env"], vec![0, 7]).unwrap();
    let saved = adopted.load();
    assert_eq!(saved.progress, progress);
    assert_eq!(saved.token.unwrap().secret.expose(), b"ghs_a");
    assert_eq!(adopted.reserve(), 2, "no number twice");
}

#[test]
fn a_file_that_is_no_state_is_refused() {
    let memory = memory::anonymous(c"test").unwrap();
    assert!(State::adopt(memory.try_clone().unwrap(), vec![], vec![]).is_err());
    nix::unistd::ftruncate(&memory, i64::try_from(size_of::<Shared>()).unwrap()).unwrap();
    assert!(State::adopt(memory, vec![], vec![]).is_err(), "no magic");
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
