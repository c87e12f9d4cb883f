//! Workers that hang, and what is done if they do not even end when they are killed.

use super::*;

fn too_slow() -> String {
    "it did not go on with its start for 8s".to_owned()
}

/// A world in which worker 1 was killed since it hangs, and does not end.
fn stuck() -> World {
    let mut world = World::serving();
    (world.manners.mortal, world.manners.answers) = (false, false);
    world.tell(Event::Requested { taken: world.signs.taken });
    world.pass(2 * SECOND);
    world
}

#[test]
fn a_start_may_take_its_time_as_long_as_it_goes_on() {
    let mut world = World::new();
    world.tick();
    for _ in 0..10 {
        world.pass(7 * SECOND);
        world.signs.steps += 1;
        world.tick();
    }
    assert_eq!(world.wanted(), [start(1, Role::Worker)]);
    world.pass(8 * SECOND - MILLISECOND);
    assert_eq!(world.wanted(), []);
    world.pass(MILLISECOND);
    let mut expected = end_of(1).to_vec();
    expected.push(failed(1, &too_slow(), 50 * MILLISECOND));
    assert_eq!(world.wanted(), expected);
}

#[test]
fn a_worker_that_takes_nothing_is_asked_then_killed_and_followed() {
    let mut world = World::serving();
    world.manners.answers = false;
    world.tell(Event::Requested { taken: world.signs.taken });
    assert_eq!(world.wanted(), []);
    world.pass(SECOND);
    assert_eq!(world.wanted(), [Action::Ping]);
    world.pass(SECOND - MILLISECOND);
    assert_eq!(world.wanted(), []);
    world.pass(MILLISECOND);
    let mut expected = vec![Action::Tell(News::Stuck), Action::Charge];
    expected.extend(end_of(1));
    assert_eq!(world.wanted()[..5], expected);
    world.tick();
    assert_eq!(world.machine.worker(), Some(Id(2)), "at once: it is not that it does not start");
}

#[test]
fn what_a_worker_answers_late_is_no_sign_of_a_hang() {
    let mut world = World::serving();
    world.manners.answers = false;
    world.tell(Event::Requested { taken: world.signs.taken });
    for _ in 0..30 {
        world.signs.taken += 1;
        world.signs.pending = 3;
        world.pass(SECOND);
    }
    assert!(world.serves());
    assert!(!world.wanted().iter().any(|action| matches!(action, Action::Kill(_))));
}

#[test]
fn beside_one_that_does_not_end_there_is_room_for_one_more() {
    let mut world = stuck();
    world.tick();
    assert_eq!(world.machine.worker(), Some(Id(2)));
    world.ready(Init::Same);
    world.wanted();
    world.tell(Event::UpgradeAsked);
    world.tick();
    let why = "an earlier worker was killed and has not ended; there are never more than two";
    let refused = Action::NoteUpgrade(Err(why.to_owned()));
    assert_eq!(world.wanted(), [Action::Reloading, refused]);
    assert_eq!(world.most_alive, 2);
}

#[test]
fn one_that_was_killed_and_ends_in_time_costs_nothing() {
    let mut world = stuck();
    world.tick();
    world.ready(Init::Same);
    world.pass(2 * SECOND);
    world.release();
    world.signs.taken += 1;
    world.pass(SECOND);
    assert!(!world.wanted().contains(&Action::Remount));
}

#[test]
fn one_that_does_not_end_costs_the_connection_and_the_mount_is_made_anew() {
    let mut world = stuck();
    world.tick();
    world.ready(Init::Same);
    world.tell(Event::UpgradeAsked);
    world.wanted();
    let killed = world.now;
    while !world.actions.contains(&Action::Remount) {
        world.signs.taken += 1;
        world.pass(100 * MILLISECOND);
    }
    assert!((2900..=3000).contains(&(world.now - killed).as_millis()));
    let mut expected = vec![Action::Tell(News::Late), Action::Remount];
    expected.extend(end_of(2));
    expected.push(Action::NoteRemount);
    let wanted = world.wanted();
    let at = wanted.iter().position(|action| *action == expected[0]).unwrap();
    assert_eq!(wanted[at..at + expected.len()], expected);
    // Worker 2 had the old connection, and does not end either: nobody can be started.
    world.pass(10 * SECOND);
    assert_eq!(world.machine.worker(), None);
    world.release();
    world.tick();
    world.ready(Init::Same);
    assert!(world.serves() && world.machine.is_mounted());
    assert_eq!(world.most_alive, 2);
}

#[test]
fn an_upgrade_on_its_way_ends_with_the_connection() {
    let mut world = World::serving();
    world.tell(Event::UpgradeAsked);
    world.tick();
    world.wanted();
    world.tell(Event::Renewed { outcome: Ok(Renewal::Visible), is_lost: true });
    let why = "the mount had to be made anew meanwhile".to_owned();
    let mut expected = end_of(2).to_vec();
    expected.push(Action::NoteUpgrade(Err(why)));
    expected.extend(end_of(1));
    expected.push(Action::NoteRemount);
    assert_eq!(world.wanted(), expected);
}

#[test]
fn where_the_kernel_begins_in_another_way_the_next_worker_answers_it() {
    let mut world = stuck();
    world.manners.renewed.0 = Ok(Renewal::AwaitsWorker);
    world.pass(4 * SECOND);
    world.release();
    world.tick();
    assert!(!world.machine.is_mounted());
    world.wanted();
    world.ready(Init::First);
    let id = world.machine.worker().unwrap();
    assert_eq!(world.wanted(), [Action::Mount(id), Action::Go(id)], "it is not announced again");
    assert!(world.machine.is_mounted());
}

#[test]
fn a_mount_that_cannot_be_made_anew_stays_if_its_connection_does() {
    let mut world = stuck();
    world.tick();
    world.ready(Init::Same);
    world.manners.renewed = (Err("no"), false);
    world.wanted();
    for _ in 0..10 {
        world.signs.taken += 1;
        world.pass(SECOND);
    }
    let wanted = world.wanted();
    assert_eq!(wanted.iter().filter(|action| **action == Action::Remount).count(), 1);
    assert!(wanted.contains(&Action::Tell(News::MountStays { why: "no".to_owned() })));
    assert!(world.serves(), "worker 2 is left to its work");
}

#[test]
fn a_mount_whose_connection_is_gone_is_tried_again_under_back_off() {
    let mut world = stuck();
    world.manners.renewed = (Err("no"), true);
    world.wanted();
    let mut pauses = Vec::new();
    while pauses.len() < 12 {
        world.pass(10 * MILLISECOND);
        for action in world.wanted() {
            assert!(!matches!(action, Action::StandIn { .. }), "there is nothing to answer on");
            if let Action::Tell(News::Failed { how, pause, .. }) = action {
                assert_eq!(how, "the mount cannot be made anew: no");
                pauses.push(pause.as_millis());
            }
        }
    }
    assert_eq!(pauses[..4], [50, 100, 200, 400]);
    assert_eq!(pauses[11], 30_000);
    assert!(world.machine.connection_is_lost() && !world.machine.is_mounted());
    world.manners = Manners::good();
    world.release();
    world.pass(31 * SECOND);
    world.ready(Init::Same);
    assert!(world.serves() && world.machine.is_mounted());
}
