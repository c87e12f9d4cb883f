//! The settings as flags.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::config::declare::Declared;
use crate::config::kind::Shape;
use crate::config::{FILE_VARIABLE, Key, file};

/// The heading that all of them stand under.
const HEADING: &str = "Settings";

/// The name of the flag that is no setting itself.
const CONFIG: &str = "config";

/// The settings as flags, unparsed: they go the same way as those of the environment and the file,
/// and fail with the same words.
#[derive(Debug, Clone, Default)]
pub struct SettingsArgs {
    /// The file that is named.
    config: Option<PathBuf>,
    /// What was given, in the order of [`Key::ALL`].
    given: Vec<(Key, OsString)>,
}

impl SettingsArgs {
    /// The configuration file that was named.
    #[must_use]
    pub fn config(&self) -> Option<&PathBuf> {
        self.config.as_ref()
    }

    /// The values that were given for a setting; at most one unless it is repeatable.
    pub fn given(&self, key: Key) -> impl Iterator<Item = &OsStr> {
        let of_key = self.given.iter().filter(move |(of, _)| *of == key);
        of_key.map(|(_, value)| value.as_os_str())
    }

    /// The flags that were given, by name, `--config` too.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        let file = self.config.iter().map(|file| (CONFIG, file.as_os_str()));
        file.chain(self.given.iter().map(|(key, value)| (key.name(), value.as_os_str())))
    }
}

impl clap::Args for SettingsArgs {
    fn augment_args(command: Command) -> Command {
        command.arg(config()).args(Key::ALL.map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let config = matches.get_one::<PathBuf>(CONFIG).cloned();
        let values = |key: Key| matches.get_many::<OsString>(key.name()).into_iter().flatten();
        let given = |key| values(key).map(move |value| (key, value.clone()));
        Ok(Self { config, given: Key::ALL.into_iter().flat_map(given).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag that names the file.
fn config() -> Arg {
    let help = format!(
        "Read settings from this TOML file: each flag is a key of the same name [env: {}] \
         [default: {}, if it is there]",
        FILE_VARIABLE,
        file::DEFAULT
    );
    let flag = Arg::new(CONFIG).long(CONFIG).value_name("FILE").help_heading(HEADING);
    flag.value_parser(value_parser!(PathBuf)).help(help)
}

/// The flag of a setting.
fn flag(key: Key) -> Arg {
    let Declared { name, form, .. } = *key.declared();
    let flag = Arg::new(name).long(name).value_name(form.value_name).help_heading(HEADING);
    let flag = flag.value_parser(value_parser!(OsString)).help(help(key));
    match form.shape {
        Shape::Boolean => flag.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Shape::List => flag.action(ArgAction::Append),
        Shape::Text | Shape::Octal | Shape::NameOrNumber => flag,
    }
}

/// What the flag does, the variable in its place, and what holds without both.
fn help(key: Key) -> String {
    let Declared { help, variable, form, default, .. } = key.declared();
    let written = match form.shape {
        Shape::List => ", separated by commas",
        _ if key.variable_in_seconds() => ", in seconds",
        _ => "",
    };
    // Nobody needs to be told that a flag which turns something on is off.
    let default = default.told().filter(|default| *default != "false");
    let default = default.map(|default| format!(" [default: {default}]"));
    format!("{help} [env: {variable}{written}]{}", default.unwrap_or_default())
}
