//! Users that the tokens are not for, and those who may read them and no more.

use rand::rngs::StdRng;

use super::{Act, Attack, PROGRAM, boxed};
use crate::scene::{Form, GROUP, MEMBER, STRANGER, Scene};

pub fn all() -> Vec<Box<dyn Attack>> {
    boxed([
        Act { name: "a stranger looks at everything", forms: &Form::ALL, run: stranger },
        Act { name: "a member of the group rejects tokens", forms: &Form::ALL, run: member },
    ])
}

/// Reads what is there; the names are the agent's to list.
const LOOK: &str = r#"
mount=$1; shift
for name; do
    if text=$(cat "$mount/$name" 2>/dev/null); then
        case $text in *ghs_*) echo "harm: a stranger read a token in $name";; esac
        case $text in *.auth_token*) echo "harm: a stranger learnt of files in $name";; esac
    fi
    echo x >"$mount/$name" && echo "harm: a stranger wrote to $name"
done 2>/dev/null
ls "$mount" >/dev/null 2>&1 && echo "harm: a stranger listed the mount"
echo done
"#;

const NAMES: [&str; 14] = [
    "token",
    "live/token",
    "netrc",
    "git-credential",
    "env",
    "header",
    "json",
    "token.json",
    "gh/hosts.yml",
    "expires_at",
    "refresh",
    "status.json",
    "status.full.json",
    "metrics.prom",
];

fn stranger(scene: &Scene<'_>, _: &mut StdRng) -> Result<(), String> {
    // The particulars of a failure name files.
    scene.put(|at| std::fs::write(at, "a b"));
    scene.refresh();
    let mountpoint = scene.mountpoint();
    let mut words = vec!["sh", "-c", LOOK, "sh", mountpoint.to_str().unwrap()];
    words.extend(NAMES);
    play(scene, STRANGER, STRANGER, &words)
}

/// Says of each token that it was refused, ten times as fast as anybody reads.
const REJECT: &str = r#"
mount=$1 refused=0 taken=0
for round in 1 2 3 4 5 6 7 8 9 10; do
    mark=$(sha256sum <"$mount/token" | cut -c1-8)
    if echo "$mark" >"$mount/refresh"; then taken=$((taken + 1)); fi
    if echo now >"$mount/refresh"; then taken=$((taken + 1)); fi
done 2>/dev/null
[ $taken -eq 0 ] || echo "harm: a member of the group had $taken orders taken"
echo done
"#;

fn member(scene: &Scene<'_>, _: &mut StdRng) -> Result<(), String> {
    let mountpoint = scene.mountpoint();
    let words = ["sh", "-c", REJECT, "sh", mountpoint.to_str().unwrap()];
    play(scene, MEMBER, GROUP, &words)
}

/// Runs a program as this user, and gives the harm that it tells of.
fn play(scene: &Scene<'_>, user: u32, group: u32, words: &[&str]) -> Result<(), String> {
    let (user, group) = (user.to_string(), group.to_string());
    let who = ["setpriv", "--reuid", &user, "--regid", &group, "--clear-groups"];
    let told = scene.run(scene.enter(&[&who[..], words].concat()), PROGRAM);
    let harm: Vec<_> = told.stdout.lines().filter_map(|line| line.strip_prefix("harm: ")).collect();
    if !harm.is_empty() {
        return Err(harm.join("; "));
    }
    if told.stdout.lines().any(|line| line == "done") { Ok(()) } else { Err(format!("{told:?}")) }
}
