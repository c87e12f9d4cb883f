//! An open of a usable token allocates nothing: it is answered on the thread that serves the
//! kernel.
#![expect(unsafe_code, reason = "an allocator that counts is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use molecule_tokenfs::refresh::simulated::{Scripted, ScriptedSource, SimulatedTime};
use molecule_tokenfs::refresh::store::MemoryStore;
use molecule_tokenfs::refresh::{Engine, Windows};
use molecule_tokenfs::time::Clock;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all work is the system allocator's; counting in a constant thread-local allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[tokio::test(start_paused = true)]
async fn an_open_of_a_usable_token_allocates_nothing() {
    let time = SimulatedTime::new();
    let clock: Arc<dyn Clock> = Arc::new(time.clone());
    let answer = Scripted::NewToken(Duration::from_hours(1));
    let source = Arc::new(ScriptedSource::new("platform", clock.clone(), answer));
    let store = Arc::new(MemoryStore::default());
    let (handle, engine) =
        Engine::new(vec![source], Windows::default(), store, clock, Arc::new(time.clone()), 1);
    let engine = tokio::spawn(engine.run());
    handle.token(None, time.now().boot + Duration::from_secs(5)).await.expect("a token");

    let before = ALLOCATIONS.get();
    for _ in 0..1000 {
        let fresh = handle.usable(None).expect("fresh");
        assert_eq!(fresh.token().generation, 1);
        assert!(handle.serves(1, None) && !handle.serves(2, None));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    // The counter counts.
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get() - before, 1);
    engine.abort();
}
