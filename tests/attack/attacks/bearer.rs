//! What the agent puts in the place of the bearer's file, which is the agent's.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::sleep;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rand::rngs::StdRng;

use super::{Act, Attack, boxed};
use crate::hung::Hung;
use crate::scene::{Form, Scene};
use crate::support::millis;
use crate::support::opens::as_user;
use crate::timeline::boot;

/// Something in the bearer's place; it gets a path beside that.
struct Instead(&'static str, Make);

/// Makes something at a path.
type Make = fn(&Path) -> io::Result<()>;

impl Attack for Instead {
    fn name(&self) -> &str {
        self.0
    }

    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
        // Opens wait for the fetch that meets it, or are served a token that is there.
        scene.reject_perhaps(random);
        scene.put(self.1);
        scene.refresh();
        sleep(scene.span(random));
        Ok(())
    }
}

pub fn all() -> Vec<Box<dyn Attack>> {
    let mut all = boxed(INSTEAD.iter().map(|&(name, make)| Instead(name, make)));
    all.extend(boxed([
        Act {
            name: "links and files take turns in the bearer's place",
            forms: &Form::ALL,
            run: |scene, random| {
                turns(scene, random);
                Ok(())
            },
        },
        Act {
            name: "the configs directory is shut, emptied, and opened",
            forms: &Form::ALL,
            run: |scene, random| {
                shut(scene, random);
                Ok(())
            },
        },
        Act {
            name: "the configs directory hangs",
            forms: &Form::HERE,
            run: |scene, random| {
                hang(scene, random);
                Ok(())
            },
        },
    ]));
    all
}

const INSTEAD: &[(&str, Make)] = &[
    ("a link to the mount's own token", |at| symlink(mount(at, "token"), at)),
    ("a link to the mount's own live token", |at| symlink(mount(at, "live/token"), at)),
    ("a link to the mount's own status", |at| symlink(mount(at, "status.json"), at)),
    ("a relative link to the mount's own token", |at| symlink("../token/token", at)),
    ("a link to a file of root's", |at| symlink(mount(at, "../secret"), at)),
    ("a relative link to a file of root's", |at| symlink("../secret", at)),
    ("a link to the reader's environment", |at| symlink("/proc/self/environ", at)),
    ("a link to the reader's memory", |at| symlink("/proc/self/mem", at)),
    ("a link to the reader's input", |at| symlink("/proc/self/fd/0", at)),
    ("a link to the reader's terminal", |at| symlink("/dev/tty", at)),
    ("a link to the kernel's messages", |at| symlink("/proc/kmsg", at)),
    ("a link to zeros without an end", |at| symlink("/dev/zero", at)),
    ("a link to itself", |at| symlink(".auth_token", at)),
    ("a FIFO", |at| Ok(mkfifo(at, Mode::S_IRWXU)?)),
    ("a link to a FIFO", |at| {
        let fifo = at.with_file_name("fifo");
        mkfifo(&fifo, Mode::S_IRWXU)?;
        symlink("fifo", at)
    }),
    ("a directory", |at| fs::create_dir(at)),
    ("a socket", |at| UnixListener::bind(at).map(drop)),
    ("a file of a terabyte", |at| fs::File::create(at)?.set_len(1 << 40)),
    ("a large file", |at| fs::write(at, vec![b'a'; 200_000])),
    ("an empty file", |at| fs::write(at, "")),
    ("a file that its owner may not read", |at| {
        fs::write(at, "a-bearer")?;
        fs::set_permissions(at, Permissions::from_mode(0o0))
    }),
    ("a bearer with a header in it", |at| fs::write(at, "a\r\nHost: evil.local\r\n\r\nGET / b")),
    ("a bearer of other bytes than text", |at| fs::write(at, b"\0\xff\x80abc")),
    ("a wrong bearer", |at| fs::write(at, "not-the-one")),
];

/// The path of something in the mount, from one beside the bearer.
fn mount(at: &Path, name: &str) -> PathBuf {
    at.parent().unwrap().parent().unwrap().join("token").join(name)
}

/// Faster than anybody can look.
fn turns(scene: &Scene<'_>, random: &mut StdRng) {
    let (end, place) = (boot() + scene.span(random), scene.bearer_file());
    let good = fs::read(&place).expect("the bearer");
    // The good one comes between any two.
    let makes: [Make; 3] = [
        |at| symlink("../secret", at),
        |at| Ok(mkfifo(at, Mode::S_IRWXU)?),
        |at| symlink(mount(at, "token"), at),
    ];
    scene.refresh();
    as_user(|| {
        let new = place.with_file_name(".new");
        for make in makes.iter().cycle().take_while(|_| boot() < end) {
            for bad in [true, false] {
                let made = if bad { make(&new) } else { fs::write(&new, &good) };
                made.expect("something new");
                fs::rename(&new, &place).expect("a rename");
            }
        }
    });
}

fn shut(scene: &Scene<'_>, random: &mut StdRng) {
    let (end, configs) = (boot() + scene.span(random), scene.configs());
    scene.reject();
    as_user(|| {
        fs::remove_file(configs.join(".auth_token")).expect("it is the agent's");
        while boot() < end {
            for mode in [0, 0o777, 0o000, 0o100, 0o755] {
                fs::set_permissions(&configs, Permissions::from_mode(mode)).expect("a mode");
                sleep(millis(5));
            }
        }
    });
}

/// A file system of the agent's that answers nobody lies over the directory.
fn hang(scene: &Scene<'_>, random: &mut StdRng) {
    let hung = Hung::over(&scene.configs());
    scene.reject();
    scene.refresh();
    sleep(scene.span(random));
    drop(hung);
}
