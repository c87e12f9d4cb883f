//! The terminal of the shell in which root calls `run`.

use std::path::Path;

use rand::rngs::StdRng;

use super::{Act, Attack, PROGRAM, boxed};
use crate::scene::{Form, Scene};
use crate::support::process::{User, command};

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([Act {
        name: "the command types into the shell that called run",
        forms: &Form::HERE,
        run: types,
    }])
}

fn types(scene: &Scene<'_>, _: &mut StdRng) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/run");
    let typer = scene.dir().join("typer");
    if !typer.exists() {
        let mut cc = command("cc", User::Own);
        cc.args(["-no-pie", "-o"]).arg(&typer).arg(source.join("typer.c"));
        scene.run(cc, PROGRAM).ok();
    }
    let backend = if scene.form == Form::Files { "files" } else { "fuse" };
    let line = format!(
        "{} run --made-up 1m --no-system-wide --mountpoint {} --user 1000 --backend {backend} -- {}",
        scene.world.program.display(),
        scene.dir().join("typed").display(),
        typer.display()
    );
    let mut python = command("python3", User::Own);
    python.arg(source.join("terminal.py")).args(["typed", "bash", "--norc", "-i"]);
    python.env("HOME", scene.dir().path()).env("TYPE", line);
    let told = scene.run(python, PROGRAM);
    if told.stdout.contains("\ntyped-42") {
        return Err(format!("it typed: {}", told.stdout));
    }
    let tried = told.stdout.contains("typing: ");
    if tried { Ok(()) } else { Err(format!("it did not try: {told:?}")) }
}
