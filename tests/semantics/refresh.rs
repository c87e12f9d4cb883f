//! The file `refresh`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use molecule_tokenfs::secret::Fingerprint;
use nix::errno::Errno;

use crate::support::process::User;
use crate::support::{eventually, secs};
use crate::{Mount, Section, fails};

/// Waits out the second in which another fetch is refused.
fn ask(control: &File, text: &str, offset: u64) {
    eventually("it is heard", secs(5), || control.write_at(text.as_bytes(), offset).ok());
}

pub fn check(section: &mut Section) {
    let mount = Mount::new();
    let path = mount.path("refresh");
    let control = OpenOptions::new().write(true).open(&path).unwrap();
    let token = || fs::read(mount.path("token")).unwrap();
    section.says(
        "Writing `refresh`, `now` or an empty line to `refresh` asks for a fetch, at any offset.",
        || {
            for (text, offset) in [("refresh\n", 0), ("now", 0), ("\n", 0), ("refresh", 1000)] {
                let before = token();
                ask(&control, text, offset);
                eventually("another token", secs(5), || (token() != before).then_some(()));
            }
        },
    );
    section.says("A second one within a second fails with `EAGAIN`.", || {
        ask(&control, "now", 0);
        // Unless the machine stood still for a second in between.
        eventually("it is refused", secs(10), || {
            let second = control.write_at(b"now", 0).err()?;
            assert_eq!(second.raw_os_error(), Some(Errno::EAGAIN as i32));
            Some(())
        });
    });
    section.says(
        "Writing the first 8 hexadecimal digits of a token's SHA-256 has another token fetched, if \
         it is the one in hand.",
        || {
            eventually("nothing is under way", secs(5), || {
                let is_idle = mount.status()["tokens"][0]["fetching"] == false;
                (is_idle && token() == fs::read(mount.path("live/token")).unwrap()).then_some(())
            });
            let before = token();
            (&control).write_all(b"00000000").unwrap();
            assert_eq!(token(), before);
            (&control).write_all(Fingerprint::of(&before).to_string().as_bytes()).unwrap();
            assert_ne!(token(), before, "a token that was refused is served no more");
        },
    );
    section.says(
        "Anything else, such as a token that is copied to it, fails with `EINVAL`, and none of it \
         appears in the log.",
        || {
            let copy = mount.shell(User::Own, "cp \"$1/token\" \"$1/refresh\"");
            assert!(copy.stderr.contains("Invalid argument"), "{copy:?}");
            for text in ["no", "refresh now", "0123456", "0123456g", &"x".repeat(5000)] {
                assert_eq!(fails(control.write_at(text.as_bytes(), 0)), Errno::EINVAL, "{text}");
            }
            let log = mount.daemon.log();
            assert!(!log.contains("Not Implemented") && !log.contains("ghs_"), "{log}");
        },
    );
    section.says(
        "Each `write` is a request of its own, and one that failed does not spoil the next.",
        || {
            for part in ["refr", "esh"] {
                assert_eq!(fails((&control).write(part.as_bytes())), Errno::EINVAL);
            }
            let before = token();
            ask(&control, "refresh", 0);
            eventually("another token", secs(5), || (token() != before).then_some(()));
        },
    );
    section.says("A `write` of no bytes asks for nothing.", || {
        let before = mount.attempts();
        assert_eq!((&control).write(b"").unwrap(), 0);
        mount.shell(User::Own, ": >> \"$1/refresh\"").ok();
        assert_eq!(mount.attempts(), before);
    });
    section.says("Opening `refresh` with `O_TRUNC`, or truncating it, asks for nothing.", || {
        let before = mount.attempts();
        drop(File::create(&path).unwrap());
        control.set_len(0).unwrap();
        control.set_len(100).unwrap();
        assert_eq!(mount.attempts(), before);
    });
    section.says("Reading `refresh` gives nothing.", || {
        assert_eq!(fs::read(&path).unwrap(), b"");
    });
}
