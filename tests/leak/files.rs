//! The same where the tokens are files.

use std::fs;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::secret::Fingerprint;

use crate::support::namespace::sandboxed;
use crate::support::{eventually, secs};
use crate::{Driven, IN_THE_ENVIRONMENT};

#[test]
fn files_let_nothing_out_either() {
    sandboxed(secs(60), || {
        let mut driven = Driven::start(|demo, _, builder| {
            demo.faults().once(Service::Platform, Fault::Status(500));
            builder.env("GITHUB_TOKEN", IN_THE_ENVIRONMENT).args(["--backend", "files"])
        });
        let path = driven.path("token");
        let is_of_platform = |token: &Vec<u8>| token.as_slice() != IN_THE_ENVIRONMENT.as_bytes();
        let token = eventually("a token of the platform", secs(30), || {
            fs::write(driven.path("refresh"), "now\n").unwrap();
            fs::read(&path).ok().filter(is_of_platform)
        });
        driven.look();
        // What people write into it by mistake, and a reject.
        fs::write(driven.path("refresh"), &token).unwrap();
        fs::write(driven.path("refresh"), format!("{}\n", Fingerprint::of(&token))).unwrap();
        eventually("another token", secs(20), || {
            fs::read(&path).ok().filter(is_of_platform).filter(|other| *other != token)
        });
        driven.look();
        let mount = driven.mountpoint();
        fs::remove_file(driven.dir.join("configs/.auth_token")).unwrap();
        let get = crate::tokenfs_run(&driven.dir, &["get", "--min-life", "3h", &mount]);
        assert_eq!(get.status.code(), Some(3), "{get:?}");
        driven.keep("the errors of `get`", get.stderr);
        let log = driven.end();
        assert!(log.contains("molecule_tokenfs::files"), "no line of the files in the log");
    });
}
