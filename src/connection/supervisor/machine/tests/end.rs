//! The end, which may come in every state.

use super::*;

/// Every kind of state, by name.
fn states() -> Vec<(&'static str, World)> {
    let starting = {
        let mut world = World::new();
        world.tick();
        world
    };
    let failing = {
        let mut world = World::new();
        world.tick();
        world.dies(Id(1), crashed());
        world
    };
    let upgrading = {
        let mut world = World::serving();
        world.tell(Event::UpgradeAsked);
        world.tick();
        world
    };
    let asked = {
        let mut world = World::serving();
        world.tell(Event::UpgradeAsked);
        world
    };
    let dying = {
        let mut world = World::serving();
        (world.manners.mortal, world.manners.answers) = (false, false);
        world.tell(Event::Requested { taken: world.signs.taken });
        world.pass(2 * SECOND);
        world
    };
    let lost = {
        let mut world = World::serving();
        world.manners.renewed = (Err("no"), true);
        world.tell(Event::Renewed { outcome: Err("no".to_owned()), is_lost: true });
        world
    };
    let standing_in = {
        let mut world = World::serving();
        world.manners.no_start = Some(("no", None));
        world.dies(Id(1), killed());
        world.pass(6 * SECOND);
        assert!(world.machine.stands_in());
        world
    };
    vec![
        ("before the first start", World::new()),
        ("starting", starting),
        ("failing", failing),
        ("serving", World::serving()),
        ("an upgrade is asked for", asked),
        ("upgrading", upgrading),
        ("dying", dying),
        ("the connection is lost", lost),
        ("standing in", standing_in),
    ]
}

#[test]
fn the_worker_is_asked_to_end_and_nothing_is_started_any_more() {
    // Also with the connection: it may have tokens to revoke.
    for (event, end) in [(Event::StopAsked, End::Stopped), (Event::ConnectionEnded, End::Unmounted)]
    {
        for (state, mut world) in states() {
            let worker = world.machine.worker();
            world.wanted();
            world.tell(event.clone());
            let mut expected = vec![Action::Stopping];
            expected.extend(worker.map(Action::AskToStop));
            expected.push(Action::End(end));
            assert_eq!(world.wanted(), expected, "{state}");
            nothing_follows(&mut world, state);
        }
    }
}

fn nothing_follows(world: &mut World, state: &str) {
    let worker = Id(1);
    for event in [
        Event::UpgradeAsked,
        Event::Closed { worker, ending: Some(crashed()) },
        Event::Ready { worker, init: Init::Same },
        Event::Renewed { outcome: Ok(Renewal::Visible), is_lost: true },
        Event::StopAsked,
        Event::ConnectionEnded,
    ] {
        world.tell(event);
        for _ in 0..60 {
            world.now += SECOND;
            world.tick();
            world.tell(Event::Looked(world.signs));
        }
    }
    assert_eq!(world.wanted(), [], "{state}");
}
