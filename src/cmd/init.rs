//! `init`: writes a configuration, after it was seen to give a token.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, BufRead, IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Subcommand;
use nix::unistd::{AccessFlags, Uid, access};

use crate::cmd::EXIT_CODES;
use crate::cmd::{self, Advise, EXIT_NO_TOKEN, EXIT_USAGE, live};
use crate::config::file;
use crate::config::tables::Tables;
use crate::config::{self, DEFAULT_HOST};
use crate::error::{FetchError, FetchErrorKind};
use crate::source::github_app::GITHUB;
use crate::source::{SourceConfig, http};

/// The name of the source in the file.
const SOURCE: &str = "github";

/// The arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct InitArgs {
    /// For which source.
    #[command(subcommand)]
    source: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Tokens of a GitHub App of your own, minted on this machine
    #[command(after_help = EXIT_CODES)]
    GithubApp(GithubAppArgs),
}

/// The arguments of `init github-app`. What is missing is asked for on the terminal.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("installation"))]
pub struct GithubAppArgs {
    /// The App's client id, from its page under General; its App ID does, too
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,

    /// The file with the App's private key, as GitHub gives it (PEM)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,

    /// Mint tokens of this organisation's or user's installation
    #[arg(long, group = "installation")]
    owner: Option<String>,

    /// Mint tokens of the installation that has this repository
    #[arg(long, value_name = "OWNER/REPO", group = "installation")]
    repository: Option<String>,

    /// Mint tokens of the installation with this number
    #[arg(long, value_name = "NUMBER", group = "installation")]
    installation_id: Option<u64>,

    /// Only for these repositories, by name without the owner; repeatable, or with commas
    #[arg(long = "only", value_name = "REPO", value_delimiter = ',')]
    repositories: Vec<String>,

    /// Only with this permission, as contents=write; repeatable [default: all that the installation
    /// grants]
    #[arg(long = "permission", value_name = "NAME=LEVEL", value_parser = permission)]
    permissions: Vec<(String, String)>,

    /// Base URL of the API; for GitHub Enterprise Server that of its host, with /api/v3
    #[arg(long, value_name = "URL", default_value = GITHUB)]
    api_url: String,

    /// The file to write
    #[arg(long, value_name = "FILE", default_value = file::DEFAULT)]
    file: PathBuf,

    /// Write it without asking GitHub for a token first
    #[arg(long)]
    no_try: bool,
}

fn permission(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((name, level)) if !name.is_empty() && !level.is_empty() => {
            Ok((name.to_owned(), level.to_owned()))
        }
        _ => Err("expected NAME=LEVEL, as contents=write"),
    }
}

/// Asks what is missing, tries it, and writes the file.
///
/// # Errors
/// Where something is missing and there is no terminal, GitHub gives no token, or the file is there
/// already or cannot be written. Nothing is written then.
pub fn run(args: InitArgs) -> anyhow::Result<ExitCode> {
    match args.source {
        Kind::GithubApp(args) => github_app(args),
    }
}

fn github_app(mut args: GithubAppArgs) -> anyhow::Result<ExitCode> {
    // What is typed next may be typed elsewhere.
    args.file = std::path::absolute(&args.file).context("cannot tell the current directory")?;
    if args.file.exists() {
        let shown = args.file.display();
        return Err(anyhow!("{shown} is there already, and is left as it is")
            .hint("write another file: --file FILE, and read it with --config FILE")
            .hint("or add the tables to it by hand: docs/GITHUB_APP.md shows them")
            .exit_code(EXIT_USAGE));
    }
    // Not after all questions are answered.
    can_be_written(&args.file)?;
    args.ask_for_the_rest()?;
    let text = args.text()?;
    let source = parsed(&args.file, &text)?;
    if !args.no_try {
        cmd::print(format!("asking {} for a token …\n", args.api_url).as_bytes())?;
        let answer = live::ask(vec![source])?.pop().context("no source was asked")?;
        let fetched = answer.map_err(|error| no_token(error, args.key.as_deref()))?;
        cmd::print(format!("it works: {}\n", live::described(&fetched)).as_bytes())?;
    }
    write_new(&args.file, &text)?;
    cmd::print(next(&args.file, git_host(&args.api_url).as_deref()).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What to say where GitHub gave no token.
fn no_token(error: FetchError, key: Option<&Path>) -> anyhow::Error {
    let remedy = error.explain().remedy;
    let is_open = |key: &&Path| {
        error.kind == FetchErrorKind::KeyUnusable
            && key.metadata().is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
    };
    // Nearer than a new key, where nobody else can have read this one.
    let close = key.filter(is_open).map(|key| format!("chmod 0600 {}", key.display()));
    let error = anyhow::Error::new(error).context("GitHub gives no token, and nothing was written");
    let error = match close {
        Some(close) => error.hint(close),
        None => error,
    };
    let error = error.hint(remedy).hint("write the file all the same: --no-try");
    error.exit_code(EXIT_NO_TOKEN)
}

/// What to type next.
fn next(file: &Path, host: Option<&str>) -> String {
    let is_default = file == Path::new(file::DEFAULT);
    let config = if is_default { String::new() } else { format!(" --config {}", file.display()) };
    // From the file that every command reads, `setup` takes it by itself.
    let host = host.filter(|_| !is_default).map(|host| format!(" --host {host}"));
    let host = host.unwrap_or_default();
    let (owner, whose) =
        if Uid::effective().is_root() { (" --owner USER", "--system") } else { ("", "--global") };
    let who = if owner.is_empty() { "" } else { "  # USER is who works with git" };
    format!(
        "wrote {}\n\nNext:\n  molecule-tokenfs mount --background{config}{owner}{who}\n  \
         molecule-tokenfs setup git {whose}{host}\n",
        file.display()
    )
}

/// Whether a file can be made there, as far as that can be told without making it.
fn can_be_written(file: &Path) -> anyhow::Result<()> {
    let parent = file.parent().unwrap_or(file);
    let shown = parent.display();
    if !parent.is_dir() {
        return Err(anyhow!("cannot write {}: there is no directory {shown}", file.display())
            .hint(format!("make it: mkdir -p {shown}"))
            .exit_code(EXIT_USAGE));
    }
    access(parent, AccessFlags::W_OK)
        .with_context(|| format!("cannot write {}", file.display()))
        .hint("write a file of your own: --file FILE, and read it with --config FILE")
        .exit_code(EXIT_USAGE)
}

impl GithubAppArgs {
    fn ask_for_the_rest(&mut self) -> anyhow::Result<()> {
        let has_installation =
            self.owner.is_some() || self.repository.is_some() || self.installation_id.is_some();
        let missing: Vec<_> = [
            (self.client_id.is_none(), "--client-id"),
            (self.key.is_none(), "--key"),
            (!has_installation, "--owner"),
        ]
        .into_iter()
        .filter_map(|(is_missing, flag)| is_missing.then_some(flag))
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(anyhow!(
                "{} must be given where nobody can be asked",
                missing.join(" and ")
            )
            .hint("run it on a terminal, and it asks")
            .exit_code(EXIT_USAGE));
        }
        if self.client_id.is_none() {
            self.client_id = Some(ask("Client id of the App (on its page, under General)")?);
        }
        if self.key.is_none() {
            self.key = Some(ask_for_a_file("File with its private key (PEM)")?);
        }
        if !has_installation {
            self.owner = Some(ask("Organisation or user that has installed it")?);
        }
        Ok(())
    }

    /// The file, with a comment for each line.
    fn text(&self) -> anyhow::Result<String> {
        let key = self.key.as_deref().unwrap_or(Path::new(""));
        let key = std::fs::canonicalize(key)
            .with_context(|| format!("cannot find the key {}", key.display()))
            .exit_code(EXIT_USAGE)?;
        let id = self.client_id.as_deref().unwrap_or_default();
        let (id_key, id_comment) = if id.bytes().all(|byte| byte.is_ascii_digit()) {
            ("app-id", "the App's number, from its page under General")
        } else {
            ("client-id", "the App's client id, from its page under General")
        };
        let mut lines = vec![
            (id_key, quoted(id), id_comment),
            (
                "private-key",
                format!("{{ file = {} }}", quoted(&key.to_string_lossy())),
                "readable by the daemon alone; it may be replaced at any time",
            ),
        ];
        if let Some(owner) = &self.owner {
            lines.push(("owner", quoted(owner), "whose installation of the App gives the tokens"));
        }
        if let Some(repository) = &self.repository {
            lines.push((
                "repository",
                quoted(repository),
                "the installation that has it gives the tokens",
            ));
        }
        if let Some(number) = self.installation_id {
            lines.push((
                "installation-id",
                number.to_string(),
                "the installation that gives the tokens",
            ));
        }
        if !self.repositories.is_empty() {
            let names: Vec<_> = self.repositories.iter().map(|name| quoted(name)).collect();
            let names = format!("[{}]", names.join(", "));
            lines.push(("repositories", names, "what the tokens are for; without it, all of them"));
        }
        let permissions: BTreeMap<_, _> = self.permissions.iter().cloned().collect();
        if !permissions.is_empty() {
            let pairs: Vec<_> = permissions
                .iter()
                .map(|(name, level)| format!("{name} = {}", quoted(level)))
                .collect();
            let pairs = format!("{{ {} }}", pairs.join(", "));
            lines.push(("permissions", pairs, "what they may do; without it, all that is granted"));
        }
        if self.api_url != GITHUB {
            lines.push(("api-url", quoted(&self.api_url), "GitHub's API"));
        }
        let mut text = String::from(
            "# Tokens of a GitHub App; made by `molecule-tokenfs init github-app`.\n\
                 # Settings, such as `owner` (who may read the tokens), stand above the first table.\n",
        );
        if let Some(host) = git_host(&self.api_url) {
            let _ = writeln!(
                text,
                "host = [{}]  # the host that git and gh use the tokens for",
                quoted(&host)
            );
        }
        let _ = write!(
            text,
            "\n[tokens.default]\nsources = [\"{SOURCE}\"]  # asked in this order\n\
             \n[sources.{SOURCE}]\ntype = \"github-app\"\n"
        );
        for (key, value, comment) in lines {
            let _ = writeln!(text, "{key} = {value}  # {comment}");
        }
        Ok(text)
    }
}

/// The host of git where that of the API is not GitHub's own: the same, without `api.`.
fn git_host(api_url: &str) -> Option<String> {
    let url = http::parse_url(api_url).ok()?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let host = format!("{}{port}", url.host_str()?);
    let host = host.strip_prefix("api.").unwrap_or(&host);
    (host != DEFAULT_HOST).then(|| host.to_owned())
}

/// A string as TOML and JSON write it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Reads what will be written, so that it fails here and not at the next start.
fn parsed(path: &Path, text: &str) -> anyhow::Result<SourceConfig> {
    let file = file::ConfigFile::parse(path.into(), text)
        .context("no configuration can be made of this, and nothing was written")
        .exit_code(EXIT_USAGE)?;
    let tables: Tables = file.tables;
    tables.source_by_name(SOURCE).cloned().context("the source is missing")
}

fn ask(what: &str) -> anyhow::Result<String> {
    let mut errors = io::stderr();
    loop {
        write!(errors, "{what}: ")?;
        errors.flush()?;
        let mut line = String::new();
        if io::stdin().lock().read_line(&mut line)? == 0 {
            return Err(anyhow!("no answer to: {what}").exit_code(EXIT_USAGE));
        }
        let answer = line.trim();
        if !answer.is_empty() {
            return Ok(answer.to_owned());
        }
    }
}

/// Asks until a file is named that is there. No shell sees what `~` stands for.
fn ask_for_a_file(what: &str) -> anyhow::Result<PathBuf> {
    loop {
        let answer = ask(what)?;
        let home = config::env("HOME").map(PathBuf::from);
        let path = match (answer.strip_prefix("~/"), home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(answer),
        };
        if path.is_file() {
            return Ok(path);
        }
        writeln!(io::stderr(), "there is no file {}", path.display())?;
    }
}

/// Writes a file that is not there yet: whole, or not at all.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o644).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        // Unlike a rename it replaces nothing.
        std::fs::hard_link(&new, path)
    };
    let written = write();
    // It was a name for the same file.
    let _ = std::fs::remove_file(&new);
    written
        .with_context(cannot)
        .hint("write another file: --file FILE, and read it with --config FILE")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(change: impl FnOnce(&mut GithubAppArgs)) -> GithubAppArgs {
        let mut args = GithubAppArgs {
            client_id: Some("Iv23li".to_owned()),
            key: Some("/dev/null".into()),
            owner: Some("acme".to_owned()),
            repository: None,
            installation_id: None,
            repositories: Vec::new(),
            permissions: Vec::new(),
            api_url: GITHUB.to_owned(),
            file: file::DEFAULT.into(),
            no_try: false,
        };
        change(&mut args);
        args
    }

    #[test]
    fn the_file_has_a_comment_for_each_line_and_is_read_back() {
        let text = args(|_| ()).text().unwrap();
        insta::assert_snapshot!(text, @r#"
        # Tokens of a GitHub App; made by `molecule-tokenfs init github-app`.
        # Settings, such as `owner` (who may read the tokens), stand above the first table.

        [tokens.default]
        sources = ["github"]  # asked in this order

        [sources.github]
        type = "github-app"
        client-id = "Iv23li"  # the App's client id, from its page under General
        private-key = { file = "/dev/null" }  # readable by the daemon alone; it may be replaced at any time
        owner = "acme"  # whose installation of the App gives the tokens
        "#);
        let everything = args(|args| {
            args.client_id = Some("1234".to_owned());
            (args.owner, args.repository) = (None, Some("acme/web".to_owned()));
            args.repositories = vec!["web".to_owned(), "api".to_owned()];
            args.permissions = vec![("contents".to_owned(), "write".to_owned())];
            args.api_url = "https://ghe.example:8443/api/v3".to_owned();
        });
        let text = everything.text().unwrap();
        assert!(text.contains("\nhost = [\"ghe.example:8443\"]"), "{text}");
        assert!(text.contains("\napp-id = \"1234\""), "{text}");
        parsed(Path::new("t.toml"), &text).unwrap();
        let wrong = args(|args| args.owner = Some("acme\"/web".to_owned())).text().unwrap();
        assert!(parsed(Path::new("t.toml"), &wrong).is_err());
    }

    #[test]
    fn the_host_of_git_is_that_of_the_api_without_its_first_part() {
        assert_eq!(git_host(GITHUB), None);
        for (api_url, host) in [
            ("https://api.acme.ghe.com", "acme.ghe.com"),
            ("https://me:pw@GHE.example:8443/api/v3?q", "ghe.example:8443"),
        ] {
            assert_eq!(git_host(api_url).as_deref(), Some(host));
        }
    }

    #[test]
    fn a_file_is_written_whole_and_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.toml");
        write_new(&path, "one").unwrap();
        assert!(write_new(&path, "two").is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
