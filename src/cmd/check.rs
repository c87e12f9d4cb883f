//! `check`: what is set, where it comes from, and what would come of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::iter;
use std::process::ExitCode;

use serde_json::{Map, json};

use crate::cmd::serve::without_a_mount;
use crate::cmd::{self, EXIT_FAILURE, EXIT_NO_TOKEN, live};
use crate::config::parse::BackendChoice;
use crate::config::settings::{Row, TOKEN_VARIABLES, shown_span};
use crate::config::tables::DEFAULT;
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
    let chains = chains(&settings);
    let answers = if args.live { answers(&settings, &chains)? } else { Answers::new() };
    let code = chains.iter().map(|chain| exit_code(chain, &answers)).max().unwrap_or_default();
    let mountpoint = default_mountpoint()
        .map_or_else(|error| format!("none ({error})"), |path| path.display().to_string());
    let report = Report {
        rows: settings.rows(),
        chains,
        answers,
        warnings: warnings(&settings),
        mountpoint,
        settings: &settings,
    };
    let text = if args.json { report.json() } else { report.text() };
    cmd::print(text.as_bytes())?;
    Ok(ExitCode::from(code))
}

/// What each source said, by its name, where they were asked.
type Answers = BTreeMap<String, Result<Fetched, FetchError>>;

/// A token, and the names of its sources.
struct Chain {
    token: String,
    sources: Vec<String>,
}

/// The token of the mount first.
fn chains(settings: &Settings) -> Vec<Chain> {
    let chain = |token: &str, sources: Vec<&str>| Chain {
        token: token.to_owned(),
        sources: sources.into_iter().map(str::to_owned).collect(),
    };
    let named = settings.tables.named();
    let named = named.map(|(name, token)| chain(name, token.chain().collect()));
    iter::once(chain(DEFAULT, settings.tables.chain())).chain(named).collect()
}

/// Asks each source of the chains, once.
fn answers(settings: &Settings, chains: &[Chain]) -> anyhow::Result<Answers> {
    let mut names: Vec<String> = Vec::new();
    for name in chains.iter().flat_map(|chain| &chain.sources) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    let sources = names.iter().filter_map(|name| settings.source(name)).collect();
    Ok(names.into_iter().zip(live::ask(sources)?).collect())
}

/// That of a token with these sources: no token, or one although something fails. A source that nobody
/// configured fails nothing.
fn exit_code(chain: &Chain, answers: &Answers) -> u8 {
    let fails = |answer: &&Result<_, FetchError>| matches!(answer, Err(error) if error.kind != FetchErrorKind::NotConfigured);
    let answers: Vec<_> = chain.sources.iter().filter_map(|source| answers.get(source)).collect();
    if !answers.is_empty() && answers.iter().all(|answer| answer.is_err()) {
        EXIT_NO_TOKEN
    } else if answers.iter().any(fails) {
        EXIT_FAILURE
    } else {
        0
    }
}

/// What the file says that will not be so.
fn warnings(settings: &Settings) -> Vec<String> {
    let is_on_demand = settings.tables.on_demand().next().is_some();
    let are_files = settings.backend.value == BackendChoice::Files;
    let without = (is_on_demand && are_files).then(|| without_a_mount("`backend` says so"));
    settings.warnings.iter().cloned().chain(without).collect()
}

/// A failure in words.
fn told_of(error: &FetchError) -> String {
    let sentence = error.explain().sentence;
    if error.detail.is_empty() {
        sentence.to_owned()
    } else {
        format!("{sentence} ({})", error.detail)
    }
}

struct Report<'a> {
    rows: Vec<Row>,
    chains: Vec<Chain>,
    answers: Answers,
    warnings: Vec<String>,
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
        let mut told: Vec<&str> = Vec::new();
        for Chain { token, sources } in &self.chains {
            let which = if token == DEFAULT {
                "A token".to_owned()
            } else {
                format!("The token `{token}`")
            };
            let _ = writeln!(text, "{which} is asked of these, in this order:");
            for (number, name) in (1..).zip(sources) {
                if told.contains(&&**name) {
                    let _ = writeln!(text, "  {number}. {name}, as above");
                    continue;
                }
                told.push(name);
                let _ = writeln!(text, "  {number}. {name}: {}", described(self.settings, name));
                match self.answers.get(name) {
                    Some(Ok(fetched)) => {
                        let _ = writeln!(text, "     gives {}", live::described(fetched));
                    }
                    Some(Err(error)) => {
                        let (error, remedy) = (told_of(error), error.explain().remedy);
                        let _ = writeln!(text, "     gives none: {error}\n     hint: {remedy}");
                    }
                    None => {}
                }
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    fn json(&self) -> String {
        let source = |name: &String| {
            let mut source = Map::new();
            source.insert("name".to_owned(), json!(name));
            source.insert("description".to_owned(), json!(described(self.settings, name)));
            match self.answers.get(name) {
                Some(Ok(fetched)) => {
                    source.insert("gives".to_owned(), json!(live::described(fetched)));
                }
                Some(Err(error)) => {
                    let error = json!({ "kind": error.kind.name(), "message": told_of(error) });
                    source.insert("error".to_owned(), error);
                }
                None => {}
            }
            source
        };
        let sources = |chain: &Chain| chain.sources.iter().map(source).collect::<Vec<_>>();
        let tokens = self
            .chains
            .iter()
            .map(|chain| json!({ "name": chain.token, "sources": sources(chain) }));
        let object = json!({
            "settings": self.rows,
            "file": self.settings.file,
            "mountpoint": self.mountpoint,
            "sources": self.chains.first().map(sources),
            "tokens": tokens.collect::<Vec<_>>(),
            "warnings": self.warnings,
        });
        format!("{object:#}\n")
    }
}

/// What a source would do.
fn described(settings: &Settings, name: &str) -> String {
    match name {
        platform::NAME => platform(settings),
        env::NAME => environment(settings),
        name => {
            let source = settings.tables.source_by_name(name);
            source.and_then(SourceConfig::describe).unwrap_or_default()
        }
    }
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
