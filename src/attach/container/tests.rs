//! Machines made of files: what engines keep, and what `/proc` says.

use super::*;

const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OTHER: &str = "1122222222222222222222222222222222222222222222222222222222222222";

/// A machine in a directory, with the files of this user.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> &Self {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// A process that started at 77.
    fn process(&self, pid: i32, numbers: &str, group: &str) -> &Self {
        let zeros = "0 ".repeat(18);
        self.file(&format!("proc/{pid}/stat"), &format!("{pid} (a) b) S {zeros}77 0\n"))
            .file(&format!("proc/{pid}/status"), &format!("Name:\ta\nNSpid:\t{numbers}\n"))
            .file(&format!("proc/{pid}/cgroup"), &format!("0::{group}\n"))
    }

    fn find(&self, wanted: &str) -> Result<(String, i32), String> {
        let owner = nix::unistd::geteuid().as_raw();
        let system = System { root: self.0.path(), owner };
        let found = system.find(wanted).map_err(|error| error.to_string())?;
        Ok((found.id, found.pid))
    }
}

#[test]
fn what_each_engine_keeps_is_understood() {
    let runc = r#"{"id":"x","init_process_pid":7,"init_process_start":77,"config":{}}"#;
    let crun = r#"{"pid":7,"process-start-time":77,"cgroup-path":"/x"}"#;
    for (file, text) in [
        ("run/runc/ID/state.json", runc),
        ("run/crun/ID/status", crun),
        ("run/docker/runtime-runc/moby/ID/state.json", runc),
        ("run/containerd/runc/k8s.io/ID/state.json", runc),
        ("run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/init.pid", "7"),
        ("run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/ID/init.pid", "7"),
        ("run/containers/storage/overlay-containers/ID/userdata/pidfile", "7\n"),
    ] {
        let machine = Machine::new();
        machine.process(7, "7 1", "/").file(&file.replace("ID", ONE), text);
        for wanted in [ONE, "1", "1111"] {
            assert_eq!(machine.find(wanted), Ok((ONE.to_owned(), 7)), "{file}");
        }
        assert!(machine.find("2").unwrap_err().contains("the name `2`"), "{file}");
    }
}

#[test]
fn a_container_that_ended_is_not_taken_for_whoever_has_its_number_now() {
    let machine = Machine::new();
    let state = r#"{"init_process_pid":7,"init_process_start":76}"#;
    machine.process(7, "7 1", &format!("/docker/{OTHER}"));
    machine.file(&format!("run/runc/{ONE}/state.json"), state);
    machine.file(&format!("run/containerd/io.containerd.runtime.v2.task/moby/{ONE}/init.pid"), "7");
    assert!(machine.find(ONE).is_err());
    machine.process(8, "8", "/").file("run/crun/web/init.pid", "8");
    assert!(machine.find("web").is_err(), "a process of the machine itself");
}

#[test]
fn a_name_is_found_and_comes_before_the_beginning_of_an_id() {
    let machine = Machine::new();
    let pids = "run/containerd/io.containerd.runtime.v2.task/moby";
    machine.process(7, "7 1", "/").file(&format!("{pids}/{ONE}/init.pid"), "7");
    machine.process(8, "8 1", "/").file(&format!("{pids}/{OTHER}/init.pid"), "8");
    machine.file(&format!("var/lib/docker/containers/{ONE}/config.v2.json"), r#"{"Name":"/11"}"#);
    let podman = "var/lib/containers/storage/overlay-containers/containers.json";
    machine.file(podman, &format!(r#"[{{"id":"{OTHER}","names":["web"]}}]"#));
    assert_eq!(machine.find("11"), Ok((ONE.to_owned(), 7)));
    assert_eq!(machine.find("web"), Ok((OTHER.to_owned(), 8)));
    assert_eq!(machine.find("112"), Ok((OTHER.to_owned(), 8)));
    let ambiguous = machine.find("1").unwrap_err();
    assert!(ambiguous.contains(ONE) && ambiguous.contains(OTHER), "{ambiguous}");
}

#[test]
fn without_files_the_outermost_first_process_in_a_control_group_of_that_id_is_it() {
    for group in
        ["/docker/ID", "/system.slice/docker-ID.scope", "/machine.slice/libpod-ID.scope/container"]
    {
        let group = group.replace("ID", ONE);
        let machine = Machine::new();
        machine.process(6, "6", &group).process(9, "9 4 1", &format!("{group}/docker/{OTHER}"));
        machine.process(7, "7 1", &group).process(8, "8 2", &group);
        assert_eq!(machine.find("111"), Ok((ONE.to_owned(), 7)), "{group}");
        assert_eq!(machine.find("112"), Ok((OTHER.to_owned(), 9)), "{group}");
        assert!(machine.find("docker").is_err() && machine.find("system").is_err());
    }
}

#[test]
fn files_of_somebody_else_do_not_count() {
    let machine = Machine::new();
    let state = r#"{"init_process_pid":7,"init_process_start":77}"#;
    machine.process(7, "7 1", "/").file("run/runc/web/state.json", state);
    assert!(machine.find("web").is_ok());
    let system = System { root: machine.0.path(), owner: u32::MAX };
    assert!(system.find("web").is_err());
}
