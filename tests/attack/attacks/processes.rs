//! The processes of the daemon: those of root, and the file readers, which have the agent's rights.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rand::rngs::StdRng;

use super::{Act, Attack, PROGRAM, Program, boxed};
use crate::scene::{Form, Scene};

pub fn all() -> Vec<Box<dyn Attack>> {
    let mut all = boxed([
        Program { name: "signals, limits and looks at the daemon", forms: &Form::ALL, text: POKE },
        Program { name: "file readers are killed and stopped", forms: &Form::ALL, text: READERS },
        Program {
            name: "commands of the same user are looked into",
            forms: &Form::ALL,
            text: CORES,
        },
    ]);
    let name = "a setuid program against the first process";
    all.extend(boxed([Act { name, forms: &[Form::FirstProcess], run: sudo }]));
    all
}

const POKE: &str = r#"
libc = ctypes.CDLL(None, use_errno=True)
known = status()
roots = [known["supervisor_pid"], known["worker_pid"]]
tries = 0

def refused(what, act):
    global tries
    tries += 1
    try:
        act()
    except (OSError, PermissionError):
        return
    harm(f"the agent could {what}")

def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

buffer = ctypes.create_string_buffer(64)
while going() or tries == 0:
    for process in roots:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGXFSZ, signal.SIGRTMIN, signal.SIGRTMAX):
            refused(f"send {number}", lambda: os.kill(process, number))
        for name in ("environ", "mem", "maps", "auxv", "syscall", "stack"):
            refused(f"read {name}", lambda: open(f"/proc/{process}/{name}", "rb").read(1))
        for name in ("fd", "map_files", "ns"):
            refused(f"look at {name}", lambda: [os.readlink(f"/proc/{process}/{name}/{entry}") for entry in os.listdir(f"/proc/{process}/{name}")])
        for name, value in (("oom_score_adj", "1000"), ("clear_refs", "1"), ("comm", "x"), ("autogroup", "19")):
            refused(f"write {name}", lambda: open(f"/proc/{process}/{name}", "w").write(value))
        refused("set a limit", lambda: resource.prlimit(process, resource.RLIMIT_NOFILE, (0, 0)))
        refused("trace", lambda: call("ptrace", 16, process, 0, 0))
        refused("change the priority", lambda: os.setpriority(os.PRIO_PROCESS, process, 19))
        refused("take a processor away", lambda: os.sched_setaffinity(process, {0}))
    refused("unmount", lambda: call("umount2", MOUNT.encode(), 2))
    refused("unmount by force", lambda: call("umount2", MOUNT.encode(), 1))
    refused("move the parent", lambda: os.rename(os.path.dirname(MOUNT), os.path.dirname(MOUNT) + ".moved"))
    refused("move the mountpoint", lambda: os.rename(MOUNT, MOUNT + ".moved"))
    refused("unmount by fusermount3", lambda: subprocess.run(["/usr/bin/fusermount3", "-u", "-z", MOUNT], check=False, capture_output=True).returncode == 0 or call("close", -1))
    told = subprocess.run(["unshare", "-Urm", "umount", "-l", MOUNT], capture_output=True)
    time.sleep(0.01)
done(tries)
"#;

/// They have the agent's user, and so take the agent's signals.
const READERS: &str = r#"
def readers():
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid in (0, os.getuid()):
                line = open(f"/proc/{name}/cmdline", "rb").read().split(b"\0")
                parent = int(open(f"/proc/{name}/stat").read().rsplit(")", 1)[1].split()[1])
                if b"read-foreign" in line and parent in parents:
                    found.append(int(name))
        except (OSError, IndexError):
            pass
    return found

known = status()
parents = [known["supervisor_pid"], known["worker_pid"]]
hit = 0
stopped = []
while going():
    os.utime(CONFIGS + "/.auth_token")
    ask("now")
    for reader in readers():
        for act in (
            lambda: resource.prlimit(reader, resource.RLIMIT_NOFILE, (0, 0)),
            lambda: resource.prlimit(reader, resource.RLIMIT_AS, (1 << 20, 1 << 20)),
            lambda: os.kill(reader, random.choice((signal.SIGSTOP, signal.SIGKILL, signal.SIGSEGV))),
        ):
            try:
                act()
                hit += 1
            except OSError:
                pass
done(hit)
"#;

/// What reads a token for the agent shows it to nobody else, not even to the same user.
const CORES: &str = r#"
libc = ctypes.CDLL(None, use_errno=True)
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
place = os.environ["PLACE"]
looked = seen = 0
while going() or looked == 0:
    child = subprocess.Popen([PROGRAM, "get", MOUNT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=place)
    for _ in range(200):
        try:
            line = open(f"/proc/{child.pid}/cmdline", "rb").read()
            if not line.startswith(PROGRAM.encode()):
                continue
            memory = open(f"/proc/{child.pid}/maps").read()
            seen += 1
        except OSError:
            pass
        if child.poll() is not None:
            break
    child.send_signal(signal.SIGQUIT)
    child.communicate()
    looked += 1
for name in os.listdir(place):
    if name.startswith("core"):
        harm("a core was dumped")
done(looked, seen)
"#;

/// A setuid program that the agent may use as it likes, as `sudo` may be. Renaming the directories above
/// is left out: they are root's, and so is it.
const SUDO: &str = r#"
sudo = [os.environ["PLACE"] + "/../sudo", "--reuid", "0", "--regid", "0", "--clear-groups", "--"]

def root(*words):
    return subprocess.run([*sudo, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

if not root("true"):
    raise SystemExit("the setuid program does nothing")
known = status()
# Others are passed on to the command, which is the agent.
for number in ("STOP", "KILL", "SEGV"):
    root("kill", "-" + number, str(known["supervisor_pid"]))
if root("umount", "--lazy", MOUNT):
    harm("unmounted")
if root("cat", f"/proc/{known['supervisor_pid']}/environ"):
    harm("looked into the daemon")
root("kill", "-" + random.choice(("STOP", "KILL", "SEGV", "XFSZ", "TERM")), str(known["worker_pid"]))
for _ in range(5):
    look()
done()
"#;

fn sudo(scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
    let sudo = scene.dir().join("sudo");
    if !sudo.exists() {
        fs::copy("/usr/bin/setpriv", &sudo).expect("a program");
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o4755)).expect("a mode");
    }
    scene.agent.run(SUDO, &scene.variables(random), PROGRAM)
}
