//! In an image without CA certificates.

use std::fs;
use std::path::Path;

use molecule_tokenfs::demo::Setup;
use molecule_tokenfs::demo::ledger::Verdict;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use tokio::runtime::Runtime;

use crate::Workspace;
use crate::support::daemon::tokenfs_run;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::{eventually, secs};
use crate::tls::Tls;

/// Where certificates are looked for when no variable names a place (the `openssl-probe` crate).
const PLACES: [&str; 12] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/certs",
    "/etc/openssl",
    "/opt/etc/ssl",
    "/usr/lib/ssl",
    "/usr/local/etc/openssl",
    "/usr/local/share",
    "/usr/local/ssl",
    "/usr/share/ca-certificates",
    "/usr/share/ssl",
    "/var/ssl",
];

/// Hides them all from what is started in this namespace.
fn without_certificates() {
    for place in PLACES.map(Path::new).into_iter().filter(|place| place.is_dir()) {
        mount(Some("test"), place, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
        assert_eq!(fs::read_dir(place).unwrap().count(), 0);
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().unwrap()
}

fn assert_serves(workspace: &Workspace) {
    let token = fs::read(workspace.path("token")).unwrap();
    assert_eq!(workspace.demo.ledger().verdict(&token), Verdict::Live);
}

#[test]
fn without_ca_certificates_plain_http_works() {
    sandboxed(secs(30), || {
        without_certificates();
        assert_serves(&Workspace::start(Setup::default()));
    });
}

#[test]
fn without_ca_certificates_https_says_what_is_missing_and_works_when_it_is_installed() {
    sandboxed(secs(30), || {
        without_certificates();
        let (runtime, tls) = (runtime(), Tls::new());
        let workspace = Workspace::start_over(Setup::default(), |demo, builder| {
            builder.env("PLATFORM_URL", runtime.block_on(tls.serve(demo.host())))
        });
        let path = workspace.path("token");
        assert_eq!(errno(&fs::read(&path).unwrap_err()), Some(Errno::EKEYREJECTED));
        let said = tokenfs_run(&workspace.dir, &["status", workspace.path("").to_str().unwrap()]);
        assert_eq!(said.status.code(), Some(3));
        for part in [
            "there are no CA certificates here to check https with",
            "apt-get install ca-certificates",
            "--ca-file",
        ] {
            assert!(said.stdout.contains(part), "`{part}` is not in: {}", said.stdout);
        }
        assert_eq!(workspace.demo.ledger().counts().platform.requests, 0, "nobody was asked");

        // As the package does it. The bearer only hastens the next try.
        fs::create_dir_all("/etc/ssl/certs").unwrap();
        fs::copy(tls.certificate(), "/etc/ssl/certs/ca-certificates.crt").unwrap();
        workspace.demo.register(&workspace.dir.join("configs")).unwrap();
        eventually("https works", secs(10), || fs::read(&path).ok());
        assert_serves(&workspace);
    });
}

#[test]
fn without_ca_certificates_https_works_with_a_bundle_that_is_named() {
    sandboxed(secs(30), || {
        without_certificates();
        let (runtime, tls) = (runtime(), Tls::new());
        let workspace = Workspace::start_over(Setup::default(), |demo, builder| {
            let url = runtime.block_on(tls.serve(demo.host()));
            let bundle = tls.certificate();
            builder.env("PLATFORM_URL", url).args(["--ca-file", bundle.to_str().unwrap()])
        });
        assert_serves(&workspace);
    });
}
