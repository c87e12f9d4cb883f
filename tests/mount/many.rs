//! Many readers at once, and many rotations.

use std::collections::HashSet;
use std::fs;
use std::sync::{Arc, Barrier};

use molecule_tokenfs::demo::Setup;

use crate::support::namespace::sandboxed;
use crate::support::secs;
use crate::{Workspace, read};

#[test]
fn a_thousand_cold_readers_make_one_request_and_get_the_same_token() {
    sandboxed(secs(60), || {
        let workspace = Workspace::start(Setup::default());
        workspace.demo.faults().latency(molecule_tokenfs::demo::faults::Service::Platform, secs(1));
        let path = workspace.path("token");
        let start = Arc::new(Barrier::new(1000));
        let readers: Vec<_> = (0..1000)
            .map(|_| {
                let (path, start) = (path.clone(), Arc::clone(&start));
                std::thread::Builder::new()
                    .stack_size(64 * 1024)
                    .spawn(move || {
                        start.wait();
                        fs::read(path)
                    })
                    .expect("a thread")
            })
            .collect();
        let tokens: HashSet<_> =
            readers.into_iter().map(|reader| reader.join().unwrap().expect("a token")).collect();
        assert_eq!(tokens.len(), 1);
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 1);
    });
}

#[test]
fn ten_thousand_opens_across_rotations_see_no_error_and_the_size_is_the_bytes() {
    sandboxed(secs(60), || {
        // A life ends at a whole second, and a second is subtracted: 1 to 2 s remain of 3.
        let workspace = Workspace::start(Setup::with_life(secs(3)));
        let (mut opens, mut tokens, mut lengths) = (0, HashSet::new(), HashSet::new());
        while opens < 10_000 || tokens.len() < 10 {
            let seen = read(&workspace.path("token")).expect("an open never fails");
            assert_eq!(seen.size, seen.bytes.len() as u64);
            assert!(!workspace.demo.ledger().left(&seen.bytes).is_zero(), "a dead token");
            lengths.insert(seen.size);
            tokens.insert(seen.bytes);
            opens += 1;
        }
        assert!(lengths.len() > 1, "the lengths change");
    });
}
