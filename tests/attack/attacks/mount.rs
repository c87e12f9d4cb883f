//! What the owner of the files does with them.

use super::{Attack, Program, boxed};
use crate::scene::Form;

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([
        Program { name: "writes to the file that asks for a fetch", forms: &Form::ALL, text: ASK },
        Program { name: "every call on every path", forms: &Form::ALL, text: CALLS },
        Program { name: "files are held open through rotations", forms: &Form::ALL, text: HOLD },
        Program { name: "watches on the mount", forms: &Form::ALL, text: WATCH },
        Program { name: "opens whose readers are killed", forms: &Form::ALL, text: KILLED },
    ])
}

const ASK: &str = r#"
def hammer():
    while going():
        kind = random.randrange(8)
        if kind == 0:
            reject()
        elif kind == 1:
            ask("now")
        elif kind == 2:
            ask("%08x" % random.getrandbits(32))
        elif kind == 3:
            ask("x" * random.choice((1, 7, 9, 4096, 70000)))
        else:
            try:
                flags = random.choice((os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_TRUNC))
                file = os.open(MOUNT + "/refresh", flags)
                try:
                    os.pwrite(file, random.randbytes(random.randrange(64)), random.randrange(1 << 20))
                    os.ftruncate(file, random.randrange(2))
                    os.truncate(MOUNT + "/refresh", random.randrange(1 << 16))
                finally:
                    os.close(file)
            except OSError:
                pass

threads = [threading.Thread(target=hammer) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
try:
    os.truncate(MOUNT + "/refresh", 0)
except OSError:
    pass
done()
"#;

const CALLS: &str = r#"
def paths():
    names = []
    for folder, _, files in os.walk(MOUNT + "/"):
        names.append(folder)
        names += [os.path.join(folder, name) for name in files]
    return names + [MOUNT + "/none", MOUNT + "/.next-token", MOUNT + "/live/.next-token"]

known = paths()
some = lambda: random.choice(known)
other = lambda: random.choice([some(), os.path.join(os.environ["PLACE"], "stolen")])
# Renaming something to itself succeeds anywhere.
two = lambda: random.sample([*known, os.path.join(os.environ["PLACE"], "stolen")], 2)
libc = ctypes.CDLL(None, use_errno=True)
changes = {
    "unlink": lambda: os.unlink(some()),
    "rmdir": lambda: os.rmdir(some()),
    "rename": lambda: os.rename(*two()),
    "rename in": lambda: os.rename(os.environ["PLACE"] + "/agent.py", some()),
    "exchange": lambda: exchange(*two()),
    "link": lambda: os.link(some(), other()),
    "symlink": lambda: os.symlink("/etc/passwd", some() + random.choice(("", "x"))),
    "mkdir": lambda: os.mkdir(some() + random.choice(("", "x"))),
    "mkfifo": lambda: os.mkfifo(some() + random.choice(("", "x"))),
    "create": lambda: os.close(os.open(some() + "x", os.O_CREAT | os.O_WRONLY)),
    "chown": lambda: os.chown(some(), 0, 0),
    "truncate": lambda: os.truncate(token(), random.randrange(9)),
    "write": lambda: os.close(os.open(token(), random.choice((os.O_WRONLY, os.O_RDWR)))),
}
reads = [
    lambda: os.stat(some()),
    lambda: os.listdir(some()),
    lambda: os.listxattr(some()),
    lambda: os.getxattr(some(), random.choice(("user.molecule.status", "security.selinux", "user.x"))),
    lambda: os.setxattr(some(), random.choice(("user.x", "system.molecule.refresh")), b"now"),
    lambda: os.removexattr(some(), "user.x"),
    lambda: os.utime(some()),
    lambda: os.readlink(some()),
    lambda: os.statvfs(some()),
    lambda: os.access(some(), os.W_OK),
    lambda: with_open(lambda file: os.pread(file, 1 << 20, random.randrange(1 << 40))),
    lambda: with_open(lambda file: os.lseek(file, random.randrange(1 << 40), random.randrange(5))),
    lambda: with_open(lambda file: fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)),
    lambda: with_open(lambda file: fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)),
    lambda: with_open(lambda file: fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)),
    lambda: with_open(lambda file: fcntl.fcntl(file, fcntl.F_NOTIFY, fcntl.DN_ACCESS)),
    lambda: with_open(lambda file: fcntl.ioctl(file, random.getrandbits(31), bytes(64))),
    lambda: with_open(lambda file: os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)),
    lambda: with_open(lambda file: os.posix_fallocate(file, 0, 1 << 30)),
    lambda: with_open(os.fsync),
    lambda: with_open(lambda file: os.sendfile(1, file, 0, 0)),
]

def token():
    return MOUNT + "/" + random.choice(("token", "netrc", "git-credential", "status.json", "gh/hosts.yml"))

def check(code):
    if code:
        raise OSError(ctypes.get_errno(), "refused")

def exchange(one, another):
    check(libc.renameat2(-100, one.encode(), -100, another.encode(), 2))

def with_open(act):
    flags = random.choice((0, os.O_NONBLOCK, os.O_DIRECT, os.O_PATH, os.O_NOATIME, os.O_DIRECTORY, os.O_SYNC))
    file = os.open(some(), os.O_RDONLY | flags)
    try:
        act(file)
    finally:
        os.close(file)

calls = 0
while going():
    calls += 1
    try:
        random.choice(reads)()
    except (OSError, ValueError):
        pass
    name = random.choice(list(changes))
    try:
        changes[name]()
    except OSError as error:
        if error.errno in (errno.EIO,):
            print("an I/O error of", name)
    else:
        harm(f"{name} changed the mount")
        break
if not os.path.exists(os.environ["PLACE"] + "/agent.py"):
    harm("a file was moved into the mount")
done(calls)
"#;

const HOLD: &str = r#"
import mmap
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held, maps = [], []
names = [name for name in ("token", "live/token", "netrc", "gh/hosts.yml", "status.json") if os.path.exists(MOUNT + "/" + name)]
while going() and len(held) < min(hard - 64, int(os.environ["MANY"])):
    try:
        held.append(os.open(MOUNT + "/" + random.choice(names), os.O_RDONLY))
    except OSError:
        continue
    if len(held) % 16 == 0:
        try:
            maps.append(mmap.mmap(held[-1], 0, prot=mmap.PROT_READ))
        except (OSError, ValueError):
            pass
    if len(held) % 100 == 0:
        ask("now")
while going():
    for file in random.sample(held, min(50, len(held))):
        try:
            os.pread(file, 4096, 0)
        except OSError:
            pass
    time.sleep(0.01)
done(len(held))
"#;

const WATCH: &str = r#"
libc = ctypes.CDLL(None, use_errno=True)
files = []
while len(files) < 200:
    file = libc.inotify_init1(os.O_NONBLOCK)
    if file < 0:
        break
    files.append(file)
events = watches = 0
while going():
    for file in files:
        for name in ("", "/token", "/netrc", "/live/token", "/gh", "/status.json"):
            watches += libc.inotify_add_watch(file, (MOUNT + name).encode(), 0xfff) > 0
    ask("now")
    for file in files:
        try:
            events += len(os.read(file, 1 << 16))
        except BlockingIOError:
            pass
done(len(files), watches, events)
"#;

const KILLED: &str = r#"
killed = 0
while going():
    reject()
    children = [
        subprocess.Popen(["cat", MOUNT + "/" + name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in ("token", "netrc", "git-credential") * 3
    ]
    time.sleep(random.random() / 50)
    for child in children:
        child.send_signal(random.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT)))
    for child in children:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            harm("a reader cannot be killed")
        killed += 1
done(killed)
"#;
