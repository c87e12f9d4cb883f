//! What the configuration says of a GitHub App: `[sources.NAME]` with `type = "github-app"`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::source::env::handover;
use crate::source::http;
use crate::source::table::{Located, SecretPlace, Table, TableError};
use crate::source::{Configured, Scope, SourceName};

/// GitHub's own API.
pub const GITHUB: &str = "https://api.github.com";
/// The longest list that GitHub takes (its documentation of the endpoint).
const MOST_REPOSITORIES: usize = 500;

/// Which installation of the App to ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Installation {
    /// By its number.
    Id(u64),
    /// That of an organisation or user.
    Owner(String),
    /// The one that has this repository: owner and name.
    Repository(String, String),
    /// That of each owner for whom a token is asked; there is none without an owner.
    OfEach,
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "installation {id}"),
            Self::Owner(owner) => f.write_str(owner),
            Self::Repository(owner, name) => write!(f, "{owner}/{name}"),
            Self::OfEach => f.write_str("each owner"),
        }
    }
}

/// Where the App's private key is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrivateKey {
    /// In a file, which is read for each token.
    File(PathBuf),
    /// In a variable of the environment that the daemon was started in.
    Variable {
        /// Its name.
        name: String,
        /// What it held then, in base64.
        #[serde(with = "handover")]
        value: Option<Secret>,
    },
}

impl fmt::Display for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Variable { name, .. } => write!(f, "the variable {name}"),
        }
    }
}

/// Which App, which installation, and what its tokens may do.
#[derive(Clone, Serialize, Deserialize)]
pub struct GithubAppConfig {
    /// The source's name.
    pub name: SourceName,
    /// The App's client id, or its number.
    pub app: String,
    /// Its private key.
    pub private_key: PrivateKey,
    /// The base URL of the API; `https://HOST/api/v3` for GitHub Enterprise Server.
    pub api_url: String,
    /// The installation.
    pub installation: Installation,
    /// The repositories that a token is for; empty is all of the installation.
    pub repositories: Vec<String>,
    /// What it may do with them; empty is all that the installation grants.
    pub permissions: BTreeMap<String, String>,
    /// A proxy, only if configured as such.
    pub proxy: Option<String>,
    /// Additional CA bundle (PEM) for https.
    pub ca_file: Option<PathBuf>,
    /// The longest a request may take.
    pub request_timeout: Duration,
    /// The most tokens that the App mints in a minute on this machine.
    #[serde(default = "mints_a_minute")]
    pub mints_a_minute: usize,
    /// Whether its tokens are revoked when the daemon ends in order.
    #[serde(default)]
    pub revoke_on_exit: bool,
    /// Tokens of it are made on demand: there may be hundreds, each of which would watch the key.
    #[serde(default)]
    pub is_on_demand: bool,
}

impl fmt::Debug for GithubAppConfig {
    /// Without the passwords that URLs may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GithubAppConfig({}: {})", self.name.get(), self.describe())
    }
}

/// GitHub documents 900 points a minute, of which a mint costs five; the rest is for others.
fn mints_a_minute() -> usize {
    120
}

impl Configured for GithubAppConfig {
    const TYPE: &'static str = "github-app";

    fn parse(table: &mut Table) -> Result<Self, TableError> {
        let client_id = table.text("client-id")?;
        let app_id = table.number("app-id")?;
        let app = match (client_id, app_id) {
            (Some(id), None) => id.value,
            (None, Some(id)) => id.to_string(),
            (Some(_), Some(_)) => return Err(table.error("has both `client-id` and `app-id`")),
            (None, None) => {
                let error = table.error("has no `client-id`");
                return Err(
                    error.hint("it is on the App's page, under General; `app-id` does, too")
                );
            }
        };
        let private_key = match table.secret("private-key")? {
            Some(SecretPlace::File(path)) => PrivateKey::File(path),
            Some(SecretPlace::Variable { name, value }) => PrivateKey::Variable { name, value },
            None => {
                let error = table.error("has no `private-key`");
                return Err(error.hint("private-key = { file = \"/etc/molecule/app.pem\" }"));
            }
        };
        let api_url = url(table, "api-url")?;
        let id = table.number("installation-id")?.map(Installation::Id);
        let owner = table.text("owner")?;
        if let Some(Located { value, line }) =
            owner.as_ref().filter(|it| !Scope::is_owner(&it.value))
        {
            return Err(table.invalid(
                "owner",
                *line,
                "the name of an organisation or user",
                quoted(value),
            ));
        }
        let owner = owner.map(|owner| Installation::Owner(owner.value));
        let repository = match table.text("repository")? {
            None => None,
            Some(Located { value, line }) => match value.split_once('/') {
                Some((owner, name)) if Scope::is_owner(owner) && Scope::is_repository(name) => {
                    Some(Installation::Repository(owner.to_owned(), name.to_owned()))
                }
                _ => {
                    return Err(table.invalid(
                        "repository",
                        line,
                        "OWNER/REPOSITORY",
                        quoted(&value),
                    ));
                }
            },
        };
        let mut installations = [id, owner, repository].into_iter().flatten();
        let installation = installations.next().unwrap_or(Installation::OfEach);
        if installations.next().is_some() {
            return Err(
                table.error("has more than one of `owner`, `repository` and `installation-id`")
            );
        }
        let repositories = repositories(table)?;
        let permissions = table.map("permissions")?;
        let mut config = Self::new(SourceName::new(table.name()), app, private_key, installation);
        if let Some(api_url) = api_url {
            config.api_url = api_url;
        }
        config.repositories = repositories;
        config.permissions = permissions;
        config.proxy = url(table, "proxy")?;
        config.ca_file = table.text("ca-file")?.map(|path| path.value.into());
        if let Some(timeout) = table.span("request-timeout")? {
            config.request_timeout = timeout;
        }
        if let Some(most) = table.number("mints-per-minute")? {
            config.mints_a_minute = usize::try_from(most).unwrap_or(usize::MAX);
        }
        config.revoke_on_exit = table.boolean("revoke-on-exit")?.unwrap_or(false);
        Ok(config)
    }

    fn narrowed(&self, scope: &Scope) -> Option<Self> {
        let is_other = |owner: &str| !owner.eq_ignore_ascii_case(&scope.owner);
        if self.owner().is_some_and(is_other) {
            return None;
        }
        let mut narrowed = Self { is_on_demand: true, ..self.clone() };
        if let Some(name) = &scope.repository {
            let is_it = |known: &String| known.eq_ignore_ascii_case(name);
            if !self.repositories.is_empty() && !self.repositories.iter().any(is_it) {
                return None;
            }
            narrowed.repositories = vec![name.clone()];
        }
        if self.installation == Installation::OfEach {
            narrowed.installation = match &scope.repository {
                Some(name) => Installation::Repository(scope.owner.clone(), name.clone()),
                None => Installation::Owner(scope.owner.clone()),
            };
        }
        Some(narrowed)
    }

    fn secret_variable(&self) -> Option<&str> {
        match &self.private_key {
            PrivateKey::Variable { name, .. } => Some(name),
            PrivateKey::File(_) => None,
        }
    }

    fn owner(&self) -> Option<&str> {
        match &self.installation {
            Installation::Owner(owner) | Installation::Repository(owner, _) => Some(owner),
            Installation::Id(_) | Installation::OfEach => None,
        }
    }

    fn describe(&self) -> String {
        let (url, app) = (http::without_userinfo(&self.api_url), &self.app);
        let key = match &self.private_key {
            PrivateKey::File(path) => path.display().to_string(),
            PrivateKey::Variable { name, .. } => format!("of the variable {name}"),
        };
        format!("tokens {} from {url} as the App {app} with the key {key}", self.wanted())
    }
}

impl GithubAppConfig {
    /// This installation of an App on github.com, and all that it grants; the rest as nobody configured
    /// anything.
    #[must_use]
    pub fn new(
        name: SourceName,
        app: String,
        private_key: PrivateKey,
        installation: Installation,
    ) -> Self {
        Self {
            name,
            app,
            private_key,
            api_url: GITHUB.to_owned(),
            installation,
            repositories: Vec::new(),
            permissions: BTreeMap::new(),
            proxy: None,
            ca_file: None,
            request_timeout: Duration::from_secs(10),
            mints_a_minute: mints_a_minute(),
            revoke_on_exit: false,
            is_on_demand: false,
        }
    }

    /// What tokens are asked for, in words.
    pub(super) fn wanted(&self) -> String {
        let mut wanted = format!("of {}", self.installation);
        if !self.repositories.is_empty() {
            wanted = format!("{wanted}, repositories {}", self.repositories.join(", "));
        }
        if !self.permissions.is_empty() {
            let permissions = self.permissions.iter();
            let permissions: Vec<_> =
                permissions.map(|(name, level)| format!("{name}: {level}")).collect();
            wanted = format!("{wanted}, permissions {}", permissions.join(", "));
        }
        wanted
    }
}

fn quoted(text: &str) -> String {
    format!("`{}`", text.escape_debug())
}

fn url(table: &mut Table, key: &'static str) -> Result<Option<String>, TableError> {
    let Some(Located { value, line }) = table.text(key)? else { return Ok(None) };
    match http::parse_url(&value) {
        Ok(_) => Ok(Some(value)),
        // It may hold a password.
        Err(why) => Err(table.invalid(key, line, "a URL", why)),
    }
}

fn repositories(table: &mut Table) -> Result<Vec<String>, TableError> {
    let named = table.texts("repositories")?.unwrap_or_default();
    if let Some(Located { line, .. }) = named.get(MOST_REPOSITORIES) {
        let expected = format!("at most {MOST_REPOSITORIES}");
        return Err(table.invalid("repositories", *line, expected, named.len()));
    }
    for Located { value, line } in &named {
        if !Scope::is_repository(value) {
            let expected = "names of repositories without their owner";
            return Err(table.invalid("repositories", *line, expected, quoted(value)));
        }
    }
    Ok(named.into_iter().map(|name| name.value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::table::Value;

    fn table(text: &str) -> Table {
        // One `key = value` a line, the value as JSON.
        let entries = text.lines().enumerate().map(|(number, line)| {
            let (key, value) = line.split_once(" = ").unwrap();
            let value = value_of(&serde_json::from_str(value).unwrap(), number + 2);
            (key.to_owned(), value)
        });
        Table::new("sources.acme".to_owned(), 1, entries.collect())
    }

    fn value_of(json: &serde_json::Value, line: usize) -> Located<Value> {
        let value = match json {
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Number(number) => Value::Integer(number.as_i64().unwrap()),
            serde_json::Value::Bool(boolean) => Value::Boolean(*boolean),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| value_of(item, line)).collect())
            }
            serde_json::Value::Object(entries) => Value::Table(
                entries.iter().map(|(key, value)| (key.clone(), value_of(value, line))).collect(),
            ),
            serde_json::Value::Null => unreachable!(),
        };
        Located { value, line }
    }

    const KEY: &str = "private-key = {\"file\": \"/etc/molecule/acme.pem\"}";

    fn parsed(text: &str) -> Result<GithubAppConfig, TableError> {
        let mut table = table(text);
        let config = GithubAppConfig::parse(&mut table)?;
        table.finish()?;
        Ok(config)
    }

    #[test]
    fn a_table_says_which_app_and_which_installation() {
        let config =
            parsed(&format!("client-id = \"Iv23liABC\"\n{KEY}\nowner = \"acme\"")).unwrap();
        assert_eq!((config.name.get(), &*config.app), ("acme", "Iv23liABC"));
        assert_eq!(config.installation, Installation::Owner("acme".to_owned()));
        assert_eq!(config.api_url, "https://api.github.com");
        let config = parsed(&format!(
            "app-id = 12345\n{KEY}\ninstallation-id = 77\napi-url = \"https://ghe.example/api/v3\"\n\
             repositories = [\"web\", \"api\"]\npermissions = {{\"contents\": \"write\"}}\n\
             request-timeout = \"3s\""
        ))
        .unwrap();
        assert_eq!((&*config.app, config.installation), ("12345", Installation::Id(77)));
        assert_eq!(config.repositories, ["web", "api"]);
        assert_eq!(config.permissions["contents"], "write");
        assert_eq!(config.request_timeout, Duration::from_secs(3));
        let config =
            parsed(&format!("app-id = \"12345\"\n{KEY}\nrepository = \"acme/web\"")).unwrap();
        assert_eq!(config.installation.to_string(), "acme/web");
    }

    #[test]
    fn a_key_of_the_environment_is_taken_with_the_table_and_shown_to_nobody() {
        let key = "private-key = {\"env\": \"APP_KEY\"}";
        let mut table = table(&format!("app-id = 7\n{key}"))
            .with_environment(|name| (name == "APP_KEY").then(|| "canary\n".into()));
        let config = GithubAppConfig::parse(&mut table).unwrap();
        assert!(config.describe().ends_with("with the key of the variable APP_KEY"));
        let PrivateKey::Variable { name, value: Some(value) } = &config.private_key else {
            panic!()
        };
        assert_eq!((&**name, value.expose_str()), ("APP_KEY", "Y2FuYXJ5Cg=="));
        let shown = format!("{config:?} {:?}", config.private_key);
        assert!(!shown.contains("canary") && !shown.contains("Y2Fu"), "{shown}");
        let unset = parsed(&format!("app-id = 7\n{key}")).unwrap().private_key;
        assert_eq!(unset, PrivateKey::Variable { name: "APP_KEY".to_owned(), value: None });
    }

    #[test]
    fn its_debug_form_has_no_password() {
        let url = "https://me:canary@host/api/v3";
        let text =
            format!("app-id = 7\n{KEY}\napi-url = \"{url}\"\nproxy = \"http://me:canary@proxy\"");
        let shown = format!("{:?}", parsed(&text).unwrap());
        assert!(shown.contains("the App 7") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn a_mistake_in_a_table_is_told_with_its_line_and_what_to_do() {
        let app = "client-id = \"a\"";
        for (text, line, message, hint) in [
            (KEY.to_owned(), 1, "[sources.acme] has no `client-id`", "it is on the App's page"),
            (app.to_owned(), 1, "[sources.acme] has no `private-key`", "private-key = { file"),
            (
                format!("{app}\n{KEY}\nowner = \"acme\"\ninstallation-id = 7"),
                1,
                "[sources.acme] has more than one of `owner`, `repository` and `installation-id`",
                "",
            ),
            (
                format!("{app}\nprivate-key = \"-----BEGIN\""),
                3,
                "wrong value for `private-key` in [sources.acme]: expected { file = \"/path\" } or { env = \"NAME\" }, found a string",
                "a secret does not belong into the configuration",
            ),
            (
                format!("{app}\nprivate-key = {{\"env\": \"-----BEGIN canary\"}}"),
                3,
                "wrong value for `private-key` in [sources.acme]: expected the name of a variable, found another text",
                "",
            ),
            (
                format!("{app}\n{KEY}\nowner = \"acme/web\""),
                4,
                "wrong value for `owner` in [sources.acme]: expected the name of an organisation or user, found `acme/web`",
                "",
            ),
            (
                format!("{app}\n{KEY}\nowner = \"acme\"\nrepositories = [\"acme/web\"]"),
                5,
                "wrong value for `repositories` in [sources.acme]: expected names of repositories without their owner, found `acme/web`",
                "",
            ),
            (
                format!("{app}\n{KEY}\nowner = \"acme\"\nrepositorys = [\"web\"]"),
                5,
                "unknown key `repositorys` in [sources.acme]",
                "did you mean `repository`?",
            ),
            (
                format!("{app}\n{KEY}\nowner = \"acme\"\napi-url = \"ftp://me:canary@host\""),
                5,
                "wrong value for `api-url` in [sources.acme]: expected a URL, found it must begin with http:// or https://",
                "",
            ),
            (
                format!("{app}\n{KEY}\nowner = \"acme\"\npermissions = {{\"contents\": true}}"),
                5,
                "wrong value for `permissions.contents` in [sources.acme]: expected a string in quotes, found a boolean",
                "",
            ),
        ] {
            let error = parsed(&text).unwrap_err();
            assert_eq!((error.line, &*error.message), (line, message));
            assert!(error.hint.unwrap_or_default().starts_with(hint), "{message}");
            assert!(!error.message.contains("canary"));
        }
    }
}
