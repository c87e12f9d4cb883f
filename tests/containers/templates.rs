//! The eight workspace templates: a container from each, built of its two wired lines and nothing else
//! of ours, in which a stand-in with the agent's start contract registers the workspace and works.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::acceptance::{Length, evidence};
use crate::runtime::{Order, with_runc};
use crate::site::{AGENT, LOOP, Site, Wiring, tool};
use crate::support::daemon::PROGRAM;
use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::run;
use crate::support::secs;
use crate::support::template::{Template, project, templates, words};

/// Makes a wheel of the program under test, as `scripts/package wheel` makes one for users: that takes
/// minutes, this a second.
const WHEEL: &str = r#"
import hashlib, pathlib, sys, zipfile
program, source, out = map(pathlib.Path, sys.argv[1:4])
version = sys.argv[4]
info, data = (f"molecule_tokenfs-{version}.{kind}" for kind in ("dist-info", "data"))
files = {f"{data}/scripts/molecule-tokenfs": program.read_bytes()}
for path in source.glob("molecule_tokenfs/*"):
    if path.is_file(): files[str(path.relative_to(source))] = path.read_bytes()
files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: molecule-tokenfs\nVersion: {version}\n".encode()
files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: false\nTag: py3-none-any\n"
record = f"{info}/RECORD"
with zipfile.ZipFile(out / f"molecule_tokenfs-{version}-py3-none-any.whl", "w") as wheel:
    for name, content in files.items():
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (0o100755 if "/scripts/" in name else 0o100644) << 16
        wheel.writestr(entry, content)
    wheel.writestr(record, "".join(f"{name},,\n" for name in [*files, record]))
"#;

/// The directory with the wheel: one that was packaged, or the program under test in one.
fn wheels(site: &Site) -> PathBuf {
    if let Some(packaged) = crate::acceptance::variable("MOLECULE_WHEELS") {
        return packaged.into();
    }
    let wheels = site.dir.folder("wheels");
    let mut make = tool("python3");
    make.args(["-c", WHEEL, PROGRAM]).arg(project("scripts/python/src")).arg(&wheels);
    make.arg(env!("CARGO_PKG_VERSION"));
    run(make, &site.dir, secs(60)).ok();
    wheels
}

/// Builds the image: Debian's packages, the stand-in, and what the wired lines say.
fn build(site: &Site, wheels: &Path, name: &str, template: &Template) -> PathBuf {
    let root = site.bare_root(&template.rootfs, name);
    let put = |from: PathBuf, to: PathBuf| {
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    };
    let stand_in = project("scripts/templates/shared").join(&template.program);
    put(stand_in, root.join("usr/local/bin").join(&template.program));
    if let Some(script) = &template.entrypoint {
        put(project("scripts/templates").join(name).join(script), root.join(script));
    }
    let line = template.wired.install.strip_prefix("RUN ").unwrap();
    fs::create_dir_all(root.join("opt/wheels")).unwrap();
    for wheel in fs::read_dir(wheels).unwrap().map(Result::unwrap) {
        if wheel.path().extension().is_some_and(|kind| kind == "whl") {
            fs::copy(wheel.path(), root.join("opt/wheels").join(wheel.file_name())).unwrap();
        }
    }
    let mut install = tool("chroot");
    install.arg(&root).args(["sh", "-c", line]);
    install.env("PIP_FIND_LINKS", "/opt/wheels").env("PIP_NO_INDEX", "1");
    install.env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env("PIP_ROOT_USER_ACTION", "ignore");
    install.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    run(install, &site.dir, secs(120)).ok();
    root
}

/// Lets one image live, and checks what came of it.
fn live(site: &Site, wheels: &Path, name: &str, template: &Template, seconds: u64) {
    let start = match &template.entrypoint {
        Some(script) => vec![format!("/{script}")],
        None => words(&template.wired.start),
    };
    let work = ["sh", "-c", LOOP].map(str::to_owned);
    let configs = site.dir.folder(&format!("configs-of-{name}"));
    std::os::unix::fs::chown(&configs, Some(AGENT), Some(AGENT)).unwrap();
    let mut environment = site.environment(Wiring::Run, seconds);
    let bearer = fs::read_to_string(site.dir.join("configs/.auth_token")).unwrap();
    environment.push(("STAND_IN_BEARER".to_owned(), bearer));
    for (variable, value) in &mut environment {
        // A repository of its own, and time for the others.
        match variable.as_str() {
            "URL" => *value = site.demo.create_repository(&format!("{name}.git")).unwrap(),
            "PAUSE" => "1".clone_into(value),
            _ => {}
        }
    }
    let order = Order {
        wiring: Wiring::Run,
        environment,
        words: start.into_iter().chain(work).collect(),
        root: build(site, wheels, name, template),
        configs,
    };
    let mut result = Value::Null;
    with_runc(site, name, &order, |container| {
        let (code, stdout, stderr) = container.wait(secs(seconds + 60));
        assert_eq!(code, 0, "{stdout}{stderr}");
        let line = stdout.lines().last().unwrap_or_default();
        result = serde_json::from_str(line).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        assert!(result["first_failure_seconds"].is_null(), "{result}\n{stderr}");
    });
    for (key, at_least) in [("gh_ok", 3), ("git_ok", 9)] {
        assert!(result[key].as_u64().unwrap() >= at_least, "{name}: {result}");
    }
    result["template"] = json!(name);
    result["seconds"] = json!(seconds);
    if let Some(directory) = evidence() {
        fs::write(directory.join(format!("template-{name}.json")), result.to_string()).unwrap();
    }
}

#[test]
fn each_template_works_with_two_wired_lines() {
    let length = Length::usual(14);
    sandboxed(length.limit() * 2, move || {
        let site = Site::new(secs(length.life));
        let wheels = wheels(&site);
        let templates = templates();
        assert_eq!(templates.len(), 8);
        let numbers: Vec<_> = (0..templates.len()).collect();
        each(
            &numbers,
            |number| templates[number].0.clone(),
            |number| {
                let (name, template) = &templates[number];
                live(&site, &wheels, name, template, length.seconds);
            },
        );
        let ledger = site.demo.ledger();
        for service in ["git", "rest"] {
            let seen = ledger.counts().service(service);
            assert_eq!((seen.dead, seen.revoked, seen.unknown), (0, 0, 0), "{service}: {seen:?}");
        }
    });
}
