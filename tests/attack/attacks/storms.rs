//! Changes in the configs directory without a pause, and limits that the agent uses up.

use super::{Attack, Program, boxed};
use crate::scene::Form;

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([
        Program { name: "the bearer changes all the time", forms: &Form::ALL, text: TOUCH },
        Program { name: "the configs directory is filled", forms: &Form::ALL, text: FILL },
        Program { name: "secrets are swapped as Kubernetes does", forms: &Form::ALL, text: SWAP },
        Program { name: "the agent's inotify is used up", forms: &Form::ALL, text: INOTIFY },
    ])
}

const TOUCH: &str = r#"
bearer = CONFIGS + "/.auth_token"
good = open(bearer, "rb").read()
touched = 0
while going():
    for _ in range(50):
        kind = random.randrange(4)
        if kind == 0:
            os.utime(bearer)
        elif kind == 1:
            with open(bearer, "wb") as file:
                file.write(random.choice((good, b"", b"another", good + b"\n")))
        elif kind == 2:
            os.chmod(bearer, random.choice((0, 0o600, 0o644)))
            os.chmod(bearer, 0o600)
        else:
            with open(bearer + ".new", "wb") as file:
                file.write(good)
            os.rename(bearer + ".new", bearer)
        touched += 1
done(touched)
"#;

const FILL: &str = r#"
made = 0
while going() or made == 0:
    for number in range(500):
        os.symlink(str(number), CONFIGS + f"/link-{number}")
        made += 1
    os.mkdir(CONFIGS + "/deep")
    for name in os.listdir(CONFIGS):
        if name.startswith("link-"):
            os.unlink(CONFIGS + "/" + name)
    os.rmdir(CONFIGS + "/deep")
done(made)
"#;

const SWAP: &str = r#"
good = open(CONFIGS + "/.auth_token", "rb").read()
for version, text in (("..v1", good), ("..v2", b"not-the-one"), ("..v3", good)):
    os.makedirs(CONFIGS + "/" + version, exist_ok=True)
    with open(f"{CONFIGS}/{version}/.auth_token", "wb") as file:
        file.write(text)
os.symlink("..v1", CONFIGS + "/..data")
os.symlink("..data/.auth_token", CONFIGS + "/.new")
os.rename(CONFIGS + "/.new", CONFIGS + "/.auth_token")
swaps = 0
while going():
    os.symlink(random.choice(("..v1", "..v2", "..v3", "..data", "../secret", "/")), CONFIGS + "/..tmp")
    os.rename(CONFIGS + "/..tmp", CONFIGS + "/..data")
    swaps += 1
    time.sleep(random.random() / 200)
done(swaps)
"#;

const INOTIFY: &str = r#"
libc = ctypes.CDLL(None, use_errno=True)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
files = []
while True:
    file = libc.inotify_init1(0)
    if file < 0:
        break
    files.append(file)
while going():
    os.utime(CONFIGS + "/.auth_token")
    ask("now")
    look()
    time.sleep(0.02)
done(len(files), os.strerror(ctypes.get_errno()))
"#;
