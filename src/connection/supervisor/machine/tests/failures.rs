//! Workers that cannot be started, that do not come up, and that crash.

use super::*;

/// The pauses between `count` failures.
fn pauses(world: &mut World, count: usize) -> Vec<u128> {
    world.wanted();
    let mut pauses = Vec::new();
    while pauses.len() < count {
        world.tick();
        if let Some(worker) = world.machine.worker() {
            world.dies(worker, crashed());
        }
        for action in world.wanted() {
            if let Action::Tell(News::Failed { failures, pause, .. }) = action {
                pauses.push(pause.as_millis());
                assert_eq!(usize::try_from(failures), Ok(pauses.len()));
                world.now += pause;
            }
        }
    }
    pauses
}

#[test]
fn workers_that_never_came_up_are_given_up_after_a_few() {
    let mut world = World::new();
    assert_eq!(pauses(&mut world, 5), [50, 100, 200, 400, 800]);
    world.tick();
    world.dies(Id(6), crashed());
    let last = crashed().how;
    let wanted = world.wanted();
    assert_eq!(wanted, [start(6, Role::Worker), Action::GiveUp(GiveUp::Fails { last })]);
}

#[test]
fn once_one_has_served_they_are_tried_for_ever() {
    let mut world = World::serving();
    world.dies(Id(1), killed());
    let pauses = pauses(&mut world, 40);
    assert_eq!(pauses[..4], [50, 100, 200, 400]);
    assert_eq!(pauses[8..12], [12_800, 25_600, 30_000, 30_000]);
    assert_eq!(pauses[39], 30_000);
    world.manners = Manners::good();
    world.tick();
    world.ready(Init::Same);
    assert!(world.serves());
}

#[test]
fn no_worker_is_tried_during_the_pause() {
    let mut world = World::serving();
    world.dies(Id(1), killed());
    world.tick();
    world.dies(Id(2), crashed());
    world.wanted();
    world.pass(49 * MILLISECOND);
    assert!(world.wanted().iter().all(|action| *action == Action::AnswerOverdue));
    world.pass(MILLISECOND);
    assert!(world.wanted().contains(&start(3, Role::Worker)));
}

#[test]
fn a_system_that_refuses_processes_ends_the_first_start_and_no_later_one() {
    for (refused, first, later) in [
        (Some(Errno::EPERM), Action::GiveUp(GiveUp::Refused(Errno::EPERM)), 1),
        (None, failed(1, "it cannot be started: no", 50 * MILLISECOND), 1),
    ] {
        let mut world = World::new();
        world.manners.no_start = Some(("no", refused));
        world.tick();
        assert_eq!(world.wanted(), [start(1, Role::Worker), first]);

        let mut world = World::serving();
        world.manners.no_start = Some(("no", refused));
        world.dies(Id(1), killed());
        world.wanted();
        world.tick();
        let again = failed(later, "it cannot be started: no", 50 * MILLISECOND);
        assert!(world.wanted().contains(&again), "{refused:?}");
    }
}

#[test]
fn a_crash_soon_after_the_start_is_a_failure_unless_a_request_is_to_blame() {
    // (after, crashed, a request was in hand, is a failure)
    for (after, is_crash, charged, is_failure) in [
        (999 * MILLISECOND, true, false, true),
        (999 * MILLISECOND, true, true, false),
        (SECOND, true, false, false),
        (999 * MILLISECOND, false, false, false),
    ] {
        let mut world = World::serving();
        world.dies(Id(1), killed());
        world.tick();
        world.ready(Init::Same);
        world.pass(after);
        world.manners.charged = charged;
        world.wanted();
        let ending = if is_crash { crashed() } else { killed() };
        world.dies(Id(2), ending.clone());
        let mut expected = if is_crash { vec![Action::Charge] } else { Vec::new() };
        expected.push(if is_failure {
            failed(1, &ending.how, 50 * MILLISECOND)
        } else {
            died(ending)
        });
        assert_eq!(world.wanted(), expected, "{after:?} {is_crash} {charged}");
    }
}

#[test]
fn one_that_answers_the_kernel_in_another_way_is_killed_and_counts_as_failed() {
    let mut world = World::serving();
    world.dies(Id(1), killed());
    world.tick();
    world.wanted();
    world.ready(Init::Other);
    assert_eq!(world.wanted(), [Action::Kill(Id(2))]);
    world.dies(Id(2), killed());
    assert_eq!(world.wanted(), [failed(1, &killed().how, 50 * MILLISECOND)]);
}

#[test]
fn while_no_worker_starts_the_supervisor_stands_in_and_one_that_starts_ends_that() {
    let mut world = World::serving();
    world.manners.no_start = Some(("no memory", None));
    world.dies(Id(1), killed());
    let since = world.now;
    world.wanted();
    let why = "it cannot be started: no memory";
    let stands_in = Action::StandIn { why: why.to_owned() };
    world.tell(Event::RequestWaits);
    assert_eq!(world.wanted(), [], "the next worker may answer it");
    while !world.wanted().contains(&stands_in) {
        assert!(!world.machine.stands_in());
        world.pass(10 * MILLISECOND);
    }
    // Sooner than the deadline: after 3,150 ms the next try is 3,200 ms away, beyond it.
    assert_eq!(world.now - since, 3150 * MILLISECOND);
    world.tell(Event::RequestWaits);
    assert_eq!(world.wanted(), [Action::Refuse]);

    world.manners = Manners::good();
    world.pass(4 * SECOND);
    world.wanted();
    assert!(world.machine.stands_in(), "one that starts does not serve yet");
    world.ready(Init::Same);
    assert_eq!(
        world.wanted()[..2],
        [Action::Go(world.machine.worker().unwrap()), Action::ServesAgain]
    );
    assert!(!world.machine.stands_in());
}

#[test]
fn nobody_waits_beyond_the_deadline_for_a_worker_that_starts_slowly() {
    let mut world = World::serving();
    world.dies(Id(1), killed());
    let since = world.now;
    world.wanted();
    world.pass(PATIENCE - MILLISECOND);
    assert!(!world.machine.stands_in());
    let looks = world.wanted().iter().filter(|action| **action == Action::AnswerOverdue).count();
    assert!(looks >= 5, "overdue opens are looked for each second: {looks}");
    world.pass(MILLISECOND);
    assert!(world.wanted().contains(&Action::StandIn { why: String::new() }));
    assert_eq!(world.now - since, PATIENCE);
}
