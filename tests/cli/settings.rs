//! Each setting, in all the forms in which a person meets it: a new one is tested here by being declared.

use std::fs;

use molecule_tokenfs::config::Key;
use molecule_tokenfs::config::kind::{Offers, Shape};
use serde_json::Value;

use crate::support::daemon::{tokenfs, tokenfs_run};
use crate::support::dir::TestDir;
use crate::support::limit::within;
use crate::support::process::{User, run};
use crate::support::secs;

/// A value that is none of the defaults, as a flag takes it. The number is a user and a group.
fn sample(key: Key) -> String {
    let form = key.declared().form;
    if let Offers::Values(values) = form.offers {
        let mut others =
            values().into_iter().filter(|&value| key.declared().default.value != Some(value));
        return others.next_back().unwrap().to_owned();
    }
    match form.value_name {
        "SPAN" => "7m",
        "URL" => "http://sample.example",
        "DIR" | "FILE" => "/sample",
        "USER" | "GROUP" => "4711",
        "HOST" => "sample.example",
        "ID" => "sample",
        other => panic!("a sample of the new kind {other} belongs here"),
    }
    .to_owned()
}

/// The line of the file that sets it.
fn line(key: Key, value: &str) -> String {
    let name = key.name();
    match key.shape() {
        Shape::Boolean => format!("{name} = {value}\n"),
        Shape::List => format!("{name} = [\"{value}\"]\n"),
        Shape::Text | Shape::Octal | Shape::NameOrNumber => format!("{name} = \"{value}\"\n"),
    }
}

/// `check --json` with these flags and variables, and a file.
fn check(
    dir: &TestDir,
    flags: impl IntoIterator<Item = String>,
    variables: impl IntoIterator<Item = (&'static str, String)>,
    file: &str,
) -> Value {
    let path = dir.join("t.toml");
    fs::write(&path, file).unwrap();
    let mut command = tokenfs(dir, User::Own);
    // Tests have a configs directory of their own.
    command.env_remove(Key::ConfigsDir.variable());
    command.args(["check", "--json", "--config"]).arg(path).args(flags).envs(variables);
    serde_json::from_str(&run(command, dir, secs(10)).ok()).unwrap()
}

/// What a `check` shows for a setting: its value, and where it is from.
fn shown(check: &Value, key: Key) -> (String, String) {
    let mut rows = check["settings"].as_array().unwrap().iter();
    let row = rows.find(|row| row["name"] == key.name()).unwrap();
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    (text("value"), text("from"))
}

#[test]
fn each_setting_is_a_flag_a_variable_and_a_key_and_check_says_which() {
    within(secs(30), || {
        let dir = TestDir::new();
        let unset = check(&dir, [], [], "");
        for key in Key::ALL {
            let (value, from) = shown(&unset, key);
            assert!(from.starts_with("default"), "{}: {from}", key.name());
            let default = key.declared().default.value;
            assert!(default.is_none_or(|default| default == value), "{}: {value}", key.name());
        }

        let lines: Vec<_> = Key::ALL.map(|key| line(key, &sample(key))).into();
        let variables = Key::ALL.map(|key| {
            let value = if key.variable_in_seconds() { "420".to_owned() } else { sample(key) };
            (key.variable(), value)
        });
        let flags = Key::ALL.map(|key| format!("--{}={}", key.name(), sample(key)));
        let in_file = check(&dir, [], [], &lines.concat());
        let in_variables = check(&dir, [], variables.clone(), &lines.concat());
        let in_flags = check(&dir, flags, variables, &lines.concat());
        let file = dir.join("t.toml").to_str().unwrap().to_owned();
        for (number, key) in (1..).zip(Key::ALL) {
            assert_eq!(shown(&in_file, key), (sample(key), format!("{file}:{number}")));
            assert_eq!(shown(&in_variables, key), (sample(key), key.variable().to_owned()));
            assert_eq!(shown(&in_flags, key), (sample(key), format!("--{}", key.name())));
        }
    });
}

#[test]
fn each_setting_is_in_the_help_the_completions_and_the_manual() {
    within(secs(20), || {
        let dir = TestDir::new();
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let help = words(&tokenfs_run(&dir, &["mount", "--help"]).ok());
        let pages = dir.join("man");
        tokenfs_run(&dir, &["man", pages.to_str().unwrap()]).ok();
        let manual = fs::read_to_string(pages.join("molecule-tokenfs-mount.1")).unwrap();
        let scripts = ["bash", "zsh", "fish"]
            .map(|shell| (shell, tokenfs_run(&dir, &["completions", shell]).ok()));
        for key in Key::ALL {
            let (declared, name) = (key.declared(), key.name());
            let told = format!("{} [env: {}", declared.help, declared.variable);
            assert!(help.contains(&format!(" --{name}")) && help.contains(&told), "{name}: {help}");
            if let Some(default) = declared.default.told().filter(|&default| default != "false") {
                assert!(help.contains(&format!("[default: {default}]")), "{name}: {help}");
            }
            assert!(manual.contains(&name.replace('-', "\\-")), "{name}: {manual}");
            for (shell, script) in &scripts {
                assert!(script.contains(name), "{shell}: {name}");
                let Offers::Values(values) = declared.form.offers else { continue };
                for value in values() {
                    assert!(script.contains(value), "{shell}: {name}: {value}");
                }
            }
        }
    });
}
