//! The kinds of values that settings have: how each is written, read, shown and completed.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueHint;
use jiff::fmt::friendly::{Spacing, SpanPrinter};

use crate::config::parse::{self, BackendChoice, ServerUrl};
use crate::config::written::{Invalid, Raw};
use crate::fs::node::Root;
use crate::observe::{LEVELS, LogLevel};
use crate::status::Layout;
use crate::view;

/// What the file may hold for a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A string.
    Text,
    /// A string of octal digits.
    Octal,
    /// A boolean.
    Boolean,
    /// A string or a non-negative integer.
    NameOrNumber,
    /// An array of strings.
    List,
}

/// What completions offer.
#[derive(Debug, Clone, Copy)]
pub enum Offers {
    /// Nothing that could be known.
    Nothing,
    /// These values.
    Values(fn() -> Vec<&'static str>),
    /// What the shell knows.
    Hint(ValueHint),
}

/// What does not depend on the type of the values.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// What the help calls a value.
    pub value_name: &'static str,
    /// How it is written in the file.
    pub shape: Shape,
    /// What completions offer.
    pub offers: Offers,
}

/// A kind of values.
pub struct Kind<T> {
    /// How they are written.
    pub form: Form,
    /// Reads one.
    pub parse: fn(&Raw) -> Result<T, Invalid>,
    /// Takes in what a further value says. Only a [`Shape::List`] is ever given twice.
    pub join: fn(&mut T, T),
    /// Shows it, as it could be written; never a secret.
    pub show: fn(&T) -> String,
}

const fn form(value_name: &'static str, shape: Shape, offers: Offers) -> Form {
    Form { value_name, shape, offers }
}

/// A kind of single values.
const fn kind<T>(
    form: Form,
    parse: fn(&Raw) -> Result<T, Invalid>,
    show: fn(&T) -> String,
) -> Kind<T> {
    Kind { form, parse, join: |value, further| *value = further, show }
}

/// The URL of a server.
pub const URL: Kind<ServerUrl> = kind(
    form("URL", Shape::Text, Offers::Hint(ValueHint::Url)),
    parse::server_url,
    ServerUrl::to_string,
);

/// The id of a workspace.
pub const WORKSPACE_ID: Kind<String> =
    kind(form("ID", Shape::Text, Offers::Nothing), parse::workspace_id, String::clone);

/// The path of a directory.
pub const DIRECTORY: Kind<PathBuf> =
    kind(form("DIR", Shape::Text, Offers::Hint(ValueHint::DirPath)), parse::path, |path| {
        path.display().to_string()
    });

/// The path of a file.
pub const FILE: Kind<PathBuf> =
    kind(form("FILE", Shape::Text, Offers::Hint(ValueHint::FilePath)), parse::path, |path| {
        path.display().to_string()
    });

/// A span of time, which may be none.
pub const SPAN: Kind<Duration> =
    kind(form("SPAN", Shape::Text, Offers::Nothing), parse::span, |span| shown_span(*span));

/// A span of time in which something must be able to happen.
pub const POSITIVE_SPAN: Kind<Duration> = Kind { parse: parse::positive_span, ..SPAN };

/// Yes or no.
pub const BOOLEAN: Kind<bool> = kind(
    form("BOOL", Shape::Boolean, Offers::Values(|| vec!["true", "false"])),
    parse::boolean,
    bool::to_string,
);

/// A user of this machine.
pub const USER: Kind<u32> = kind(
    form("USER", Shape::NameOrNumber, Offers::Hint(ValueHint::Username)),
    parse::user,
    u32::to_string,
);

/// A group of this machine.
pub const GROUP: Kind<u32> =
    kind(form("GROUP", Shape::NameOrNumber, Offers::Nothing), parse::group, u32::to_string);

/// The mode of the views.
pub const MODE: Kind<u16> = kind(
    form("MODE", Shape::Octal, Offers::Values(|| vec!["0400", "0440", "0444"])),
    parse::mode,
    |mode| format!("{mode:04o}"),
);

/// The mode of `refresh`.
pub const REFRESH_MODE: Kind<u16> = Kind {
    form: form("MODE", Shape::Octal, Offers::Values(|| vec!["0600", "0620", "0660"])),
    parse: parse::refresh_mode,
    ..MODE
};

/// Hosts.
pub const HOSTS: Kind<Vec<String>> = Kind {
    form: form("HOST", Shape::List, Offers::Hint(ValueHint::Hostname)),
    parse: |raw| parse::host(raw).map(|host| vec![host]),
    join: Vec::extend,
    show: |hosts| hosts.join(", "),
};

/// What to mount.
pub const LAYOUT: Kind<Layout> = kind(
    form("LAYOUT", Shape::Text, Offers::Values(|| vec!["directory", "file"])),
    parse::layout,
    |layout| layout.name().to_owned(),
);

/// The number of a view, which is written as its path.
pub const VIEW: Kind<u8> = kind(
    form(
        "VIEW",
        Shape::Text,
        Offers::Values(|| view::ALL.iter().map(|view| view.path()).collect()),
    ),
    parse::view,
    |&view| Root::View(view).view().unwrap_or_default().to_owned(),
);

/// How to serve.
pub const BACKEND: Kind<BackendChoice> = kind(
    form("BACKEND", Shape::Text, Offers::Values(|| vec!["auto", "fuse", "files"])),
    parse::backend,
    BackendChoice::to_string,
);

/// What to log.
pub const LOG_LEVEL: Kind<LogLevel> = kind(
    form("LEVEL", Shape::Text, Offers::Values(|| LEVELS.to_vec())),
    parse::log_level,
    LogLevel::to_string,
);

/// A span as people write it, and as settings take it: `45m`, `1h30m`.
#[must_use]
pub fn shown_span(span: Duration) -> String {
    SpanPrinter::new().spacing(Spacing::None).unsigned_duration_to_string(&span)
}
