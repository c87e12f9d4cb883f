//! Many at once.

use molecule_tokenfs::demo::faults::{Fault, Service};
use rand::rngs::StdRng;

use super::{Act, Attack, PROGRAM, boxed};
use crate::scene::{Form, Scene};
use molecule_tokenfs::connection::kernel::Kernel;

pub fn all() -> Vec<Box<dyn Attack>> {
    let mut all =
        vec![Act { name: "more opens wait than the daemon keeps", forms: &Form::FUSE, run: crowd }];
    // From then on a process namespace has a limit of its own.
    if Kernel::running() >= Kernel(6, 14) {
        let name = "no process can be started";
        all.push(Act { name, forms: &[Form::FirstProcess], run: no_process });
    }
    boxed(all)
}

/// Each opens once and waits for the platform, which hangs.
const CROWD: &str = r#"
threading.stack_size(1 << 16)
errors, lock = {}, threading.Lock()
longest = 0

def wait():
    global longest
    start = time.monotonic()
    what = look(random.choice(("token", "netrc")))
    took = time.monotonic() - start
    with lock:
        longest = max(longest, took)
        what = what if isinstance(what, int) else 0
        errors[what] = errors.get(what, 0) + 1

threads = []
for _ in range(int(os.environ["MANY"]) // 2):
    thread = threading.Thread(target=wait)
    try:
        thread.start()
    except RuntimeError:
        break
    threads.append(thread)
[thread.join() for thread in threads]
# A thread of a crowd waits for the others, too, to be given a processor.
if longest > 3 + 4 + len(threads) / 500:
    harm(f"one of {len(threads)} opens took {longest:.1f} s")
done(len(threads), errors)
"#;

fn crowd(scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
    scene.demo.faults().stick(Service::Platform, Some(Fault::Hang));
    scene.reject();
    scene.agent.run(CROWD, &scene.variables(random), PROGRAM)
}

/// The agent takes every process id that the container has.
const FORK: &str = r"
children = []
while len(children) < 2000:
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        time.sleep(SPAN + 30)
        os._exit(0)
    children.append(child)
start = len(children)
while going():
    look()
    time.sleep(0.01)
for child in children:
    os.kill(child, signal.SIGKILL)
for child in children:
    os.waitpid(child, 0)
done(start)
";

fn no_process(scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
    let limit = |number: &str| {
        let line = format!("echo {number} >/proc/sys/kernel/pid_max");
        scene.run(scene.enter(&["sh", "-c", &line]), PROGRAM).ok();
    };
    limit("500");
    scene.reject();
    let outcome = scene.agent.run(FORK, &scene.variables(random), PROGRAM);
    limit("32768");
    outcome
}
