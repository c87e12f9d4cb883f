//! The tables of the file: sources by name, and the chain of sources that a token comes from.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::DeValue;

use crate::config::doors::DoorTable;
use crate::config::parse;
use crate::config::written::{Origin, Raw, line};
use crate::source::table::{Located, Table, TableError, Value, flaw_of_name, most_like};
use crate::source::{MAX_SOURCES, Scope, SourceConfig};
use crate::source::{env, platform};
use crate::view;

/// The sources that need no table, in the order in which they are asked by default.
pub const BUILT_IN: [&str; 2] = [platform::NAME, env::NAME];

/// The name of the token of the mount itself.
pub const DEFAULT: &str = "default";

/// The tables as the file has them.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// `[sources.NAME]`, and the line of each.
    sources: BTreeMap<String, Located<SourceConfig>>,
    /// `[tokens.NAME]`, and the line of each.
    tokens: BTreeMap<String, Located<TokenTable>>,
    /// `[doors.NAME]`.
    doors: BTreeMap<String, DoorTable>,
}

/// A token as the file describes it.
#[derive(Debug, Clone)]
pub struct TokenTable {
    sources: Vec<Located<String>>,
    hosts: Option<Vec<String>>,
    /// Whether narrower tokens can be had of its sources.
    is_on_demand: bool,
    owners: Vec<String>,
}

impl Tables {
    /// The names of tables at the top of the file.
    pub const NAMES: [&str; 3] = ["sources", "tokens", "doors"];

    /// Reads everything below one of these.
    ///
    /// # Errors
    /// The first mistake.
    pub(super) fn read(
        &mut self,
        text: &str,
        name: &str,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), TableError> {
        let head = line(text, value.span().start);
        let Value::Table(entries) = value_of(text, value.get_ref()) else {
            let message = format!("`{name}` must be tables: [{name}.NAME]");
            return Err(TableError { line: head, message, hint: None });
        };
        for (entry, Located { value, line }) in entries {
            let path = format!("{name}.{entry}");
            let Value::Table(entries) = value else {
                let message = format!("`{entry}` does not belong into [{name}]");
                let hint = format!("write a table for each: [{name}.NAME]");
                return Err(TableError { line, message, hint: None }.hint(hint));
            };
            let table = Table::new(path, line, entries).with_environment(super::env);
            if let Some(why) = flaw_of_name(&entry) {
                return Err(table.error(why));
            }
            match name {
                "sources" => self.source(table)?,
                "tokens" => self.token(table)?,
                _ => {
                    self.doors.insert(entry, DoorTable::read(table)?);
                }
            }
        }
        Ok(())
    }

    fn source(&mut self, table: Table) -> Result<(), TableError> {
        let (name, line) = (table.name().to_owned(), table.line);
        if BUILT_IN.contains(&&*name) {
            return Err(table.error("is the name of a source that needs no table"));
        }
        let value = SourceConfig::parse(table)?;
        self.sources.insert(name, Located { value, line });
        Ok(())
    }

    fn token(&mut self, mut table: Table) -> Result<(), TableError> {
        let (name, line) = (table.name().to_owned(), table.line);
        if is_taken(&name) {
            return Err(table.error("has the name of a file or directory of every mount"));
        }
        let sources = table.texts("sources")?.filter(|sources| !sources.is_empty());
        let Some(sources) = sources else {
            let error = table.error("has no `sources`");
            return Err(error.hint("sources = [\"platform\", \"env\"]"));
        };
        let hosts = table.texts("hosts")?.map(|hosts| {
            hosts.into_iter().map(|Located { value, line }| {
                let raw = Raw { text: value.into(), origin: Origin::Default };
                parse::host(&raw).map_err(|invalid| {
                    let found = raw.text.to_string_lossy().escape_debug().to_string();
                    table.invalid("hosts", line, invalid.expected, format!("`{found}`"))
                })
            })
        });
        let hosts = hosts.map(Iterator::collect).transpose()?;
        let is_on_demand = table.boolean("on-demand")?.unwrap_or(false);
        let owners = table.texts("owners")?.unwrap_or_default();
        if let Some(Located { value, line }) = owners.iter().find(|it| !Scope::is_owner(&it.value))
        {
            let found = format!("`{}`", value.escape_debug());
            return Err(table.invalid("owners", *line, "organisations or users", found));
        }
        let owners = owners.into_iter().map(|owner| owner.value.to_ascii_lowercase());
        let owners = owners.collect::<BTreeSet<_>>().into_iter().collect();
        table.finish()?;
        let value = TokenTable { sources, hosts, is_on_demand, owners };
        self.tokens.insert(name, Located { value, line });
        Ok(())
    }

    /// Checks what tables say of each other, when all are read.
    ///
    /// # Errors
    /// For a source that nobody described, that is named twice, or that no token uses.
    pub(super) fn check(&self) -> Result<(), TableError> {
        for token in self.tokens.values() {
            self.check_chain(&token.value.sources)?;
        }
        self.check_owners()?;
        self.doors.values().try_for_each(|door| self.check_door(door))?;
        let used = self.tokens.values().flat_map(|token| &token.value.sources);
        let used: Vec<_> = used.map(|source| &*source.value).collect();
        match self.sources.iter().find(|(name, _)| !used.contains(&&***name)) {
            Some((name, Located { line, .. })) => Err(TableError {
                line: *line,
                message: format!("no token uses [sources.{name}]"),
                hint: Some(format!("[tokens.default] sources = [\"{name}\"]")),
            }),
            None => Ok(()),
        }
    }

    /// Of two tokens for one owner at the same hosts nobody could tell which one is meant.
    fn check_owners(&self) -> Result<(), TableError> {
        let mut seen = BTreeMap::new();
        for (name, Located { value: token, line }) in &self.tokens {
            for owner in &token.owners {
                let Some(first) = seen.insert((owner, &token.hosts), name) else { continue };
                return Err(TableError {
                    line: *line,
                    message: format!("[tokens.{first}] and [tokens.{name}] are both for `{owner}`"),
                    hint: Some("name each owner in one of them".to_owned()),
                });
            }
        }
        Ok(())
    }

    fn check_door(&self, door: &DoorTable) -> Result<(), TableError> {
        let error = |line, message| TableError { line, message, hint: None };
        for (name, line) in door.names() {
            if self.tokens.contains_key(name) {
                continue;
            }
            let error = error(line, format!("there is no token `{name}`"));
            let known = || self.tokens.keys().map(|name| (&**name, name));
            return Err(match most_like(name, known()) {
                Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                None => error.hint(format!("describe it in [tokens.{name}]")),
            });
        }
        for (place, Located { value: name, line }) in door.tokens.iter().enumerate() {
            if door.tokens.iter().take(place).any(|earlier| earlier.value == *name) {
                return Err(error(*line, format!("the token `{name}` is named twice")));
            }
        }
        Ok(())
    }

    fn check_chain(&self, chain: &[Located<String>]) -> Result<(), TableError> {
        if let Some(one_too_many) = chain.get(MAX_SOURCES) {
            return Err(TableError {
                line: one_too_many.line,
                message: format!("`sources` has more than {MAX_SOURCES} names"),
                hint: Some("name those that can give a token of this owner, best first".to_owned()),
            });
        }
        for (place, Located { value: name, line }) in chain.iter().enumerate() {
            let error = |message: String| TableError { line: *line, message, hint: None };
            if !BUILT_IN.contains(&&**name) && !self.sources.contains_key(name) {
                let error = error(format!("there is no source `{name}`"));
                let known = || BUILT_IN.into_iter().chain(self.sources.keys().map(|name| &**name));
                return Err(match most_like(name, known().map(|known| (known, known))) {
                    Some(meant) => error.hint(format!("did you mean `{meant}`?")),
                    None => error.hint(format!(
                        "describe it in [sources.{name}]; there are {}",
                        known().collect::<Vec<_>>().join(", ")
                    )),
                });
            }
            if chain.iter().take(place).any(|earlier| earlier.value == *name) {
                return Err(error(format!("the source `{name}` is named twice")));
            }
        }
        Ok(())
    }

    /// The doors, by name.
    pub fn doors(&self) -> impl Iterator<Item = (&str, &DoorTable)> {
        self.doors.iter().map(|(name, door)| (&**name, door))
    }

    /// All tokens that have a table, by name.
    pub fn all(&self) -> impl Iterator<Item = (&str, &TokenTable)> {
        self.tokens.iter().map(|(name, token)| (&**name, &token.value))
    }

    /// The names of the sources of the mount's token, best first.
    #[must_use]
    pub fn chain(&self) -> Vec<&str> {
        match self.tokens.get(DEFAULT) {
            Some(token) => token.value.chain().collect(),
            None => BUILT_IN.to_vec(),
        }
    }

    /// The mount's token, where the file describes it.
    #[must_use]
    pub fn default_token(&self) -> Option<&TokenTable> {
        self.tokens.get(DEFAULT).map(|token| &token.value)
    }

    /// The tokens that have a directory of their own, by name.
    pub fn named(&self) -> impl Iterator<Item = (&str, &TokenTable)> {
        let named = self.tokens.iter().filter(|(name, _)| *name != DEFAULT);
        named.map(|(name, token)| (&**name, &token.value))
    }

    /// The tokens of whose sources narrower ones can be had.
    pub fn on_demand(&self) -> impl Iterator<Item = &TokenTable> {
        self.tokens.values().map(|token| &token.value).filter(|token| token.is_on_demand)
    }

    /// Whether a repository may have another token than that of the mount.
    #[must_use]
    pub fn has_choice(&self) -> bool {
        self.named().next().is_some() || self.on_demand().next().is_some()
    }

    /// The hosts of the mount's token, where the file says so beside it.
    #[must_use]
    pub fn hosts(&self) -> Option<&[String]> {
        self.default_token()?.hosts()
    }

    /// The variables that hold secrets of sources. No child of the daemon needs them.
    pub fn secret_variables(&self) -> impl Iterator<Item = &str> {
        self.sources.values().filter_map(|source| source.value.secret_variable())
    }

    /// A source that has a table.
    #[must_use]
    pub fn source_by_name(&self, name: &str) -> Option<&SourceConfig> {
        self.sources.get(name).map(|source| &source.value)
    }
}

impl TokenTable {
    /// The names of its sources, best first.
    pub fn chain(&self) -> impl Iterator<Item = &str> {
        self.sources.iter().map(|name| &*name.value)
    }

    /// The hosts that it is for, where the file says so.
    #[must_use]
    pub fn hosts(&self) -> Option<&[String]> {
        self.hosts.as_deref()
    }

    /// Whose repositories it is for, and whose narrower tokens can be had, in lower case; empty is
    /// everybody whom the sources serve.
    #[must_use]
    pub fn owners(&self) -> &[String] {
        &self.owners
    }
}

/// Whether something of this name lies at the root of every mount, or will.
fn is_taken(name: &str) -> bool {
    let first = |path: &'static str| path.split('/').next().unwrap_or(path);
    let views = view::ALL.iter().map(|view| first(view.path()));
    views.chain(["live", "refresh", "repos", "orgs"]).any(|taken| taken == name)
}

fn value_of(text: &str, value: &DeValue<'_>) -> Value {
    let located = |value: &Spanned<DeValue<'_>>| Located {
        value: value_of(text, value.get_ref()),
        line: line(text, value.span().start),
    };
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => {
            number.as_str().parse().map_or(Value::Other("a large number"), Value::Integer)
        }
        DeValue::Integer(_) => Value::Other("a number that is not decimal"),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Float(_) => Value::Other("a float"),
        DeValue::Datetime(_) => Value::Other("a date or time"),
        DeValue::Array(items) => Value::List(items.iter().map(located).collect()),
        DeValue::Table(entries) => Value::Table(
            entries
                .iter()
                .map(|(key, value)| {
                    let value = Located { line: line(text, key.span().start), ..located(value) };
                    (key.get_ref().to_string(), value)
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::advice::describe;
    use crate::config::file::ConfigFile;
    use crate::source::SourceConfig;

    const SOURCE: &str = "[sources.acme-app]\ntype = 'github-app'\nclient-id = 'Iv23li'\n\
                          private-key = { file = '/etc/molecule/acme.pem' }\nowner = 'acme'\n";

    fn chain(text: &str) -> Vec<String> {
        let file = ConfigFile::parse(Path::new("t.toml").into(), text).unwrap();
        file.tables.chain().into_iter().map(str::to_owned).collect()
    }

    fn told(text: &str) -> String {
        let error = ConfigFile::parse(Path::new("t.toml").into(), text).unwrap_err();
        describe(&error).0
    }

    #[test]
    fn without_tables_the_chain_is_the_platform_and_the_environment() {
        assert_eq!(chain("idle = '1h'"), ["platform", "env"]);
        let text =
            format!("idle = '1h'\n[tokens.default]\nsources = ['acme-app', 'env']\n{SOURCE}");
        assert_eq!(chain(&text), ["acme-app", "env"]);
    }

    #[test]
    fn a_source_says_what_it_gives() {
        let text = format!("{SOURCE}[tokens.default]\nsources = ['acme-app']");
        let file = ConfigFile::parse(Path::new("t.toml").into(), &text).unwrap();
        let source = file.tables.source_by_name("acme-app").unwrap();
        assert_eq!(
            source.describe().unwrap(),
            "tokens of acme from https://api.github.com as the App Iv23li with the key \
             /etc/molecule/acme.pem"
        );
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_what_to_do() {
        let with = |tail: &str| format!("{SOURCE}{tail}");
        let types = SourceConfig::TYPES.join(", ");
        for (text, line) in [
            (
                "[sources]\na = 1".to_owned(),
                "error: t.toml:2: `a` does not belong into [sources]\nhint: write a table for each: [sources.NAME]",
            ),
            ("sources = 1".to_owned(), "error: t.toml:1: `sources` must be tables: [sources.NAME]"),
            (
                "[sources.A_b]\ntype = 'x'".to_owned(),
                "error: t.toml:1: [sources.A_b] has a wrong name: a name begins with a letter and has only a–z, 0–9 and -",
            ),
            (
                "[sources.platform]\ntype = 'x'".to_owned(),
                "error: t.toml:1: [sources.platform] is the name of a source that needs no table",
            ),
            (
                "[sources.a]".to_owned(),
                &format!("error: t.toml:1: [sources.a] has no `type`\nhint: the types are {types}"),
            ),
            (
                "[sources.a]\ntype = 'gitlab'".to_owned(),
                &format!(
                    "error: t.toml:2: wrong value for `type` in [sources.a]: expected one of {types}, found `gitlab`"
                ),
            ),
            (
                with("owners = 'x'"),
                "error: t.toml:6: unknown key `owners` in [sources.acme-app]\nhint: did you mean `owner`?",
            ),
            (
                with(""),
                "error: t.toml:1: no token uses [sources.acme-app]\nhint: [tokens.default] sources = [\"acme-app\"]",
            ),
            (
                with("[tokens.default]\nsources = ['acme-ap']"),
                "error: t.toml:7: there is no source `acme-ap`\nhint: did you mean `acme-app`?",
            ),
            (
                with("[tokens.default]\nsources = ['env', 'env']"),
                "error: t.toml:7: the source `env` is named twice",
            ),
            (
                format!("[tokens.default]\nsources = {:?}", ["env"; 9]),
                "error: t.toml:2: `sources` has more than 8 names\nhint: name those that can give a token of this owner, best first",
            ),
            (
                "[tokens.default]".to_owned(),
                "error: t.toml:1: [tokens.default] has no `sources`\nhint: sources = [\"platform\", \"env\"]",
            ),
            (
                "[tokens.live]\nsources = ['env']".to_owned(),
                "error: t.toml:1: [tokens.live] has the name of a file or directory of every mount",
            ),
        ] {
            assert_eq!(told(&text).trim_end(), line);
        }
    }
}
