//! Root's own commands, run where the agent has laid traps; the daemon itself was started there, too.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Attack, PROGRAM, boxed};
use crate::scene::{Form, Scene};
use crate::support::process::{User, command};

/// A command of root's; `AGENT` stands for the agent's name, `MOUNT` for the mountpoint.
struct Roots(&'static str, &'static [&'static [&'static str]]);

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([
        Roots(
            "root looks for what is wrong",
            &[&["doctor", "--json", "--user", "AGENT"], &["doctor", "--json"]],
        ),
        Roots(
            "root wires git and gh",
            &[
                &["setup", "git"],
                &["setup", "git", "--undo"],
                &["setup", "gh"],
                &["setup", "gh", "--undo"],
            ],
        ),
        Roots("root reads a token", &[&["get", "MOUNT"], &["status", "MOUNT"], &["check"]]),
        Roots(
            "root runs a command of the agent's",
            &[&[
                "run",
                "--made-up",
                "1m",
                "--no-system-wide",
                "--mountpoint",
                "OTHER",
                "--user",
                "AGENT",
                "--",
                "/bin/true",
            ]],
        ),
    ])
}

impl Attack for Roots {
    fn name(&self) -> &str {
        self.0
    }

    /// A daemon that was started in the traps as the first process is judged here, too.
    fn forms(&self) -> &[Form] {
        &Form::ALL
    }

    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
        let words = self.1.choose(random).unwrap();
        let mountpoint = scene.mountpoint();
        let other = scene.dir().join("other");
        let mut roots = command(&scene.world.program, User::Own);
        for word in *words {
            match *word {
                "AGENT" => roots.arg(&scene.user),
                "MOUNT" => roots.arg(&mountpoint),
                "OTHER" => roots.arg(&other),
                word => roots.arg(word),
            };
        }
        // How it ends is its own business: the agent's home is meant to break it. What root ran or
        // wrote there is looked for after every attack.
        scene.run(scene.traps.around(roots), PROGRAM);
        Ok(())
    }
}
