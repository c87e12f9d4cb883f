//! Containers with users of their own: whoever owns the tokens must exist there.

use serde_json::json;

use crate::bundle::Bundle;
use crate::engines::InPodman;
use crate::scene::{AGENT, Container, PLACE, Scene, expect_refusal, lives};
use crate::support::daemon::Daemon;
use crate::support::namespace::{replace_file, sandboxed};
use crate::support::secs;

/// User 0 in a container is this one outside.
const FIRST: u32 = 200_000;

#[test]
fn a_container_with_users_of_its_own_sees_the_tokens_of_one_of_them_and_of_nobody_else() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        let elsewhere = scene.dir.join("strangers");
        let _stranger = scene.daemon_at(&elsewhere, AGENT);
        let _daemon = scene.daemon(FIRST + AGENT);
        let container = Bundle::start_with("runc", &scene, |config| {
            let map = json!([{ "containerID": 0, "hostID": FIRST, "size": 65536 }]);
            config["linux"]["uidMappings"] = map.clone();
            config["linux"]["gidMappings"] = map;
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({ "type": "user" }));
            // What belongs to a user who does not exist cannot be written to, whatever the mount says.
            config["root"]["readonly"] = json!(false);
            let memory = json!({ "destination": "/run", "type": "tmpfs", "source": "tmpfs" });
            config["mounts"].as_array_mut().unwrap().push(memory);
        });
        let stranger = ["--container", &container.name, elsewhere.to_str().unwrap()];
        let refused = scene.attach(&stranger);
        expect_refusal(
            &refused,
            &format!("user {AGENT} of this host, who does not exist in the container"),
        );
        assert!(refused.stderr.contains("0 to 65535 are 200000 to 265535"), "{refused:?}");
        assert!(refused.stderr.contains("mount --owner 201000"), "{refused:?}");
        let open = scene.dir.join("open");
        let for_all = Daemon::at(&scene.dir).mountpoint(&open).args(["--made-up", "1h"]);
        let _open = for_all.args(["--mode", "0444"]).arg_pair("--owner", AGENT.to_string()).start();
        // What everybody may read needs no owner there.
        let words = ["--container", &container.name, "--path", "/tmp", open.to_str().unwrap()];
        scene.attach(&words).ok();
        assert!(container.shell(AGENT, "cat /tmp/token").ok().starts_with("ghs_"));
        lives(&scene, &container, &["--container", &container.name]);
        let made = format!("stat -c '%u:%g %a' /run/molecule {PLACE}");
        assert_eq!(container.shell(AGENT, &made).ok(), "0:0 755\n0:0 755\n");
        // Where it cannot be made, the reason is told, and nothing is left.
        let no_way = ["--container", &container.name, "--path", "/opt/token"];
        expect_refusal(
            &scene.attach(&no_way),
            "/opt does not exist in the container, and cannot be made",
        );
    });
}

#[test]
fn a_container_of_podman_to_which_podman_gives_users() {
    sandboxed(secs(120), || {
        let scene = Scene::new();
        for list in ["/etc/subuid", "/etc/subgid"] {
            replace_file(list.as_ref(), &format!("containers:{FIRST}:65536\n"), &scene.dir);
        }
        let _daemon = scene.daemon(FIRST + AGENT);
        let container = InPodman::start_of_image(&scene, &["--userns=auto:size=65536"]);
        let id = container.inspect("{{.Id}}");
        lives(&scene, &container, &["--container", &id]);
        // Also where its root is read-only, and its directories have yet to be made.
        scene.attach(&["--container", &id, "--path", "/opt/token"]).ok();
        let see = "stat -c '%u:%g %a' /opt && cat /opt/token/token";
        assert!(container.shell(AGENT, see).ok().starts_with("0:0 755\nghs_"));
    });
}
