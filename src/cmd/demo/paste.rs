//! What `--keep` prints.

use std::fmt::Write;

use crate::cmd::demo::app;
use crate::cmd::demo::fuse::Way;
use crate::cmd::demo::lane::{Kind, MOCK_HOST};
use crate::cmd::demo::place::{Place, quoted};
use crate::cmd::demo::tools::{Asker, Tools};
use crate::demo::Demo;

/// Lines that use the mount, for another terminal.
pub(super) fn lines(place: &Place, demo: &Demo, tools: &Tools, way: Way) -> String {
    let mount = quoted(&place.mount());
    let home = quoted(&place.home(Kind::Mounted.name()));
    let url = demo.url();
    let mut text = "\nThe mount stays until Ctrl-C. In another terminal:\n\n".to_owned();
    if way == Way::Namespace {
        let pid = std::process::id();
        let _ = writeln!(
            text,
            "  nsenter --target {pid} --user --mount --preserve-credentials   # enter its namespace"
        );
    }
    if let Ok(program) = std::env::current_exe() {
        let _ = writeln!(text, "  {} status {mount}", quoted(&program));
    }
    let _ = writeln!(text, "  cat {mount}/token | sha256sum | cut -c1-8   # the fingerprint");
    let _ = writeln!(text, "  HOME={home} git ls-remote {url}/git/{}.git", Kind::Mounted.name());
    let asks = |views: &str, path: &str| match tools.asker {
        Asker::Gh => format!(
            "  GH_TOKEN_FILE={views}/token GH_HOST={MOCK_HOST} GH_CONFIG_DIR={} {}/gh api {path}",
            quoted(&place.gh_config()),
            quoted(&place.bin())
        ),
        Asker::Curl => format!("  curl -sS -H @{views}/header {url}{path}"),
    };
    let _ = writeln!(text, "{}", asks(&mount, "/user"));
    if way != Way::Files {
        let line = asks(&quoted(&app::views(place)), &format!("/repos/{}", app::REPOSITORY));
        let _ = writeln!(text, "{line}   # and 404 for /repos/{}", app::OTHER);
    }
    text.push('\n');
    text
}
