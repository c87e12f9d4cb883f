//! `check`: what is set, where it comes from, and what would come of it.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::{Map, json};

use crate::cmd::{self, EXIT_FAILURE, EXIT_NO_TOKEN, live};
use crate::config::settings::{Row, TOKEN_VARIABLES, shown_span};
use crate::config::{Settings, SettingsArgs, default_mountpoint};
use crate::error::{FetchError, FetchErrorKind};
use crate::foreign::{self, Unreadable};
use crate::source::{Fetched, SourceConfig, env, platform};

/// The arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// Ask each source for a token, once, and show what comes; the tokens are forgotten
    #[arg(long)]
    pub live: bool,

    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Shows every setting, and asks the sources where that is wanted.
///
/// # Errors
/// When a setting is not valid.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.settings)?;
    let answers = if args.live { live::ask(settings.sources())? } else { Vec::new() };
    let code = exit_code(&answers);
    let mountpoint = default_mountpoint()
        .map_or_else(|error| format!("none ({error})"), |path| path.display().to_string());
    let report = Report {
        rows: settings.rows(),
        sources: sources(&settings),
        answers,
        mountpoint,
        settings: &settings,
    };
    let text = if args.json { report.json() } else { report.text() };
    cmd::print(text.as_bytes())?;
    Ok(ExitCode::from(code))
}

/// That of a mount with these sources: no token, or one although something fails. A source that nobody
/// configured fails nothing.
fn exit_code(answers: &[Result<Fetched, FetchError>]) -> u8 {
    let fails = |answer: &Result<_, FetchError>| matches!(answer, Err(error) if error.kind != FetchErrorKind::NotConfigured);
    if !answers.is_empty() && answers.iter().all(Result::is_err) {
        EXIT_NO_TOKEN
    } else if answers.iter().any(fails) {
        EXIT_FAILURE
    } else {
        0
    }
}

/// A failure in words.
fn told(error: &FetchError) -> String {
    let sentence = error.explain().sentence;
    if error.detail.is_empty() {
        sentence.to_owned()
    } else {
        format!("{sentence} ({})", error.detail)
    }
}

struct Report<'a> {
    rows: Vec<Row>,
    sources: Vec<(String, String)>,
    /// Of each source, where they were asked.
    answers: Vec<Result<Fetched, FetchError>>,
    mountpoint: String,
    settings: &'a Settings,
}

impl Report<'_> {
    fn text(&self) -> String {
        let title = Row { name: "SETTING", value: "VALUE".to_owned(), from: "FROM".to_owned() };
        let rows = || std::iter::once(&title).chain(&self.rows);
        let name_width = rows().map(|row| row.name.len()).max().unwrap_or(0);
        let value_width = rows().map(|row| row.value.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for Row { name, value, from } in rows() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:name_width$}  {value:value_width$}  {from}");
        }
        let file = match &self.settings.file {
            Some(path) => path.display().to_string(),
            None => "none".to_owned(),
        };
        let _ = writeln!(text, "\nConfiguration file: {file}");
        let _ = writeln!(text, "Mountpoint unless one is named: {}", self.mountpoint);
        text += "A token is asked of these, in this order:\n";
        for (number, (name, what)) in self.sources.iter().enumerate() {
            let _ = writeln!(text, "  {}. {name}: {what}", number + 1);
            match self.answers.get(number) {
                Some(Ok(fetched)) => {
                    let _ = writeln!(text, "     gives {}", live::described(fetched));
                }
                Some(Err(error)) => {
                    let (error, remedy) = (told(error), error.explain().remedy);
                    let _ = writeln!(text, "     gives none: {error}\n     hint: {remedy}");
                }
                None => {}
            }
        }
        for (name, token) in self.settings.tables.named() {
            let chain: Vec<_> = token.chain().collect();
            let _ = writeln!(text, "The token `{name}` is asked of {}", chain.join(", then "));
        }
        for warning in &self.settings.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    fn json(&self) -> String {
        let sources = self.sources.iter().enumerate().map(|(number, (name, what))| {
            let mut source = Map::new();
            source.insert("name".to_owned(), json!(name));
            source.insert("description".to_owned(), json!(what));
            match self.answers.get(number) {
                Some(Ok(fetched)) => {
                    source.insert("gives".to_owned(), json!(live::described(fetched)));
                }
                Some(Err(error)) => {
                    let error = json!({ "kind": error.kind.name(), "message": told(error) });
                    source.insert("error".to_owned(), error);
                }
                None => {}
            }
            source
        });
        let object = json!({
            "settings": self.rows,
            "file": self.settings.file,
            "mountpoint": self.mountpoint,
            "sources": sources.collect::<Vec<_>>(),
            "warnings": self.settings.warnings,
        });
        format!("{object:#}\n")
    }
}

/// The chain, and what each source would do.
fn sources(settings: &Settings) -> Vec<(String, String)> {
    let described = |name: &str| match name {
        platform::NAME => platform(settings),
        env::NAME => environment(settings),
        name => {
            let source = settings.tables.source_by_name(name);
            source.and_then(SourceConfig::describe).unwrap_or_default()
        }
    };
    settings.tables.chain().into_iter().map(|name| (name.to_owned(), described(name))).collect()
}

/// What the platform would be asked.
fn platform(settings: &Settings) -> String {
    let url = &settings.platform_url.value;
    let bearer_file = settings.bearer_file();
    let path = match &settings.workspace_id.value {
        Some(id) => format!("workspaces/{id}"),
        None => "admin".to_owned(),
    };
    let state = match foreign::look(&settings.bearer_request()).and_then(|answer| answer.found) {
        Ok(found) if found.stamp.size > 0 => String::new(),
        Ok(_) | Err(Unreadable::Missing) => {
            format!(" (now {})", FetchErrorKind::NotRegistered.explain().sentence)
        }
        Err(why) => format!(" (which cannot be read: {why})"),
    };
    format!(
        "GET {url}/{path}/github-installation-token, with the bearer in {}{state}",
        bearer_file.display()
    )
}

/// What the second source would do.
fn environment(settings: &Settings) -> String {
    match &settings.token.value {
        Some(_) => format!(
            "the token of {}, taken to live {}",
            settings.token.origin,
            shown_span(settings.assumed_life.value)
        ),
        None => format!("nothing: no token in {}", TOKEN_VARIABLES.join(" or ")),
    }
}
