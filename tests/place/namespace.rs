//! Places in a user namespace whose root is not the machine's, as in a rootless container: what belongs to
//! users who are not mapped cannot be mended there, and what belongs to `nobody` is an agent's.

use std::path::Path;

use crate::directory;
use crate::support::daemon::PROGRAM;
use crate::support::dir::TestDir;
use crate::support::namespace::{open_fuse_device, sandboxed};
use crate::support::process::{Finished, ORDINARY, User, command, run};
use crate::support::secs;

/// User 0 inside is this ordinary user outside, and 1 to 65535 are these and the following.
const OTHERS: u32 = 100_000;
/// `nobody` inside: also the number that the kernel shows for all who are not mapped.
const NOBODY: u32 = 65534;

/// Runs a command in such a namespace. Only root outside may write these maps.
const SCRIPT: &str = r#"
set -e
go=$1/go; shift
user=$1; others=$2; shift 2
rm -f "$go"; mkfifo "$go"
setpriv --reuid "$user" --regid "$user" --clear-groups unshare --user --mount \
    sh -c 'read _ <"$0"; exec "$@"' "$go" "$@" &
until [ "$(readlink /proc/$!/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do sleep 0.02; done
for map in uid_map gid_map; do printf '0 %s 1\n1 %s 65535\n' "$user" "$others" >/proc/$!/$map; done
echo >"$go"
wait $!
"#;

fn read_through_a_mount(dir: &TestDir, backend: &str, mountpoint: &Path) -> Finished {
    let mut sh = command("sh", User::Own);
    sh.args(["-c", SCRIPT, "sh"]).arg(dir.folder("go"));
    sh.args([ORDINARY.to_string(), OTHERS.to_string()]);
    sh.args([PROGRAM, "run", "--made-up", "1m", "--no-system-wide", "--backend", backend]);
    sh.args(["--allow-disk", "--mountpoint"]).arg(mountpoint);
    sh.args(["--", "sh", "-c", "cat \"$MOLECULE_TOKENFS_MOUNTPOINT/token\""]);
    run(sh, dir, secs(20))
}

#[test]
fn where_root_is_not_mapped_its_directories_are_trusted_and_those_of_nobody_are_not() {
    sandboxed(secs(120), || {
        let dir = TestDir::new();
        open_fuse_device(&dir);
        let ours = directory(&dir, "ours", ORDINARY, 0o755);
        let theirs = directory(&dir, "theirs", OTHERS + NOBODY - 1, 0o755);
        for backend in ["fuse", "files"] {
            let read = read_through_a_mount(&dir, backend, &ours.join("token"));
            assert!(read.ok().starts_with("ghs_"), "{backend}");
            let refused = read_through_a_mount(&dir, backend, &theirs.join("token"));
            let told = format!("{} belongs to user {NOBODY}", theirs.display());
            assert!(refused.stderr.contains(&told), "{backend}: {refused:?}");
        }
    });
}
