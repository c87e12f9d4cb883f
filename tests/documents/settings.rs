//! The table of settings in the README is the one that their declaration makes.

use std::fs;

use molecule_tokenfs::config::Key;

use crate::root;

const HEAD: &str = "| flag and key | variable | default | meaning |\n|---|---|---|---|\n";

/// A text for a terminal as Markdown: flags and names with a `_` are code, as what stands in backquotes.
fn markdown(text: &str) -> String {
    let word = |word: &str| {
        let inner = word.trim_end_matches([',', ';']);
        let is_code = inner.starts_with("--") || inner.starts_with('.') || inner.contains('_');
        if is_code { format!("`{inner}`{}", &word[inner.len()..]) } else { word.to_owned() }
    };
    let plain = |text: &str| text.split(' ').map(word).collect::<Vec<_>>().join(" ");
    let parts = text.split('`').enumerate();
    let parts = parts.map(|(n, part)| if n % 2 == 0 { plain(part) } else { part.to_owned() });
    parts.collect::<Vec<_>>().join("`")
}

fn row(key: Key) -> String {
    let declared = key.declared();
    let default = match (declared.default.words, declared.default.value) {
        (Some(words), _) => markdown(words),
        (None, Some(value)) => format!("`{value}`"),
        (None, None) => "none".to_owned(),
    };
    let meaning = [markdown(declared.help), declared.more.to_owned()];
    let meaning: Vec<_> = meaning.into_iter().filter(|text| !text.is_empty()).collect();
    let (name, variable) = (declared.name, declared.variable);
    format!("| `{name}` | `{variable}` | {default} | {} |\n", meaning.join("; "))
}

#[test]
fn the_readme_has_the_table_of_the_settings() {
    let path = root().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(HEAD).expect("the head of the table");
    let (table, after) = rest.split_once("\n\n").expect("something below the table");
    let declared: String = Key::ALL.map(row).concat();
    if std::env::var_os("MOLECULE_TEST_WRITE").is_some() {
        fs::write(&path, format!("{before}{HEAD}{declared}\n{after}")).unwrap();
    } else {
        assert_eq!(
            format!("{table}\n"),
            declared,
            "README.md has another table of settings than src/config/list.rs makes; write it with \
             MOLECULE_TEST_WRITE=1 cargo test --test documents settings"
        );
    }
}

#[test]
fn what_a_terminal_shows_plain_is_code_in_the_table() {
    let plain = "a ghs_, `run --user` of 0400; .auth_token or half of --open-timeout";
    let code = "a `ghs_`, `run --user` of 0400; `.auth_token` or half of `--open-timeout`";
    assert_eq!(markdown(plain), code);
}
