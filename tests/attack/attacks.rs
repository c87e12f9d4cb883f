//! The attacks, a file for each family.

use std::time::Duration;

use rand::rngs::StdRng;

use crate::scene::{Form, Scene};
use crate::support::secs;

mod bearer;
mod crowds;
mod hosts;
mod log;
mod mount;
mod places;
mod processes;
mod roots_commands;
mod servers;
mod storms;
mod strangers;
mod terminal;

/// One attack. What it changes in the configs directory or of the platform is taken back after it.
pub trait Attack {
    fn name(&self) -> &str;

    /// The forms that it can be made on.
    fn forms(&self) -> &[Form] {
        &Form::ALL
    }

    /// Makes it. The error is harm that the readers do not see.
    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String>;
}

/// Every attack there is.
pub fn all() -> Vec<Box<dyn Attack>> {
    [
        bearer::all(),
        crowds::all(),
        hosts::all(),
        log::all(),
        mount::all(),
        places::all(),
        processes::all(),
        roots_commands::all(),
        servers::all(),
        storms::all(),
        strangers::all(),
        terminal::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How long a program of the agent's may take beyond its time.
const PROGRAM: Duration = secs(40);

/// A program of the agent's, in Python (`agent.py` is what it begins with). It tells of harm in lines
/// that begin with `harm: `, and ends with one that begins with `done`.
struct Program {
    name: &'static str,
    forms: &'static [Form],
    text: &'static str,
}

impl Attack for Program {
    fn name(&self) -> &str {
        self.name
    }

    fn forms(&self) -> &[Form] {
        self.forms
    }

    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
        scene.agent.run(self.text, &scene.variables(random), PROGRAM)
    }
}

/// An attack in Rust.
struct Act {
    name: &'static str,
    forms: &'static [Form],
    run: fn(&Scene<'_>, &mut StdRng) -> Result<(), String>,
}

impl Attack for Act {
    fn name(&self) -> &str {
        self.name
    }

    fn forms(&self) -> &[Form] {
        self.forms
    }

    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
        (self.run)(scene, random)
    }
}

/// A list of attacks of one kind.
fn boxed<A: Attack + 'static>(attacks: impl IntoIterator<Item = A>) -> Vec<Box<dyn Attack>> {
    attacks.into_iter().map(|attack| Box::new(attack) as Box<dyn Attack>).collect()
}
