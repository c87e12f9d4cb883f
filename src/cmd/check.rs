//! `check`: what is set, where it comes from, and what would come of it.

use std::fmt::Write;
use std::process::ExitCode;

use serde_json::json;

use crate::cmd;
use crate::config::settings::{Row, TOKEN_VARIABLES, shown_span};
use crate::config::{Settings, SettingsArgs, default_mountpoint};
use crate::error::FetchErrorKind;
use crate::foreign::{self, Unreadable};
use crate::source::{SourceConfig, env, platform};

/// The arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// Shows every setting. Asks no source for a token.
///
/// # Errors
/// When a setting is not valid.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.settings)?;
    let mountpoint = default_mountpoint()
        .map_or_else(|error| format!("none ({error})"), |path| path.display().to_string());
    let report = Report {
        rows: settings.rows(),
        sources: sources(&settings),
        mountpoint,
        settings: &settings,
    };
    let text = if args.json { report.json() } else { report.text() };
    cmd::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

struct Report<'a> {
    rows: Vec<Row>,
    sources: Vec<(String, String)>,
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
        }
        for warning in &self.settings.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    fn json(&self) -> String {
        let sources =
            self.sources.iter().map(|(name, what)| json!({ "name": name, "description": what }));
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
