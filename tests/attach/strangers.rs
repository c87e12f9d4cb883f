//! Two containers with doors of their own: nothing that one does shows it anything of the other's. The attacks
//! are the table of docs/SECURITY.md.

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;

use crate::bundle::Bundle;
use crate::scene::{AGENT, Apart, Container, Scene};
use crate::support::daemon::Daemon;
use crate::support::namespace::sandboxed;
use crate::support::process::{Finished, User, command, run};
use crate::support::{eventually, secs};

/// The user of the other container.
const OTHER: u32 = 2000;
const OWN: &str = "ghs_of-alpha";
const SECRET: &str = "ghs_of-omega";

fn serve(scene: &Scene) -> Daemon {
    let of = |name: &str, token: &str| {
        let file = scene.dir.file(name, token);
        format!(
            "[tokens.{name}]\nsources = ['{name}-file']\n\
             [sources.{name}-file]\ntype = 'file'\npath = '{}'\n",
            file.display()
        )
    };
    let config = format!(
        "{}{}[doors.one]\ntoken = 'alpha'\nowner = '{AGENT}'\n\
         [doors.other]\ntoken = 'omega'\nowner = '{OTHER}'\n",
        of("alpha", OWN),
        of("omega", SECRET)
    );
    let config = scene.dir.file("doors.toml", config);
    let daemon = Daemon::of_host(&scene.dir).mountpoint("/run/molecule/doors");
    daemon.arg_pair("--config", config).log_level("info").start()
}

/// What the first container tries, as the user who may read its own door, as the one who may read the
/// other's, and as root. None may print the other's token, or anything of the other's names.
const ATTACKS: [&str; 22] = [
    "cat /run/molecule/token/../other/token",
    "cd /run/molecule/token && cat ../other/token ../../other/token",
    "cat /run/molecule/doors/other/token",
    "cat /run/molecule/token/other/token /run/molecule/token/omega/token",
    "ls -aR /run/molecule",
    "cat /proc/1/root/run/molecule/doors/other/token",
    "for p in /proc/[0-9]*; do cat $p/root/run/molecule/token/token $p/cwd/token; done | grep omega",
    "ln -s /run/molecule/token/../other /tmp/x && cat /tmp/x/token",
    "ln -s /run/molecule/doors/other/token /dev/shm/x; cat /dev/shm/x",
    "ln /run/molecule/token/../other/token /dev/shm/hard && cat /dev/shm/hard",
    "mkdir -p /dev/shm/m && mount --bind /run/molecule/token/.. /dev/shm/m && ls /dev/shm/m",
    "mkdir -p /dev/shm/o && mount -t overlay -o lowerdir=/run/molecule/token/..,upperdir=/tmp,workdir=/tmp x /dev/shm/o; ls /dev/shm/o",
    "umount /run/molecule/token; cat /run/molecule/token/token | grep omega",
    "mount -t fuse.molecule-tokenfs molecule-tokenfs /dev/shm; ls /dev/shm | grep other",
    "cat /run/molecule/token/status.json /run/molecule/token/metrics.prom | grep -e omega -e doors/other",
    "cat /run/molecule/doors.json /run/molecule/doors.sock /run/molecule/doors.attached/*",
    "cat /dev/fuse; mknod /dev/shm/fuse c 10 229 && cat /dev/shm/fuse",
    "echo 1 >/sys/fs/fuse/connections/*/abort",
    "chroot /run/molecule/token/.. /bin/cat /other/token",
    "unshare -Urm sh -c 'cat /run/molecule/token/../other/token; ls /run/molecule/doors'",
    "nsenter -t 1 -m cat /run/molecule/doors/other/token",
    "cp -r /run/molecule/token /dev/shm/copy && grep -r omega /dev/shm/copy",
];

/// Opens inodes of another door by handles that are made up from one of the own door: argument 1 is a file of
/// it, the others are inode numbers. Prints what it could read.
const BY_HANDLE: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
mount_id = ctypes.c_int()
path = sys.argv[1].encode()
if libc.name_to_handle_at(-100, path, handle, ctypes.byref(mount_id), 0) != 0:
    sys.exit("no handle: " + os.strerror(ctypes.get_errno()))
size, kind = struct.unpack_from("Ii", handle.raw)
directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
opened = 0
for number in map(int, sys.argv[2:]):
    # FILEID_INO64_GEN of FUSE: the number in two words, the higher first, and a generation.
    for generation in 0, 1:
        made = struct.pack("Ii", 12, 0x81) + struct.pack("III", number >> 32, number & 0xffffffff, generation)
        fd = libc.open_by_handle_at(directory, ctypes.create_string_buffer(made), os.O_RDONLY)
        if fd < 0:
            print(os.strerror(ctypes.get_errno()))
            continue
        opened += 1
        try:
            print(os.read(fd, 100))
        except OSError:
            print(os.listdir(fd))
print("opened", opened)
"#;

fn by_handle(
    scene: &Scene,
    apart: &Apart,
    own: &str,
    numbers: &[u64],
    options: &[&str],
) -> Finished {
    let mut enter = command("nsenter", User::Own);
    enter.args(["--target", &apart.number(), "--mount", "--", "setpriv"]).args(options);
    enter.args(["/usr/bin/python3", "-c", BY_HANDLE, own]);
    enter.args(numbers.iter().map(u64::to_string));
    run(enter, &scene.dir, secs(10))
}

#[test]
fn one_container_is_shown_nothing_of_another_whatever_it_tries() {
    sandboxed(secs(180), || {
        let scene = Scene::new();
        let daemon = serve(&scene);
        let one = Bundle::start_as("runc", &scene, "one", |_| {});
        let other = Bundle::start_as("runc", &scene, "other", |_| {});
        scene.attach(&["--container", &one.name, "--door", "one", "--allow-refresh"]).ok();
        scene.attach(&["--container", &other.name, "--door", "other"]).ok();
        let read = "cat /run/molecule/token/token";
        assert_eq!(one.shell(AGENT, read).ok(), OWN);
        assert_eq!(other.shell(OTHER, read).ok(), SECRET);
        for user in [AGENT, OTHER, 0] {
            for attack in ATTACKS {
                let told = one.shell(user, attack);
                let said = format!("{}{}", told.stdout, told.stderr);
                assert!(!said.contains("ghs_of-omega"), "{user}: {attack}: {told:?}");
                assert!(!told.stdout.contains("omega"), "{user}: {attack}: {told:?}");
            }
        }
        // The fingerprint of the other's token is nothing to the one's `refresh`.
        let fingerprint = molecule_tokenfs::secret::Fingerprint::of(SECRET.as_bytes());
        let reject = format!("echo {fingerprint} >/run/molecule/token/refresh");
        one.shell(AGENT, &reject).ok();
        assert_eq!(other.shell(OTHER, read).ok(), SECRET);
        assert_eq!(one.shell(AGENT, read).ok(), OWN);
        // While doors are bound, added and removed, and while workers die.
        let watch =
            "n=0; while [ $n -lt 300 ]; do cat /run/molecule/token/token; echo; n=$((n+1)); done";
        let worker = daemon.worker();
        daemon.kill_worker(Signal::SIGKILL);
        let seen = one.shell(AGENT, watch).ok();
        assert!(seen.lines().all(|line| line == OWN), "{seen}");
        assert_ne!(daemon.worker(), worker);
    });
}

/// Root with all capabilities, in a mount namespace that is shown one door: more than any container is given.
#[test]
fn no_handle_leads_from_one_door_to_another() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let _daemon = serve(&scene);
        // The kernel knows the other door's inodes: somebody reads there.
        let number =
            |path: &str| fs::metadata(format!("/run/molecule/doors/{path}")).unwrap().ino();
        let read = fs::read("/run/molecule/doors/other/token").unwrap();
        assert_eq!(read, SECRET.as_bytes());
        let held = fs::File::open("/run/molecule/doors/other/token").unwrap();
        let numbers =
            ["other", "other/token", "other/live", "other/live/token", "one/token"].map(number);
        let apart = Apart::start(&scene);
        scene.attach(&["--pid", &apart.number(), "--path", "/tmp/token", "--door", "one"]).ok();
        let hidden = apart.line(&scene, "umount -l /run/molecule/doors && ls /run/molecule/doors");
        assert_eq!(hidden.ok(), "");
        let options: [&[&str]; 2] =
            [&[], &["--bounding-set", "-dac_read_search", "--inh-caps", "-dac_read_search"]];
        for options in options {
            let told = eventually("an answer", secs(10), || {
                Some(by_handle(&scene, &apart, "/tmp/token/token", &numbers, options))
            });
            assert!(!told.stdout.contains(SECRET), "{told:?}");
            assert!(
                told.stdout.contains("opened 0") || told.stderr.contains("no handle"),
                "{told:?}"
            );
        }
        drop(held);
    });
}
