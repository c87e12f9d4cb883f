//! Containers that work against whoever attaches.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::scene::{AGENT, Apart, PLACE, Scene, expect_refusal};
use crate::support::hung::Hung;
use crate::support::namespace::sandboxed;
use crate::support::secs;

/// As many as it took to see both outcomes a dozen times.
const TIMES: u32 = 40;

#[test]
fn links_that_take_the_place_of_directories_meanwhile_lead_nowhere() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let victim = scene.dir.folder("victim");
        let way = scene.dir.folder("way");
        fs::create_dir(scene.dir.join("way/token")).unwrap();
        let link = scene.dir.join("link");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let apart = Apart::start(&scene);
        let ends = Arc::new(AtomicBool::new(false));
        let exchange = thread::spawn({
            let (ends, way, link) = (Arc::clone(&ends), way.clone(), link.clone());
            move || {
                let mut times = 0_u32;
                while !ends.load(Ordering::SeqCst) {
                    renameat_with(CWD, &way, CWD, &link, RenameFlags::EXCHANGE).unwrap();
                    times += 1;
                    thread::yield_now();
                }
                times
            }
        });
        let path = way.join("token");
        let words = ["--pid", &apart.number(), "--path", path.to_str().unwrap()];
        let (mut shown, mut refused) = (0, 0);
        for _ in 0..TIMES {
            let told = scene.attach(&words);
            if told.status.success() {
                shown += 1;
            } else {
                expect_refusal(&told, "/way is a symbolic link in the container");
                refused += 1;
            }
        }
        ends.store(true, Ordering::SeqCst);
        assert!(exchange.join().unwrap() > TIMES);
        assert!(shown > 0 && refused > 0, "{shown} {refused}");
        assert_eq!(fs::read_dir(&victim).unwrap().count(), 0, "nothing was made there");
        let mounts = apart.line(&scene, "cat /proc/self/mounts").ok();
        let ours = mounts.lines().filter(|line| line.contains("fuse.molecule-tokenfs"));
        let places: Vec<_> = ours.filter_map(|line| line.split(' ').nth(1)).collect();
        assert!(places.iter().all(|it| *it == PLACE || it.ends_with("/token")), "{places:?}");
        assert!(!mounts.contains(victim.to_str().unwrap()), "{mounts}");
    });
}

#[test]
fn a_file_system_that_does_not_answer_holds_nobody_up_for_ever() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = scene.daemon(AGENT);
        let hung = Hung::new(&scene.dir);
        let apart = Apart::start(&scene);
        let path = hung.path().join("token");
        let words = ["--pid", &apart.number(), "--path", path.to_str().unwrap()];
        let refused = scene.attach(&words);
        expect_refusal(
            &refused,
            "neither the container's file systems nor the daemon answered within 10 s",
        );
        assert!(hung.waiting() > 0);
    });
}
