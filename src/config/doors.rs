//! `[doors.NAME]`: directories of tokens for the readers of one container each, which `serve` shows.

use std::path::{Path, PathBuf};

use crate::config::parse;
use crate::config::written::{Invalid, Origin, Raw};
use crate::connection::doors::DoorToken;
use crate::source::table::{Located, Table, TableError};

/// A door as the file describes it.
#[derive(Debug, Clone)]
pub struct DoorTable {
    /// What it shows itself; nothing until it is bound, if nobody says.
    pub token: Option<DoorToken>,
    /// The line of that, or of the table.
    line: usize,
    /// The names of the tokens that have a directory in it.
    pub tokens: Vec<Located<String>>,
    /// Whom the files belong to, as this host numbers users.
    pub owner: Option<u32>,
    /// Their group.
    pub group: Option<u32>,
    /// The permission bits of the views.
    pub mode: Option<u16>,
}

impl DoorTable {
    /// Reads a table.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn read(mut table: Table) -> Result<Self, TableError> {
        let token = table.text("token")?;
        let workspace = table.text("workspace-id")?;
        let bearer = table.text("bearer-file")?;
        let line = token.as_ref().map_or(table.line, |token| token.line);
        let token = match (token, workspace, bearer) {
            (Some(token), None, None) => Some(DoorToken::Named(token.value)),
            (None, Some(id), Some(bearer)) => Some(DoorToken::Workspace {
                id: parsed(&table, "workspace-id", &id, parse::workspace_id)?,
                bearer_file: bearer_file(&table, bearer)?,
            }),
            (None, Some(_), None) => {
                let error = table.error("has a `workspace-id` and no `bearer-file`");
                return Err(error.hint("bearer-file = \"/var/lib/molecule/WORKSPACE/.auth_token\""));
            }
            (None, None, Some(_)) => {
                return Err(table.error("has a `bearer-file` and no `workspace-id`"));
            }
            (Some(_), ..) => {
                let error = table.error("has a `token`, and a workspace whose token it would show");
                return Err(error.hint("name further tokens in `tokens`: tokens = [\"NAME\"]"));
            }
            (None, None, None) => None,
        };
        let tokens = table.texts("tokens")?.unwrap_or_default();
        let owner = number(&mut table, "owner", parse::user)?;
        let group = number(&mut table, "group", parse::group)?;
        let mode = number(&mut table, "mode", parse::mode)?;
        table.finish()?;
        Ok(Self { token, line, tokens, owner, group, mode })
    }

    /// The names of tokens that it needs, with their lines.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, usize)> {
        let own = match &self.token {
            Some(DoorToken::Named(name)) => Some((&**name, self.line)),
            Some(DoorToken::Workspace { .. }) | None => None,
        };
        own.into_iter().chain(self.tokens.iter().map(|name| (&*name.value, name.line)))
    }
}

fn bearer_file(table: &Table, file: Located<String>) -> Result<PathBuf, TableError> {
    if Path::new(&file.value).is_absolute() {
        return Ok(file.value.into());
    }
    let found = format!("`{}`", file.value.escape_debug());
    Err(table.invalid("bearer-file", file.line, "an absolute path", found))
}

fn number<T>(
    table: &mut Table,
    key: &'static str,
    parse: fn(&Raw) -> Result<T, Invalid>,
) -> Result<Option<T>, TableError> {
    let text = table.text(key)?;
    text.map(|text| parsed(table, key, &text, parse)).transpose()
}

fn parsed<T>(
    table: &Table,
    key: &str,
    text: &Located<String>,
    parse: fn(&Raw) -> Result<T, Invalid>,
) -> Result<T, TableError> {
    let raw = Raw { text: text.value.clone().into(), origin: Origin::Default };
    parse(&raw).map_err(|invalid| {
        let found = format!("`{}`", text.value.escape_debug());
        table.invalid(key, text.line, invalid.expected, found)
    })
}

#[cfg(test)]
mod tests {
    use crate::advice::describe;
    use crate::config::file::ConfigFile;
    use crate::config::tables::Tables;

    const TOKEN: &str = "[tokens.acme]\nsources = ['env']\n";

    fn tables(doors: &str) -> Result<Tables, String> {
        let text = format!("{TOKEN}{doors}");
        let file = ConfigFile::parse(std::path::Path::new("t.toml").into(), &text);
        file.map(|file| file.tables).map_err(|error| describe(&error).0.trim_end().to_owned())
    }

    #[test]
    fn a_door_says_what_it_shows_and_to_whom() {
        let doors = "[doors.agent-1]\nworkspace-id = 'ws1'\n\
                     bearer-file = '/var/lib/molecule/ws1/.auth_token'\n\
                     owner = '101000'\ngroup = '0'\nmode = '0440'\ntokens = ['acme']\n\
                     [doors.agent-2]\ntoken = 'acme'\n";
        let tables = tables(doors).unwrap();
        let doors: Vec<_> = tables.doors().collect();
        let (name, door) = doors[0];
        assert_eq!(
            (name, door.owner, door.group, door.mode),
            ("agent-1", Some(101_000), Some(0), Some(0o440))
        );
        assert_eq!(door.names().count(), 1);
        assert_eq!(
            (doors[1].0, doors[1].1.owner, doors[1].1.names().count()),
            ("agent-2", None, 1)
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_to_do() {
        for (doors, line) in [
            (
                "[doors.a]\nworkspace-id = 'ws1'",
                "error: t.toml:3: [doors.a] has a `workspace-id` and no `bearer-file`\nhint: bearer-file = \"/var/lib/molecule/WORKSPACE/.auth_token\"",
            ),
            (
                "[doors.a]\nbearer-file = '/b'",
                "error: t.toml:3: [doors.a] has a `bearer-file` and no `workspace-id`",
            ),
            (
                "[doors.a]\ntoken = 'acme'\nworkspace-id = 'ws1'",
                "error: t.toml:3: [doors.a] has a `token`, and a workspace whose token it would show\nhint: name further tokens in `tokens`: tokens = [\"NAME\"]",
            ),
            (
                "[doors.a]\nworkspace-id = 'ws1'\nbearer-file = 'b'",
                "error: t.toml:5: wrong value for `bearer-file` in [doors.a]: expected an absolute path, found `b`",
            ),
            (
                "[doors.a]\ntoken = 'acem'",
                "error: t.toml:4: there is no token `acem`\nhint: did you mean `acme`?",
            ),
            (
                "[doors.a]\ntoken = 'acme'\ntokens = ['acme', 'acme']",
                "error: t.toml:5: the token `acme` is named twice",
            ),
            (
                "[doors.a]\ntoken = 'acme'\nmode = '999'",
                "error: t.toml:5: wrong value for `mode` in [doors.a]: expected an octal mode that lets its owner read and nobody write: 0400, 0440 or 0444, found `999`",
            ),
            (
                "[doors.a]\ntoken = 'acme'\ntokns = []",
                "error: t.toml:5: unknown key `tokns` in [doors.a]\nhint: did you mean `tokens`?",
            ),
        ] {
            assert_eq!(tables(doors).unwrap_err(), line);
        }
    }
}
