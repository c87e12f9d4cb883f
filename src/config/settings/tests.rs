use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::Parser;

use super::*;
use crate::config::kind::Shape;

const CALLER: Caller = Caller { uid: 1234, gid: 2345, serves: None };

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    settings: SettingsArgs,
}

fn flags(args: &[&str]) -> SettingsArgs {
    Flags::try_parse_from([&["test"], args].concat()).unwrap().settings
}

fn resolve<const N: usize>(
    args: &[&str],
    environment: [(&str, &str); N],
) -> anyhow::Result<Settings> {
    Settings::resolve(&flags(args), &environment.into(), Path::new("/no/such/file"), CALLER)
}

fn told<const N: usize>(args: &[&str], environment: [(&str, &str); N]) -> String {
    resolve(args, environment).unwrap_err().to_string()
}

fn row(settings: &Settings, name: &str) -> (String, String) {
    let row = settings.rows().into_iter().find(|row| row.name == name).unwrap();
    (row.value, row.from)
}

#[test]
fn with_nothing_set_the_defaults_of_the_platform_hold() {
    let settings = resolve(&[], []).unwrap();
    assert!(settings.rows().iter().all(|row| row.from.starts_with("default")));
    assert_eq!(settings.refresh_interval.value, Duration::from_mins(45));
    assert_eq!(settings.refresh_jitter.value, Duration::from_mins(2));
    assert_eq!(settings.refresh_initial_delay.value, Duration::from_mins(1));
    assert_eq!(settings.windows(), Windows::default());
    let [SourceConfig::Platform(platform), SourceConfig::Env(env)] = &settings.sources()[..] else {
        panic!("the platform, then the environment");
    };
    assert_eq!(platform.url, "http://host.docker.internal:8080");
    assert_eq!(platform.bearer_file, Path::new("/configs/.auth_token"));
    assert_eq!(platform.workspace_id, None);
    assert_eq!(platform.proxy, None);
    assert_eq!(env.token, None);
    assert_eq!(settings.view_context().hosts, ["github.com"]);
    assert_eq!(
        settings.access(),
        Access { uid: 1234, gid: 2345, view_mode: 0o400, refresh_mode: 0o600 }
    );
}

#[test]
fn the_variables_of_a_workspace_image_are_enough() {
    let settings = resolve(
        &[],
        [
            ("PLATFORM_URL", "http://platform:8080/"),
            ("WORKSPACE_ID", "ws-1"),
            ("CONFIGS_DIR", "/c"),
            ("TOKEN_REFRESH_INTERVAL_SEC", "600"),
            ("TOKEN_REFRESH_JITTER_SEC", "0"),
            ("GITHUB_TOKEN", ""),
            ("GH_TOKEN", "ghs_canary"),
            ("HTTP_PROXY", "http://proxy:3128"),
        ],
    )
    .unwrap();
    let [SourceConfig::Platform(platform), SourceConfig::Env(env)] = &settings.sources()[..] else {
        panic!("the platform, then the environment");
    };
    assert_eq!(platform.url, "http://platform:8080");
    assert_eq!(platform.workspace_id.as_deref(), Some("ws-1"));
    assert_eq!(platform.bearer_file, Path::new("/c/.auth_token"));
    assert_eq!(platform.proxy, None, "the bearer must not go to a proxy by accident");
    assert_eq!(env.token.as_ref().unwrap().expose(), b"ghs_canary");
    assert_eq!(settings.refresh_interval.value, Duration::from_mins(10));
    assert_eq!(settings.refresh_jitter.value, Duration::ZERO);
    assert_eq!(row(&settings, "token").1, "GH_TOKEN");
    assert!(!format!("{settings:?} {:?}", settings.rows()).contains("canary"));
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "min-life = '1s'\nidle = '1h'\nopen-timeout = '1s'\n").unwrap();
    let path = file.path().to_str().unwrap();
    let settings = resolve(
        &["--min-life", "3s", "--config", path],
        [("MOLECULE_TOKENFS_MIN_LIFE", "2s"), ("MOLECULE_TOKENFS_IDLE", "2h")],
    )
    .unwrap();
    assert_eq!(row(&settings, "min-life"), ("3s".into(), "--min-life".into()));
    assert_eq!(row(&settings, "idle"), ("2h".into(), "MOLECULE_TOKENFS_IDLE".into()));
    assert_eq!(row(&settings, "open-timeout"), ("1s".into(), format!("{path}:3")));
    assert_eq!(row(&settings, "request-timeout"), ("10s".into(), "default".into()));
}

#[test]
fn the_default_file_need_not_be_there_but_a_named_one_must() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "mode = '0440'\n").unwrap();
    let none = Environment::from([]);
    let settings = Settings::resolve(&flags(&[]), &none, file.path(), CALLER).unwrap();
    assert_eq!(settings.mode.value, 0o440);
    assert_eq!(
        told(&[], [("MOLECULE_TOKENFS_CONFIG", "/no/such.toml")]),
        "cannot read the file of MOLECULE_TOKENFS_CONFIG, /no/such.toml"
    );
}

#[test]
fn an_invalid_value_is_told_with_its_place_and_what_was_expected() {
    assert_eq!(
        told(&["--min-life", "45"], []),
        "invalid value `45` for --min-life: expected a span of time such as 90s, 45m or 1h30m, \
         at most a year"
    );
    assert_eq!(
        told(&[], [("TOKEN_REFRESH_INTERVAL_SEC", "45m")]),
        "invalid value `45m` for TOKEN_REFRESH_INTERVAL_SEC: expected a whole number of seconds, \
         at most a year"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\nhost = ['a', 'https://b/']\n").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        told(&["--config", path], []),
        format!(
            "{path}:2: invalid value `https://b/` for `host`: expected a host name, with a port \
             where it has one: github.com or git.example:8443"
        )
    );
}

#[test]
fn each_setting_that_is_wrong_is_told_where_it_stands() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    for key in Key::ALL {
        let (name, variable) = (key.name(), key.variable());
        let error = told(&[&format!("--{name}=")], []);
        assert!(error.contains(&format!(" for --{name}: expected ")), "{error}");

        let with_file = |text: String| {
            std::fs::write(file.path(), text).unwrap();
            crate::advice::describe(&resolve(&["--config", path], []).unwrap_err()).0
        };
        let empty = if key.shape() == Shape::List { "['']" } else { "''" };
        let error = with_file(format!("\n{name} = {empty}\n"));
        assert!(error.starts_with(&format!("error: {path}:2: ")), "{error}");
        assert!(error.contains(&format!(" for `{name}`: expected ")), "{error}");
        let error = with_file(format!("{name} = 1.5\n"));
        assert!(
            error.starts_with(&format!("error: {path}:1: wrong type for `{name}`: ")),
            "{error}"
        );
        let error = with_file(format!("{name}x = 1\n"));
        let hint = format!("unknown key `{name}x`\nhint: did you mean `{name}`?\n");
        assert_eq!(error, format!("error: {path}:1: {hint}"));

        // An empty variable counts as unset, and anything else can be a path.
        let no_text = OsString::from_vec(b"\xff".to_vec());
        let environment = Environment::Fake([(variable.to_owned(), no_text)].into());
        let resolved = Settings::resolve(&flags(&[]), &environment, Path::new("/no"), CALLER);
        if ["DIR", "FILE"].contains(&key.declared().form.value_name) {
            assert_eq!(row(&resolved.unwrap(), name).1, variable);
        } else {
            let error = resolved.unwrap_err().to_string();
            assert!(error.contains(&format!(" for {variable}: expected ")), "{error}");
        }
    }
}

#[test]
fn a_value_that_may_be_secret_is_not_repeated() {
    let error = told(&[], [("PLATFORM_URL", "ftp://user:canary@host")]);
    assert!(error.starts_with("invalid value for PLATFORM_URL: expected"), "{error}");
    let settings = resolve(&["--proxy", "http://user:canary@proxy:3128"], []).unwrap();
    assert!(!format!("{settings:?}").contains("canary"));
    assert_eq!(row(&settings, "proxy").0, "http://…@proxy:3128");
}

#[test]
fn hosts_are_repeated_or_separated_by_commas() {
    let settings = resolve(&["--host", "A.example", "--host", "b:1"], []).unwrap();
    assert_eq!(settings.hosts.value, ["a.example", "b:1"]);
    let settings = resolve(&[], [("MOLECULE_TOKENFS_HOST", "a.example, b:1")]).unwrap();
    assert_eq!(settings.hosts.value, ["a.example", "b:1"]);
    assert!(told(&[], [("MOLECULE_TOKENFS_HOST", "a,,b")]).contains("invalid value ``"));
}

#[test]
fn a_flag_without_value_turns_prefetch_on() {
    assert!(resolve(&["--prefetch"], []).unwrap().prefetch.value);
    assert!(!resolve(&["--prefetch=false"], []).unwrap().prefetch.value);
    assert!(resolve(&[], [("MOLECULE_TOKENFS_PREFETCH", "1")]).unwrap().prefetch.value);
}

#[test]
fn a_variable_that_holds_no_token_is_told_and_passed_over() {
    let settings =
        resolve(&[], [("GITHUB_TOKEN", "ghs_canary\n"), ("GH_TOKEN", "ghs_good")]).unwrap();
    assert_eq!(settings.token.value.unwrap().expose(), b"ghs_good");
    let [warning] = &settings.warnings[..] else { panic!("one warning") };
    assert!(warning.starts_with("the value of GITHUB_TOKEN is ignored: "), "{warning}");
    assert!(warning.contains("0x0a at offset 10") && !warning.contains("canary"), "{warning}");
}

#[test]
fn a_ca_file_that_cannot_be_read_is_told() {
    let settings = resolve(&["--ca-file", "/no/such.pem"], []).unwrap();
    assert!(settings.warnings[0].starts_with("the ca-file /no/such.pem cannot be read: "));
}

#[test]
fn a_shown_span_can_be_typed() {
    for (span, shown) in [
        (Duration::from_mins(45), "45m"),
        (Duration::from_mins(90), "1h30m"),
        (Duration::from_hours(24), "24h"),
        (Duration::from_millis(1500), "1s500ms"),
        (Duration::ZERO, "0s"),
    ] {
        assert_eq!(shown_span(span), shown);
        assert_eq!(resolve(&["--min-life", shown], []).unwrap().min_life.value, Some(span));
    }
}
