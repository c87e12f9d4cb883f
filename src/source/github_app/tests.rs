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
    let config = parsed(&format!("client-id = \"Iv23liABC\"\n{KEY}\nowner = \"acme\"")).unwrap();
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
    let config = parsed(&format!("app-id = \"12345\"\n{KEY}\nrepository = \"acme/web\"")).unwrap();
    assert_eq!(config.installation.to_string(), "acme/web");
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
            "wrong value for `private-key` in [sources.acme]: expected { file = \"/path\" }, found a string",
            "a secret does not belong into the configuration",
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

#[test]
fn what_github_knows_as_another_thing_is_explained_in_its_words() {
    for kind in FetchErrorKind::ALL {
        let explanation = explain(kind).unwrap_or_else(|| kind.explain());
        for word in
            ["PLATFORM_URL", "CONFIGS_DIR", "WORKSPACE_ID", "workspace", "bearer", "platform"]
        {
            let text = format!("{} {}", explanation.sentence, explanation.remedy);
            // These never come from GitHub's side.
            let is_foreign =
                matches!(kind, FetchErrorKind::NotRegistered | FetchErrorKind::BearerUnusable);
            assert!(is_foreign || !text.contains(word), "{kind:?}: {text}");
        }
    }
}
