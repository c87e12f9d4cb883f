//! The consumers: how each is told where its token is, as the README does.

/// How a consumer runs.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Once for each request or so, again and again.
    Run,
    /// For as long as it is let.
    Service,
}

/// One program and its wiring. Its script knows `MOUNT`, `URL` (what the server serves to it), the
/// same as `TLS_URL` with `CERTIFICATE`, `TOOLS`, `CARGO`, and runs in a directory of its own.
#[derive(Debug)]
pub struct Consumer {
    pub name: &'static str,
    pub view: &'static str,
    pub kind: Kind,
    pub shell: &'static str,
    pub version: &'static str,
    pub script: &'static str,
}

impl Consumer {
    const fn run(
        name: &'static str,
        view: &'static str,
        version: &'static str,
        script: &'static str,
    ) -> Self {
        Self { name, view, kind: Kind::Run, shell: "sh", version, script }
    }

    const fn service(
        name: &'static str,
        view: &'static str,
        version: &'static str,
        script: &'static str,
    ) -> Self {
        Self { name, view, kind: Kind::Service, shell: "sh", version, script }
    }
}

/// gh takes `github.localhost` for a GitHub on port 80 of this machine.
macro_rules! gh_script {
    ($program:literal) => {
        concat!(
            "gh=",
            $program,
            r#"; export GH_HOST=github.localhost GH_CONFIG_DIR="$MOUNT/gh"
            "$gh" api /user
            "$gh" api "http://api.github.localhost/consumers/${PWD##*/}/"
            "#
        )
    };
}

const fn gh(name: &'static str, version: &'static str, script: &'static str) -> Consumer {
    Consumer::run(name, "gh/hosts.yml, gh/config.yml", version, script)
}

/// What Debian and Python's registry bring quickly.
const QUICK: &[Consumer] = &[
    Consumer::run(
        "curl-header",
        "header",
        "curl --version",
        r#"curl -sSf -H "@$MOUNT/header" "$URL/""#,
    ),
    Consumer::run(
        "curl-netrc",
        "netrc",
        "curl --version",
        r#"curl -sSf --netrc-file "$MOUNT/netrc" "$URL/""#,
    ),
    Consumer::run(
        "busybox",
        "token",
        "busybox | head -n 1",
        r#"busybox wget -q -O - --header "Authorization: Bearer $(busybox cat "$MOUNT/token")" "$URL/""#,
    ),
    Consumer {
        name: "bash-source",
        view: "env",
        kind: Kind::Run,
        shell: "bash",
        version: "bash --version",
        script: r#"source "$MOUNT/env"; curl -sSf -H "Authorization: Bearer $GH_TOKEN" "$URL/""#,
    },
    Consumer::run(
        "jq",
        "token.json, exec-credential.json, expires_at",
        "jq --version",
        r#"
        for query in 'token.json .access_token' 'exec-credential.json .status.token'; do
            token=$(jq -er "${query#* }" "$MOUNT/${query% *}")
            curl -sSf -H "Authorization: Bearer $token" "$URL/"
        done
        jq -Rer 'fromdate > now' "$MOUNT/expires_at"
        jq -er '.expires_at | fromdate > now' "$MOUNT/token.json"
        jq -er '.status.expirationTimestamp | fromdate > now' "$MOUNT/exec-credential.json"
        "#,
    ),
    Consumer::run(
        "mmap",
        "token",
        r#""$TOOLS/python" --version"#,
        r#"exec "$TOOLS/python" -c '
import mmap, os, urllib.request
with open(os.environ["MOUNT"] + "/token") as file:
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        token = view[:].decode()
assert token.isprintable(), "not only the token is mapped"
request = urllib.request.Request(os.environ["URL"] + "/", headers={"Authorization": "Bearer " + token})
urllib.request.urlopen(request).read()
'"#,
    ),
    gh("gh", "gh --version", gh_script!("gh")),
    gh("gh-2.88", r#""$TOOLS/gh-2.88" --version"#, gh_script!("$TOOLS/gh-2.88")),
    gh("gh-2.103", r#""$TOOLS/gh-2.103" --version"#, gh_script!("$TOOLS/gh-2.103")),
    Consumer::run(
        "pip",
        "netrc",
        r#""$TOOLS/python" -m pip --version | sed 's/ from .*//'"#,
        r#"
        NETRC=$MOUNT/netrc "$TOOLS/python" -m pip --quiet --disable-pip-version-check \
            download --no-deps --no-cache-dir --index-url "$URL/simple/" --dest . demo-package
        rm demo_package-1.0-py3-none-any.whl
        "#,
    ),
    Consumer::service(
        "requests",
        "netrc",
        r#""$TOOLS/python" -c 'import requests; print("requests", requests.__version__)'"#,
        r#"
        export NETRC="$MOUNT/netrc"
        exec "$TOOLS/python" -c '
import os, requests, time
session = requests.Session()
while True:
    session.get(os.environ["URL"] + "/", timeout=10).raise_for_status()
    time.sleep(0.3)
'"#,
    ),
    Consumer::service(
        "google-auth",
        "token, token.json",
        r#""$TOOLS/python" -c 'import google.auth as g; print("google-auth", g.__version__)'"#,
        r#"exec "$TOOLS/python" -c '
import os, time
from google.auth import identity_pool
from google.auth.transport.requests import Request
def credentials(source):
    return identity_pool.Credentials.from_info({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": os.environ["URL"] + "/token",
        "credential_source": source,
    })
mount = os.environ["MOUNT"]
both = [
    credentials({"file": mount + "/token"}),
    credentials({"file": mount + "/token.json",
                 "format": {"type": "json", "subject_token_field_name": "access_token"}}),
]
while True:
    for each in both:
        each.refresh(Request())
        assert each.token == "exchanged"
    time.sleep(0.3)
'"#,
    ),
    Consumer::service(
        "boto3",
        "token",
        r#""$TOOLS/python" -c 'import boto3; print("boto3", boto3.__version__)'"#,
        r#"
        export AWS_WEB_IDENTITY_TOKEN_FILE="$MOUNT/token" AWS_ROLE_ARN=arn:aws:iam::123456789012:role/demo
        export AWS_ENDPOINT_URL_STS="$URL/" AWS_REGION=eu-central-1
        exec "$TOOLS/python" -c '
import boto3, time
credentials = boto3.Session().get_credentials()
while True:
    assert credentials.get_frozen_credentials().access_key == "DEMOACCESSKEY"
    time.sleep(0.3)
'"#,
    ),
];

/// What takes longer to install.
const FURTHER: &[Consumer] = &[
    Consumer::run(
        "npm",
        "token",
        r#"echo "npm $("$TOOLS/npm" --version)""#,
        r#"
        export PATH="$TOOLS/../venv/bin:$PATH"
        printf '%s\n' "registry=$URL/" '//127.0.0.1/consumers/npm/:_authToken=${NPM_TOKEN}' update-notifier=false >.npmrc
        NPM_TOKEN=$(cat "$MOUNT/token") npm --prefer-online view demo-package version
        "#,
    ),
    Consumer::run(
        "cargo",
        "token",
        r#""$CARGO" --version"#,
        r#"
        mkdir -p home src
        export CARGO_HOME="$PWD/home" RUSTC="${CARGO%/*}/rustc"
        cat >home/config.toml <<-end
		[registries.demo]
		index = "sparse+$URL/"
		credential-provider = ["cargo:token-from-stdout", "cat", "$MOUNT/token"]
		end
        cat >Cargo.toml <<-end
		[package]
		name = "user"
		edition = "2021"
		[dependencies]
		demo-crate = { version = "1", registry = "demo" }
		end
        touch src/lib.rs
        rm -rf home/registry Cargo.lock
        "$CARGO" generate-lockfile
        "#,
    ),
    Consumer::run(
        "kubectl",
        "exec-credential.json",
        r#""$TOOLS/kubectl" version --client | sed -n 's/^Client Version: /kubectl /p'"#,
        r#"
        cat >config <<-end
		apiVersion: v1
		kind: Config
		current-context: demo
		contexts: [{name: demo, context: {cluster: demo, user: demo}}]
		clusters: [{name: demo, cluster: {server: "$TLS_URL", certificate-authority: "$CERTIFICATE"}}]
		users:
		- name: demo
		  user:
		    exec:
		      apiVersion: client.authentication.k8s.io/v1
		      interactiveMode: Never
		      command: cat
		      args: ["$MOUNT/exec-credential.json"]
		end
        "$TOOLS/kubectl" --kubeconfig config get --raw /version
        "#,
    ),
    Consumer::service(
        "prometheus",
        "token",
        r#""$TOOLS/prometheus" --version 2>&1 | tr -d ,"#,
        r#"
        cat >prometheus.yml <<-end
		global: {scrape_interval: 1s}
		scrape_configs:
		- job_name: demo
		  metrics_path: /consumers/prometheus/metrics
		  authorization: {credentials_file: "$MOUNT/token"}
		  static_configs: [{targets: ['127.0.0.1:80']}]
		end
        exec "$TOOLS/prometheus" --config.file=prometheus.yml --storage.tsdb.path=data --web.listen-address=127.0.0.1:0
        "#,
    ),
];

/// The list for this run: the quick ones, or all of them for `scripts/evidence consumers`.
pub fn wanted() -> Vec<&'static Consumer> {
    match evidence() {
        None => QUICK.iter().collect(),
        Some(_) => QUICK.iter().chain(FURTHER).collect(),
    }
}

/// Writes the figures where `scripts/evidence consumers` wants them.
pub fn report(figures: &[serde_json::Value]) {
    if let Some(file) = evidence() {
        let text = serde_json::to_string_pretty(figures).expect("JSON");
        std::fs::write(file, text + "\n").expect("the figures are written");
    }
}

#[expect(clippy::disallowed_methods, reason = "how scripts/evidence asks for more")]
fn evidence() -> Option<std::ffi::OsString> {
    std::env::var_os("MOLECULE_CONSUMERS_JSON")
}
