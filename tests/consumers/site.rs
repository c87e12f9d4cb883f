//! What the server gives to those consumers that want more than any answer: small but right
//! documents of each one's protocol.

use std::path::PathBuf;

use crate::support::dir::TestDir;
use crate::support::process::{User, command, run};
use crate::support::secs;

/// Writes the site, a folder for each consumer.
pub fn build(dir: &TestDir) -> PathBuf {
    pip(dir);
    npm(dir);
    cargo(dir);
    exchanges(dir);
    dir.file("site/kubectl/version", r#"{"major":"1","minor":"37","gitVersion":"v1.37.0"}"#);
    dir.file("site/prometheus/metrics", "# TYPE demo_up gauge\ndemo_up 1\n");
    dir.join("site")
}

/// An index of one project (PEP 503) and its wheel.
fn pip(dir: &TestDir) {
    const WHEEL: &str = "demo_package-1.0-py3-none-any.whl";
    dir.file(
        "site/pip/simple/demo-package/index",
        format!("<!DOCTYPE html><html><body><a href=\"{WHEEL}\">{WHEEL}</a></body></html>"),
    );
    let info = "demo_package-1.0.dist-info";
    dir.file(
        &format!("wheel/{info}/METADATA"),
        "Metadata-Version: 2.1\nName: demo-package\nVersion: 1.0\n",
    );
    dir.file(
        &format!("wheel/{info}/WHEEL"),
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    );
    dir.file(&format!("wheel/{info}/RECORD"), "");
    let mut zip = command("python3", User::Own);
    zip.current_dir(dir.join("wheel"))
        .args(["-m", "zipfile", "-c"])
        .arg(dir.join("site/pip/simple/demo-package").join(WHEEL))
        .arg(info);
    run(zip, dir, secs(20)).ok();
}

/// A package's metadata in npm's registry.
fn npm(dir: &TestDir) {
    dir.file(
        "site/npm/demo-package",
        r#"{"name":"demo-package","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":
            {"name":"demo-package","version":"1.0.0","dist":{"tarball":"http://127.0.0.1/none",
            "shasum":"0000000000000000000000000000000000000000"}}}}"#,
    );
}

/// A sparse index of one crate, for which a credential is needed.
fn cargo(dir: &TestDir) {
    dir.file(
        "site/cargo/config.json",
        r#"{"dl":"http://127.0.0.1/consumers/cargo/dl","auth-required":true}"#,
    );
    let mut line = serde_json::json!({
        "name": "demo-crate", "vers": "1.0.0", "deps": [], "features": {}, "yanked": false,
        "cksum": "0".repeat(64),
    })
    .to_string();
    line.push('\n');
    dir.file("site/cargo/de/mo/demo-crate", line);
}

/// The two token exchanges: RFC 8693, and AWS's `AssumeRoleWithWebIdentity`.
fn exchanges(dir: &TestDir) {
    dir.file(
        "site/google-auth/token",
        r#"{"access_token":"exchanged","token_type":"Bearer","expires_in":3600,
            "issued_token_type":"urn:ietf:params:oauth:token-type:access_token"}"#,
    );
    let answer = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials>\
         <AccessKeyId>DEMOACCESSKEY</AccessKeyId><SecretAccessKey>none</SecretAccessKey>\
         <SessionToken>none</SessionToken><Expiration>{}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        expiring_soon()
    );
    dir.file("site/boto3/index", answer);
}

/// Five minutes from now: so near that boto3 asks again at each use, as it does below ten.
fn expiring_soon() -> jiff::Timestamp {
    use molecule_tokenfs::time::{Clock as _, SystemClock};
    SystemClock.now().plus(secs(300)).timestamp()
}
