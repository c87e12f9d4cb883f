//! The log that the daemon shares with the agent: a terminal, or the pipe of `run`.

use rand::rngs::StdRng;

use super::{Act, Attack, PROGRAM, boxed};
use crate::scene::{Form, Scene};

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([
        Act { name: "a log that is full and that nobody reads", forms: &Form::ALL, run: fill },
        Act { name: "a terminal whose output is stopped", forms: &Form::HERE, run: stop },
    ])
}

/// Any Node program sets the flag on a pipe that it shares.
const FILL: &str = r#"
flags = fcntl.fcntl(2, fcntl.F_GETFL)
fcntl.fcntl(2, fcntl.F_SETFL, flags | os.O_NONBLOCK)
written = asked = 0
while going():
    for size in (65536, 1):
        try:
            while True:
                written += os.write(2, b"x" * size)
        except BlockingIOError:
            pass
    asked += ask("now") == 0
    ask("nonsense")
    look()
fcntl.fcntl(2, fcntl.F_SETFL, flags)
done(written, asked)
"#;

const STOP: &str = r#"
termios.tcflow(2, termios.TCOOFF)
asked = 0
while going():
    asked += ask("now") == 0
    ask("nonsense")
    look()
termios.tcflow(2, termios.TCOON)
done(asked)
"#;

fn fill(scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
    let _nobody_reads = scene.log.pause();
    scene.agent.run(FILL, &scene.variables(random), PROGRAM)
}

fn stop(scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
    scene.agent.run(STOP, &scene.variables(random), PROGRAM)
}
