//! What stands in the bearer's place, and where a link there leads.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use molecule_tokenfs::demo::Setup;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;

use crate::support::eventually;
use crate::support::limit::within;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::secs;
use crate::{AT_ONCE, World, end, give};

/// What only root may read; a bearer by its form.
const SECRET: &str = "canary-of-root-0123456789";

/// Something in the bearer's place: how it is made, and a word of what status says.
type Case = (&'static str, fn(&Path) -> io::Result<()>, &'static str);

const CASES: &[Case] = &[
    ("an absolute link to a file of root's", |at| symlink(beside(at, "secret"), at), "is a link"),
    ("the same by ..", |at| symlink("../secret", at), "is a link"),
    ("a link over a link", |at| symlink("../configs/../secret", at), "is a link"),
    ("the reader's environment", |at| symlink("/proc/self/environ", at), "is a link"),
    ("the reader's memory", |at| symlink("/proc/self/mem", at), "is a link"),
    ("the reader's input", |at| symlink("/proc/self/fd/0", at), "is a link"),
    ("the daemon's", |at| symlink("/proc/1/environ", at), "is a link"),
    ("/dev/zero", |at| symlink("/dev/zero", at), "is a link"),
    ("a link to itself", |at| symlink(".auth_token", at), "Too many levels of symbolic links"),
    ("a link to a FIFO in the directory", link_to_a_fifo, "not a regular file but a FIFO"),
    ("a FIFO", |at| Ok(mkfifo(at, Mode::S_IRWXU)?), "not a regular file but a FIFO"),
    ("a directory", |at| fs::create_dir(at), "not a regular file but a directory"),
    ("a socket", |at| UnixListener::bind(at).map(drop), "not a regular file but a socket"),
    ("a device", device, "not a regular file but a device"),
    ("a large file", |at| fs::write(at, vec![b'a'; 20_000]), "it is larger than 16 KiB"),
    ("a huge file", |at| fs::File::create(at)?.set_len(1 << 40), "it is larger than 16 KiB"),
];

fn beside(at: &Path, name: &str) -> std::path::PathBuf {
    at.parent().unwrap().parent().unwrap().join(name)
}

fn link_to_a_fifo(at: &Path) -> io::Result<()> {
    let fifo = at.with_file_name("fifo");
    mkfifo(&fifo, Mode::S_IRWXU)?;
    give(&fifo);
    symlink("fifo", at)
}

/// `/dev/zero` itself.
fn device(at: &Path) -> io::Result<()> {
    Ok(mknod(at, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5))?)
}

#[test]
fn whatever_is_in_the_bearers_place_is_named_and_never_sent() {
    sandboxed(secs(120), || {
        let world = World::start();
        let secret = world.dir.file("secret", SECRET);
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let worker = world.worker();
        world.open().unwrap();
        // A token in hand would be served whatever becomes of the bearer.
        for (name, make, sentence) in CASES {
            let requests = world.requests();
            empty(&world.bearer());
            world.put(make);
            world.refresh();
            let detail = eventually(name, AT_ONCE, || {
                let failure = &world.token()["last_failure"];
                let detail = failure["detail"].as_str()?.to_owned();
                detail.contains(sentence).then_some(detail)
            });
            assert!(!detail.contains("canary"), "{name}: {detail}");
            assert_eq!(world.requests(), requests, "{name}: the platform was asked");
            empty(&world.bearer());
            // Noticed at once, though the failure is one of those that are retried slowly.
            world.register();
            eventually(name, AT_ONCE, || world.token()["last_failure"].is_null().then_some(()));
        }
        assert_eq!(world.worker(), worker, "the worker lives");
        assert!(!world.daemon.log().contains("canary"));
        end(world);
    });
}

fn empty(path: &Path) {
    let _ = fs::remove_dir(path).or_else(|_| fs::remove_file(path));
}

#[test]
fn a_file_that_its_directorys_owner_may_not_read_is_not_read() {
    sandboxed(secs(60), || {
        let world = World::start_over(
            Setup::default(),
            |dir| {
                let bearer = dir.file("configs/.auth_token", SECRET);
                std::os::unix::fs::chown(&bearer, Some(0), Some(0)).unwrap();
                fs::set_permissions(&bearer, fs::Permissions::from_mode(0o600)).unwrap();
            },
            |builder| builder,
        );
        let refused = world.open().unwrap_err();
        assert_eq!(errno(&refused), Some(Errno::EKEYREJECTED));
        let detail = world.token()["last_failure"]["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("Permission denied (os error 13) (it is read as user 1000)"));
        assert_eq!(world.requests(), 0);
        // Its owner is told of in the directory, which the agent may watch.
        give(&world.bearer());
        eventually("the new owner", AT_ONCE, || (world.requests() > 0).then_some(()));
    });
}

#[test]
fn a_directory_that_comes_later_is_read_as_its_owner() {
    sandboxed(secs(60), || {
        let world = World::start_over(
            Setup::default(),
            |dir| fs::remove_dir_all(dir.join("configs")).unwrap(),
            |builder| builder.args(["--owner", "1000"]),
        );
        assert_eq!(errno(&world.open().unwrap_err()), Some(Errno::ENOKEY));
        world.dir.file("configs/.auth_token", SECRET);
        let bearer = world.bearer();
        fs::set_permissions(&bearer, fs::Permissions::from_mode(0o600)).unwrap();
        give(&world.configs());
        eventually("the refusal", AT_ONCE, || {
            let detail = world.token()["last_failure"]["detail"].as_str()?.to_owned();
            detail.contains("it is read as user 1000").then_some(())
        });
        assert_eq!(world.requests(), 0);
        world.register();
        eventually("a token", AT_ONCE, || world.open().ok());
    });
}

#[test]
fn a_swap_as_kubernetes_makes_it_is_noticed_at_once() {
    sandboxed(secs(60), || {
        let world = World::start_over(
            Setup::default(),
            |dir| {
                let good = fs::read(dir.join("configs/.auth_token")).unwrap();
                fs::remove_file(dir.join("configs/.auth_token")).unwrap();
                for (version, bearer) in [("..v1", b"not-the-one".to_vec()), ("..v2", good)] {
                    let file = dir.file(&format!("configs/{version}/.auth_token"), bearer);
                    give(file.parent().unwrap());
                    give(&file);
                }
                symlink("..v1", dir.join("configs/..data")).unwrap();
                symlink("..data/.auth_token", dir.join("configs/.auth_token")).unwrap();
            },
            |builder| builder,
        );
        let refused = world.open().unwrap_err();
        assert_eq!(errno(&refused), Some(Errno::EKEYREJECTED));
        assert_eq!(world.token()["last_failure"]["kind"], "unauthorized");
        symlink("..v2", world.configs().join("..data_tmp")).unwrap();
        fs::rename(world.configs().join("..data_tmp"), world.configs().join("..data")).unwrap();
        eventually("a token", AT_ONCE, || world.open().ok());
        // In place, too, in a directory that only the link leads to.
        world.demo.rotate_bearer();
        world.refresh();
        eventually("the refusal", AT_ONCE, || {
            (world.token()["last_failure"]["kind"] == "unauthorized").then_some(())
        });
        let elsewhere = world.dir.folder("elsewhere");
        let bearer = fs::read(world.demo.register(&elsewhere).unwrap()).unwrap();
        fs::write(world.configs().join("..v2/.auth_token"), bearer).unwrap();
        eventually("no failure", AT_ONCE, || world.token()["last_failure"].is_null().then_some(()));
    });
}

#[test]
fn a_file_that_was_bound_onto_the_name_is_read() {
    sandboxed(secs(60), || {
        let world = World::start_over(
            Setup::default(),
            |dir| {
                let bearer = dir.join("configs/.auth_token");
                let outside = dir.join("outside");
                fs::rename(&bearer, &outside).unwrap();
                fs::write(&bearer, "").unwrap();
                let none = None::<&str>;
                mount(Some(&outside), &bearer, none, MsFlags::MS_BIND, none).unwrap();
            },
            |builder| builder,
        );
        world.open().unwrap();
    });
}

#[test]
fn check_and_doctor_name_what_is_in_the_bearers_place() {
    within(secs(60), || {
        let dir = crate::support::dir::TestDir::new();
        let configs = dir.folder("configs");
        give(&configs);
        mkfifo(&configs.join(".auth_token"), Mode::S_IRWXU).unwrap();
        for command in ["check", "doctor"] {
            let told = crate::support::daemon::tokenfs_run(&dir, &[command]).stdout;
            assert!(told.contains("it is not a regular file but a FIFO"), "{command}: {told}");
        }
    });
}
