//! `doctor`: for each thing that can be wrong, the right sentence; and when what it says is done, the
//! next run is well.
//!
//! needs: root, fuse, git, gh, fusermount3, python3
//! tests `a_limit_of_the_kernel` need: linux-6.13

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "doctor/choice.rs"]
mod choice;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::{Demo, Setup};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use support::daemon::{Daemon, PROGRAM, tokenfs_run};
use support::dir::TestDir;
use support::limit::within;
use support::namespace::sandboxed;
use support::process::{Finished, ORDINARY, User, command, run};
use support::{eventually, secs};

/// What must never be seen.
const CANARY: &str = "ghs_canaryOfAFrozenToken";

/// A machine with one user, a platform, and nothing wired yet.
struct Site {
    dir: TestDir,
    demo: Demo,
    /// What tools have in their environment.
    variables: Vec<(&'static str, String)>,
    path: String,
}

impl Site {
    fn new() -> Self {
        let (dir, demo) =
            (TestDir::new(), Demo::start(Setup::with_life(Duration::from_hours(1))).unwrap());
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", dir.folder("bin").display());
        fs::create_dir(dir.join("configs")).unwrap();
        Self { dir, demo, variables: Vec::new(), path }
    }

    /// With everything wired as the manual says.
    fn wired() -> (Self, Daemon) {
        let site = Self::new();
        site.register();
        let daemon = site.mount();
        site.wire();
        (site, daemon)
    }

    fn register(&self) {
        self.demo.register(&self.dir.join("configs")).unwrap();
    }

    fn mount(&self) -> Daemon {
        Daemon::at(&self.dir).env("PLATFORM_URL", self.demo.url()).start()
    }

    fn wire(&self) {
        let bin = self.dir.join("bin");
        self.run(&format!("{PROGRAM} setup git --global")).ok();
        self.run(&format!("{PROGRAM} setup gh --dir {}", bin.display())).ok();
    }

    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    fn command(&self, user: User, words: &[&str]) -> Command {
        // A process space of its own: there are other tests on this machine, with tokens of theirs.
        let mut all = vec!["--pid", "--fork", "--mount-proc", "--kill-child", "--"];
        let number = ORDINARY.to_string();
        let become_user =
            ["setpriv", "--reuid", &number, "--regid", &number, "--clear-groups", "--"];
        if user != User::Own {
            all.extend(become_user);
        }
        let mut command = command("unshare", User::Own);
        command.args(all).args(words);
        command.env("HOME", self.dir.path()).env("CONFIGS_DIR", self.dir.join("configs"));
        command.env("PATH", &self.path).env("GIT_CONFIG_NOSYSTEM", "1");
        command.env("PLATFORM_URL", self.demo.url());
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.current_dir(self.dir.path());
        command
    }

    /// Runs a line of a shell in this environment.
    fn run(&self, line: &str) -> Finished {
        run(self.command(User::Own, &["sh", "-c", line]), &self.dir, secs(30))
    }

    fn mountpoint(&self) -> String {
        self.dir.join("token").display().to_string()
    }

    fn doctor(&self) -> Report {
        self.doctor_by(User::Own, &[])
    }

    /// Runs `doctor`, by this user and behind these words.
    fn doctor_by(&self, user: User, before: &[&str]) -> Report {
        let mountpoint = self.mountpoint();
        let words = [before, &[PROGRAM, "doctor", "--json", &mountpoint]].concat();
        Report::of(&run(self.command(user, &words), &self.dir, secs(30)))
    }
}

/// What `doctor` found.
struct Report {
    code: Option<i32>,
    document: Value,
}

impl Report {
    fn of(finished: &Finished) -> Self {
        assert!(!format!("{finished:?}").contains("canary"), "{finished:?}");
        let document = serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("{error}: {finished:?}"));
        Self { code: finished.status.code(), document }
    }

    /// The findings that are not as they should be, of one part or of all.
    fn bad(&self, check: Option<&str>) -> Vec<String> {
        let findings = self.document["findings"].as_array().unwrap().iter();
        findings
            .filter(|finding| finding["verdict"] != "ok")
            .filter(|finding| check.is_none_or(|check| finding["check"] == check))
            .map(|finding| {
                let part = |key: &str| finding[key].as_str().unwrap().to_owned();
                format!(
                    "{} {}: {} > {}",
                    part("verdict"),
                    part("check"),
                    part("sentence"),
                    part("remedy")
                )
            })
            .collect()
    }

    /// What is as it should be, of one part.
    fn said(&self, check: &str) -> Vec<String> {
        let findings = self.document["findings"].as_array().unwrap().iter();
        let said = findings.filter(|it| it["check"] == check && it["verdict"] == "ok");
        said.map(|finding| finding["sentence"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn assert_well(&self) {
        assert_eq!(self.bad(None), Vec::<String>::new());
        assert_eq!((self.code, &self.document["ok"]), (Some(0), &Value::Bool(true)));
    }

    /// Asserts that one part has exactly one finding which says this, and gives what mends it.
    #[track_caller]
    fn told(&self, verdict: &str, check: &str, words: &str) -> String {
        let bad = self.bad(Some(check));
        let [told] = bad.as_slice() else { panic!("{check}: {:?}", self.bad(None)) };
        assert!(told.starts_with(&format!("{verdict} {check}: ")), "{told}");
        assert!(told.contains(words), "{told}");
        assert_eq!(self.code, Some(i32::from(verdict == "fail")), "{told}");
        told.split_once(" > ").unwrap().1.to_owned()
    }
}

/// Puts a device node of this mode in the place of `/dev/fuse`, for this namespace.
fn fuse_node(dir: &TestDir, mode: u32) -> PathBuf {
    let node = dir.join("dev-fuse");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(10, 229)).unwrap();
    fs::set_permissions(&node, fs::Permissions::from_mode(mode)).unwrap();
    bind(&node, Path::new("/dev/fuse"));
    node
}

fn bind(source: &Path, target: &Path) {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}

#[test]
fn a_machine_that_is_wired_is_well() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        site.doctor().assert_well();
    });
}

#[test]
fn a_mounted_file_is_well_too_when_git_and_gh_are_wired_to_it() {
    sandboxed(secs(60), || {
        let site = Site::new();
        site.register();
        let builder = Daemon::at(&site.dir).env("PLATFORM_URL", site.demo.url());
        let _daemon = builder.args(["--layout", "file"]).start();
        let (bin, mountpoint) = (site.dir.join("bin"), site.mountpoint());
        let token = fs::read_to_string(&mountpoint).unwrap();
        site.run(&format!("{PROGRAM} setup git --global --mountpoint {mountpoint}")).ok();
        let request = "printf 'protocol=https\\nhost=github.com\\n\\n'";
        let filled = site.run(&format!("{request} | git credential fill")).ok();
        assert!(filled.contains(&format!("password={token}\n")), "{filled}");
        site.run(&format!("{PROGRAM} setup gh --dir {}", bin.display())).ok();
        let there = format!("MOLECULE_TOKENFS_MOUNTPOINT={mountpoint}");
        assert_eq!(site.run(&format!("{there} gh auth token")).ok(), format!("{token}\n"));
        let refused = site.run(&format!("{there} {PROGRAM} setup gh --config-dir"));
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(refused.stderr.contains("is a single file, and gh reads a directory"));
        site.doctor().assert_well();
    });
}

#[test]
fn the_old_failure_is_told_in_plain_words() {
    sandboxed(secs(60), || {
        let site = Site::new().with("GITHUB_TOKEN", CANARY);
        let told = site.run(&format!("{PROGRAM} doctor {}", site.mountpoint()));
        assert_eq!(told.status.code(), Some(1));
        for words in [
            "fail  mount        nothing is mounted at ",
            "do: molecule-tokenfs mount --background ",
            "git asks nobody for https://github.com: it would prompt for a password",
            "do: molecule-tokenfs setup git --global",
            "GITHUB_TOKEN holds the installation token ",
            "frozen when this environment was made",
            "do: molecule-tokenfs setup gh",
            "to fix, the first one first; then ask again.",
        ] {
            assert!(told.stdout.contains(words), "{words}: {}", told.stdout);
        }
        assert!(!told.stdout.contains("canary"));
    });
}

#[test]
fn a_missing_device() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let devices = site.dir.folder("dev");
        let none = None::<&str>;
        mount(Some("test"), &devices, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        for name in ["null", "zero", "urandom"] {
            fs::write(devices.join(name), "").unwrap();
            bind(&Path::new("/dev").join(name), &devices.join(name));
        }
        mount(Some(&devices), "/dev", none, MsFlags::MS_BIND | MsFlags::MS_REC, none).unwrap();
        let remedy = site.doctor().told("fail", "fuse", "there is no /dev/fuse");
        assert!(remedy.contains("--device /dev/fuse"), "{remedy}");
        // What the module would do.
        mknod("/dev/fuse", SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(10, 229))
            .unwrap();
        assert_eq!(site.doctor().bad(Some("fuse")), Vec::<String>::new());
    });
}

#[test]
fn a_device_that_is_not_open_to_this_user() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let node = fuse_node(&site.dir, 0o600);
        let user = User::Number(ORDINARY);
        let remedy = site.doctor_by(user, &[]).told("fail", "fuse", "not open to this user");
        assert_eq!(remedy, "as root: chmod 0666 /dev/fuse");
        fs::set_permissions(node, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(site.doctor_by(user, &[]).bad(Some("fuse")), Vec::<String>::new());
    });
}

#[test]
fn a_user_namespace_whose_root_is_nobody_special() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let node = fuse_node(&site.dir, 0o600);
        let doctor = || site.doctor_by(User::Number(ORDINARY), &["unshare", "-Ur", "--"]);
        let remedy = doctor().told("fail", "fuse", "root is user 1000 of the host");
        assert_eq!(remedy, "on the host: chmod 0666 /dev/fuse");
        fs::set_permissions(node, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(doctor().bad(Some("fuse")), Vec::<String>::new());
    });
}

#[test]
fn a_capability_that_is_missing() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"];
        let report = site.doctor_by(User::Own, &without);
        let remedy = report.told("fail", "fuse", "it lacks the capability CAP_SYS_ADMIN");
        assert!(remedy.contains("docker run --cap-add SYS_ADMIN"), "{remedy}");
        assert_eq!(site.doctor().bad(Some("fuse")), Vec::<String>::new());
    });
}

#[test]
fn each_place_is_told_its_way() {
    sandboxed(secs(60), || {
        let told = |site: &Site, before: &[&str]| {
            let said = site.doctor_by(User::Own, before).said("way");
            said.first().cloned().unwrap_or_default()
        };
        let without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", "--"];
        let inside = Site::new().with("container", "oci");
        assert!(told(&inside, &[]).starts_with("run: "), "{}", told(&inside, &[]));
        assert!(told(&inside, &without).starts_with("attach: "), "{}", told(&inside, &without));
        // The machine of the tests may be a container itself.
        let anywhere = told(&Site::new(), &[]);
        assert!(anywhere.starts_with("bind: ") || anywhere.starts_with("run: "), "{anywhere}");
        let (served, _daemon) = Site::wired();
        assert_eq!(told(&served.with("container", "oci"), &[]), "");
    });
}

#[test]
fn a_limit_of_the_kernel_that_an_open_may_reach() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        let limits = site.dir.folder("limits");
        let bind = "mount --bind \"$0\" /proc/sys/fs/fuse && exec \"$@\"";
        let before = ["sh", "-c", bind, limits.to_str().unwrap()];
        fs::write(limits.join("max_request_timeout"), "8\n").unwrap();
        let report = site.doctor_by(User::Own, &before);
        let remedy = report.told("warn", "kernel", "8 s (fs.fuse.max_request_timeout)");
        assert!(remedy.contains("sysctl fs.fuse.max_request_timeout=10, or --open-timeout 3s"));
        fs::write(limits.join("max_request_timeout"), "10\n").unwrap();
        site.doctor_by(User::Own, &before).assert_well();
    });
}

/// Runs a command under a filter that refuses `fsopen(2)`, number 430 on every architecture.
const SECCOMP: &str = r"
import ctypes, os, struct, sys
instructions = [(0x20, 0, 0, 0), (0x15, 0, 1, 430), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *i) for i in instructions))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(instructions), ctypes.addressof(code)))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, program, 0, 0) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn a_seccomp_filter() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let report = site.doctor_by(User::Own, &["python3", "-c", SECCOMP]);
        let remedy = report.told("fail", "fuse", "a seccomp filter forbids mounting");
        assert!(remedy.contains("seccomp=unconfined"), "{remedy}");
        assert_eq!(site.doctor().bad(Some("fuse")), Vec::<String>::new());
    });
}

#[test]
fn no_helper_for_an_ordinary_user() {
    sandboxed(secs(60), || {
        let mut site = Site::new();
        fuse_node(&site.dir, 0o666);
        let whole = std::mem::replace(&mut site.path, site.dir.folder("few").display().to_string());
        for name in ["git", "setpriv", "unshare"] {
            let program = std::env::split_paths(&whole).map(|dir| dir.join(name));
            let program = program.into_iter().find(|program| program.exists()).unwrap();
            std::os::unix::fs::symlink(program, site.dir.join("few").join(name)).unwrap();
        }
        let user = User::Number(ORDINARY);
        let remedy = site.doctor_by(user, &[]).told("fail", "fuse", "which is not installed");
        assert_eq!(remedy, "as root: apt-get install fuse3");
        site.path = whole;
        assert_eq!(site.doctor_by(user, &[]).bad(Some("fuse")), Vec::<String>::new());
        let caged = site.doctor_by(user, &["setpriv", "--no-new-privs", "--"]);
        caged.told("fail", "fuse", "cannot gain the right to mount here");
    });
}

#[test]
fn a_mount_that_a_killed_daemon_left() {
    sandboxed(secs(60), || {
        let (site, mut daemon) = Site::wired();
        kill(daemon.pid(), Signal::SIGKILL).unwrap();
        daemon.process().wait(secs(5));
        let remedy = eventually("the mount is dead", secs(5), || {
            let report = site.doctor();
            let dead = report.bad(Some("mount")).iter().any(|told| told.contains("a dead mount"));
            dead.then(|| report.told("fail", "mount", "left a dead mount"))
        });
        assert_eq!(remedy, format!("molecule-tokenfs mount --background {}", site.mountpoint()));
        let _daemon = site.mount();
        site.doctor().assert_well();
    });
}

#[test]
fn a_helper_that_comes_after_ours() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        site.run("git config --global --add credential.helper 'store --file=creds.txt'").ok();
        let remedy = site.doctor().told("warn", "git", "git hands `store --file=creds.txt` (");
        site.run(&remedy).ok();
        site.doctor().assert_well();
    });
}

#[test]
fn git_without_a_helper_and_with_the_old_one() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        site.run(&format!("{PROGRAM} setup git --undo")).ok();
        let remedy = site.doctor().told("fail", "git", "git asks nobody for https://github.com");
        assert_eq!(remedy, "molecule-tokenfs setup git --global");
        let old = site.dir.file("molecule-git-token-helper.sh", "#!/bin/bash\n# caches\n");
        site.run(&format!("git config --global credential.helper {}", old.display())).ok();
        site.doctor().told("fail", "git", "git asks the old helper");
        site.wire();
        site.doctor().assert_well();
    });
}

#[test]
fn a_token_that_is_frozen_in_the_environment() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        let mut site = site.with("GITHUB_TOKEN", CANARY);
        // The shim keeps gh from it; without, gh would send it.
        site.doctor().told("warn", "environment", "GITHUB_TOKEN holds the installation token ");
        let shim = site.dir.join("bin/gh");
        fs::rename(&shim, site.dir.join("shim")).unwrap();
        let report = site.doctor();
        report.told("fail", "gh", "runs without the shim");
        let remedy = report.told("fail", "environment", "frozen when this environment was made");
        assert!(remedy.starts_with("unset GH_TOKEN GITHUB_TOKEN"), "{remedy}");
        fs::rename(site.dir.join("shim"), shim).unwrap();
        site.variables.clear();
        site.doctor().assert_well();
    });
}

#[test]
fn a_token_that_is_frozen_in_another_process() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        let mountpoint = site.mountpoint();
        // Both in one process space; the agent ends with it.
        let line = format!(
            "GH_TOKEN={CANARY} sleep 60 & {PROGRAM} doctor --json {mountpoint}; code=$?; \
             kill $!; exit $code"
        );
        let report = Report::of(&site.run(&line));
        let remedy = report.told("warn", "process", "(sleep) holds the installation token ");
        assert!(remedy.contains("molecule-tokenfs exec --env GH_TOKEN -- sleep"), "{remedy}");
        site.doctor().assert_well();
    });
}

#[test]
fn a_shim_that_path_reaches_too_late() {
    sandboxed(secs(60), || {
        let (mut site, _daemon) = Site::wired();
        let right = site.path.clone();
        site.path = format!("/usr/bin:{right}");
        let remedy = site.doctor().told("fail", "gh", "PATH reaches /usr/bin/gh before the shim");
        let mountpoint = site.mountpoint();
        Report::of(&site.run(&format!("{remedy}; {PROGRAM} doctor --json {mountpoint}")))
            .assert_well();
        site.path = right;
        site.doctor().assert_well();
    });
}

#[test]
fn a_clock_that_is_wrong() {
    sandboxed(secs(60), || {
        let site = Site::new();
        site.register();
        site.wire();
        site.demo.faults().stick(Service::Platform, Some(Fault::DateOff(600)));
        let daemon = site.mount();
        let told = "clock is 10m behind the source's";
        let remedy = site.doctor().told("warn", "clock", told);
        assert!(remedy.ends_with("timedatectl set-ntp true"), "{remedy}");
        site.demo.faults().stick(Service::Platform, None);
        tokenfs_run(&site.dir, &["refresh", daemon.mountpoint().to_str().unwrap()]).ok();
        site.doctor().assert_well();
    });
}

#[test]
fn a_workspace_that_has_not_registered() {
    sandboxed(secs(60), || {
        let site = Site::new();
        let _daemon = site.mount();
        site.wire();
        let report = site.doctor();
        report.told("fail", "token", "no source has given a token yet");
        assert!(!report.bad(Some("source")).is_empty(), "{:?}", report.bad(None));
        report.bad(Some("bearer")).iter().find(|told| told.contains("there is no ")).unwrap();
        site.register();
        eventually("the token comes", secs(10), || {
            site.doctor().bad(None).is_empty().then_some(())
        });
        site.doctor().assert_well();
    });
}

#[test]
fn a_bearer_that_the_daemon_cannot_read_or_that_others_can() {
    sandboxed(secs(60), || {
        let (site, _daemon) = Site::wired();
        let (configs, bearer) = (site.dir.join("configs"), site.dir.join("configs/.auth_token"));
        let owned_by = |path: &Path, user: u32| std::os::unix::fs::chown(path, Some(user), None);
        // Somebody became root to write it, and the daemon reads it as the owner of the directory.
        owned_by(&configs, ORDINARY).unwrap();
        owned_by(&bearer, 0).unwrap();
        fs::set_permissions(&bearer, fs::Permissions::from_mode(0o600)).unwrap();
        let remedy = site.doctor().told("fail", "bearer", "cannot be read by user 1000, as whom");
        site.run(&remedy).ok();
        assert_eq!(site.doctor().bad(Some("bearer")), Vec::<String>::new());

        for mode in [0o640, 0o604] {
            fs::set_permissions(&bearer, fs::Permissions::from_mode(mode)).unwrap();
            let told = format!("others may read it (mode {mode:04o})");
            let remedy = site.doctor().told("warn", "bearer", &told);
            site.run(&remedy).ok();
            assert_eq!(site.doctor().bad(Some("bearer")), Vec::<String>::new());
        }
        // Whoever is neither says nothing of what is not theirs.
        let report = site.doctor_by(User::Number(ORDINARY + 1), &[]);
        assert_eq!(report.bad(Some("bearer")), Vec::<String>::new());
    });
}

#[test]
fn a_platform_that_fails_is_told_with_its_remedy() {
    sandboxed(secs(60), || {
        let site = Site::new();
        site.register();
        site.wire();
        site.demo.faults().stick(Service::Platform, Some(Fault::Status(404)));
        let _daemon = site.mount();
        let remedy = site.doctor().told("fail", "source", "no GitHub App configured");
        assert!(remedy.contains("configure the GitHub App"), "{remedy}");
    });
}

#[test]
fn a_user_who_may_not_read() {
    sandboxed(secs(60), || {
        let (site, mut daemon) = Site::wired();
        let mountpoint = site.mountpoint();
        let look = |site: &Site| {
            let words = [PROGRAM, "doctor", "--json", "--user", "nobody", &mountpoint];
            Report::of(&run(site.command(User::Own, &words), &site.dir, secs(30)))
        };
        let report = look(&site);
        let remedy = report.told("fail", "access", "nobody may not read ");
        assert!(remedy.contains("--owner nobody"), "{remedy}");
        daemon.stop();
        let builder = Daemon::at(&site.dir).env("PLATFORM_URL", site.demo.url());
        let _daemon = builder.args(["--owner", "nobody"]).start();
        assert_eq!(look(&site).bad(Some("access")), Vec::<String>::new());
    });
}

#[test]
fn only_root_looks_with_the_eyes_of_another() {
    within(secs(30), || {
        let site = Site::new();
        let words = [PROGRAM, "doctor", "--user", "root"];
        let told = run(site.command(User::Number(ORDINARY), &words), &site.dir, secs(30));
        assert_eq!(told.status.code(), Some(2), "{told:?}");
        assert!(told.stderr.contains("only root can look with the eyes of another"), "{told:?}");
        let words = [PROGRAM, "doctor", "--user", "no-such-user"];
        let told = run(site.command(User::Own, &words), &site.dir, secs(30));
        assert_eq!(told.status.code(), Some(2), "{told:?}");
    });
}
