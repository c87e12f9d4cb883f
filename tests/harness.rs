//! The tests' own tools: what they promise the other tests.
//! needs: root, busybox

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use support::dir::{TestDir, mounts_below};
use support::limit::within;
use support::process::{ORDINARY, Process, User, command, require, run};
use support::{leak, millis, namespace, secs};

fn sleeper(dir: &TestDir) -> Process {
    let mut sh = command("sh", User::Own);
    // The grandchild ignores what ends its parent.
    sh.args(["-c", "sh -c 'trap \"\" TERM; sleep 100' & echo $!; trap '' TERM; sleep 100"]);
    let process = Process::start(sh, "sleeper", dir);
    support::eventually("it has started a child", secs(5), || {
        process.stdout().ends_with('\n').then_some(())
    });
    process
}

fn is_gone(pid: i32) -> bool {
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || state.contains(") Z ")
}

#[test]
fn a_dropped_process_is_gone_and_so_is_what_it_started() {
    within(secs(20), || {
        let dir = TestDir::new();
        let process = sleeper(&dir);
        let grandchild = process.stdout().trim().parse().unwrap();
        let pid = process.pid();
        assert!(!is_gone(grandchild));
        drop(process);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH), "it was not reaped");
        support::eventually("the grandchild is gone", secs(5), || {
            is_gone(grandchild).then_some(())
        });
    });
}

#[test]
fn a_test_that_hangs_fails_by_its_limit_and_its_processes_are_killed() {
    within(secs(30), || {
        let (send, receive) = mpsc::channel();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            within(millis(500), move || {
                let dir = TestDir::new();
                let mut process = sleeper(&dir);
                send.send(process.pid()).unwrap();
                // Comes back only when somebody else ends it.
                process.wait(secs(20));
            });
        }));
        let message = *outcome.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("time limit of 500ms"), "{message}");
        assert_eq!(kill(receive.recv().unwrap(), None), Err(Errno::ESRCH));
    });
}

#[test]
fn a_panic_in_a_body_is_the_tests_own() {
    let outcome = catch_unwind(|| within(secs(5), || panic!("the reason")));
    assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "the reason");
}

#[test]
fn mounts_of_a_sandboxed_test_are_its_own_and_go_with_its_directory() {
    let (send, receive) = mpsc::channel();
    namespace::sandboxed(secs(10), move || {
        let dir = TestDir::new();
        let target = dir.folder("mounted");
        mount(None::<&str>, &target, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        fs::write(target.join("inside"), "x").unwrap();
        assert_eq!(mounts_below(dir.path()), std::slice::from_ref(&target));
        // The main thread is in the machine's namespace still.
        assert!(
            !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(target.to_str().unwrap())
        );
        let mut cat = command("cat", User::Own);
        cat.arg(target.join("inside"));
        assert_eq!(run(cat, &dir, secs(5)).ok(), "x", "a child sees the mount");
        send.send(dir.path().to_owned()).unwrap();
    });
    assert!(!receive.recv().unwrap().exists(), "the directory is left over");
}

#[test]
fn a_sandboxed_test_can_have_its_own_hosts_and_network() {
    require("busybox", "busybox-static");
    namespace::sandboxed(secs(10), || {
        let dir = TestDir::new();
        namespace::replace_file(Path::new("/etc/hosts"), "127.0.0.1 api.github.localhost\n", &dir);
        namespace::private_network(&dir);
        let server = std::net::TcpListener::bind("127.0.0.1:80").unwrap();
        std::net::TcpStream::connect("api.github.localhost:80").unwrap();
        drop(server);
    });
}

#[test]
fn a_command_of_another_user_has_its_number_and_nothing_of_ours() {
    within(secs(10), || {
        let dir = TestDir::new();
        let id = run(command("id", User::Number(ORDINARY)), &dir, secs(5)).ok();
        assert!(id.starts_with("uid=1000") && !id.contains("root"), "{id}");
        let env = run(command("env", User::Own), &dir, secs(5)).ok();
        let names = env.lines().map(|line| line.split('=').next().unwrap()).collect::<Vec<_>>();
        assert_eq!(names, ["LC_ALL", "PATH"]);
    });
}

#[test]
fn a_leak_is_found_in_each_form() {
    let secret = "ghs_0123456789abcdefghijKLMNOPQRST";
    let search = leak::Search::new(["another-secret-of-somebody-else", secret]);
    let hex = leak::hex(secret.as_bytes()).to_uppercase();
    for (form, text) in [
        ("plain", format!("token={secret}")),
        ("plain", format!("a part of it: {}", &secret[9..25])),
        ("plain", secret.to_uppercase()),
        ("hexadecimal", hex),
        ("numbers", format!("{:?}", secret.as_bytes())),
        ("base64", STANDARD.encode(secret)),
        ("base64", STANDARD.encode(format!("x-access-token:{secret}"))),
        ("base64", STANDARD.encode(format!("user:{secret}\n"))),
        ("base64", STANDARD.encode(format!("abc:{secret}"))),
    ] {
        assert_eq!(search.first_in(text.as_bytes()), Some((1, form)), "{text}");
    }
    assert_eq!(search.first_in(b"fingerprint 0123abcd of ghs_ 0123456789"), None);
}
