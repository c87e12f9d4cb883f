//! The take-over by a newer worker, and everything that can come between.

use super::*;

/// A world in which worker 1 serves, and candidate 2 starts.
fn upgrading() -> World {
    let mut world = World::serving();
    world.tell(Event::UpgradeAsked);
    world.tick();
    assert_eq!(world.wanted(), [Action::Reloading, start(2, Role::Candidate)]);
    world
}

#[test]
fn a_newer_worker_that_is_ready_takes_over() {
    let mut world = upgrading();
    world.ready(Init::Same);
    let mut expected = end_of(1).to_vec();
    expected.extend([Action::Go(Id(2)), Action::Adopt(Id(2)), Action::NoteUpgrade(Ok(()))]);
    assert_eq!(world.wanted(), expected);
    assert_eq!((world.machine.worker(), world.machine.candidate()), (Some(Id(2)), None));
    assert!(world.serves());
}

type Failure = Box<dyn FnOnce(&mut World)>;

#[test]
fn one_that_cannot_take_over_leaves_the_old_worker_in_its_place() {
    let ready = |init| move |world: &mut World| world.ready(init);
    let other = "it answers the kernel in another way, so only a restart can bring it";
    let cases: [(Failure, &str, bool); 5] = [
        (Box::new(ready(Init::Other)), other, true),
        (Box::new(ready(Init::First)), other, true),
        (Box::new(ready(Init::Missing("no".to_owned()))), "it does not answer INIT: no", true),
        (
            Box::new(|world| world.dies(Id(2), crashed())),
            "it ended before it was ready (signal: 6 (SIGABRT)); its log says why",
            false,
        ),
        (Box::new(|world| world.pass(8 * SECOND)), "it did not go on with its start for 8s", true),
    ];
    for (fail, why, is_killed) in cases {
        let mut world = upgrading();
        fail(&mut world);
        let mut expected = if is_killed { end_of(2).to_vec() } else { Vec::new() };
        expected.push(Action::NoteUpgrade(Err(why.to_owned())));
        assert_eq!(world.wanted(), expected, "{why}");
        assert_eq!((world.machine.worker(), world.machine.candidate()), (Some(Id(1)), None));
        assert!(world.serves(), "{why}");
        assert_eq!(world.machine.dying().all().count(), 0, "{why}");
    }
}

#[test]
fn one_that_cannot_be_started_leaves_the_old_worker_in_its_place() {
    for refused in [None, Some(Errno::EPERM)] {
        let mut world = World::serving();
        world.manners.no_start = Some(("no such file", refused));
        world.tell(Event::UpgradeAsked);
        world.tick();
        let why = "it cannot be started: no such file".to_owned();
        let outcome = Action::NoteUpgrade(Err(why));
        assert_eq!(world.wanted(), [Action::Reloading, start(2, Role::Candidate), outcome]);
        assert!(world.serves());
    }
}

#[test]
fn the_latest_upgrade_counts() {
    let mut world = upgrading();
    world.tell(Event::UpgradeAsked);
    world.tick();
    let mut expected = vec![Action::Reloading];
    expected.extend(end_of(2));
    expected.push(start(3, Role::Candidate));
    assert_eq!(world.wanted(), expected);
    world.ready(Init::Same);
    assert_eq!(world.machine.worker(), Some(Id(3)));
    assert_eq!(world.most_alive, 2);
}

#[test]
fn a_worker_that_ends_during_an_upgrade_is_followed_and_the_newer_one_takes_over_all_the_same() {
    let mut world = upgrading();
    world.dies(Id(1), killed());
    world.tick();
    assert_eq!(world.wanted()[..2], [died(killed()), start(3, Role::Worker)]);
    // Either may be ready first.
    world.tell(Event::Ready { worker: Id(3), init: Init::Same });
    assert!(world.serves());
    world.wanted();
    world.ready(Init::Same);
    assert_eq!(world.wanted()[..3], end_of(3));
    assert_eq!(world.machine.worker(), Some(Id(2)));

    let mut world = upgrading();
    world.dies(Id(1), killed());
    world.ready(Init::Same);
    assert_eq!(world.machine.worker(), Some(Id(2)), "nobody else was started yet");
    world.tick();
    assert_eq!(world.most_alive, 2);
}

#[test]
fn an_upgrade_does_not_change_when_the_next_worker_is_tried() {
    let mut world = World::serving();
    world.dies(Id(1), killed());
    world.tick();
    world.dies(Id(2), crashed());
    world.wanted();
    world.tell(Event::UpgradeAsked);
    world.tick();
    let wanted = world.wanted();
    assert_eq!(wanted[..2], [Action::Reloading, start(3, Role::Candidate)]);
    world.pass(50 * MILLISECOND);
    assert!(world.wanted().contains(&start(4, Role::Worker)));
    assert_eq!(world.most_alive, 2);
}

#[test]
fn a_newer_worker_ends_the_standing_in() {
    let mut world = World::serving();
    world.manners.no_start = Some(("no", None));
    world.dies(Id(1), killed());
    world.pass(6 * SECOND);
    assert!(world.machine.stands_in());
    world.manners = Manners::good();
    world.tell(Event::UpgradeAsked);
    world.tick();
    world.wanted();
    let newer = world.machine.candidate().unwrap();
    world.ready(Init::Same);
    let adopted =
        [Action::Go(newer), Action::ServesAgain, Action::Adopt(newer), Action::NoteUpgrade(Ok(()))];
    assert_eq!(world.wanted(), adopted);
}
