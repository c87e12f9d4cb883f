//! `gh/hosts.yml`: gh's logins, for a `GH_CONFIG_DIR` that is the view's directory. The token stands
//! there twice: gh before 2.40 reads the first place, later ones the second.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::escape::push_quoted;
use crate::view::{View, ViewContext};

/// See the module.
pub struct GhHosts;

impl View for GhHosts {
    fn id(&self) -> u8 {
        6
    }

    fn path(&self) -> &'static str {
        "gh/hosts.yml"
    }

    fn render(&self, token: &Published, context: &ViewContext, out: &mut Rendered) {
        let token = token.secret.expose();
        for host in &context.hosts {
            push_scalar(out, host.as_bytes(), is_plain_host(host.as_bytes()));
            out.push_str(":\n    oauth_token: ");
            push_scalar(out, token, is_plain_token(token));
            out.push_str("\n    user: x-access-token\n    git_protocol: https\n");
            out.push_str("    users:\n        x-access-token:\n            oauth_token: ");
            push_scalar(out, token, is_plain_token(token));
            out.push_str("\n");
        }
    }
}

/// Plain as gh itself writes it, so that a `grep` in it works too; else between quotes.
fn push_scalar(out: &mut Rendered, text: &[u8], plain: bool) {
    if plain {
        out.push(text);
    } else {
        push_quoted(out, text);
    }
}

/// A letter first and an underscore somewhere: no YAML reader takes that for a number, a date, a
/// boolean or a null.
fn is_plain_token(token: &[u8]) -> bool {
    token.first().is_some_and(u8::is_ascii_alphabetic)
        && token.contains(&b'_')
        && token.iter().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b))
}

/// A name with a dot, and perhaps a port. A bare word or a number could be read as something else.
fn is_plain_host(host: &[u8]) -> bool {
    host.first().is_some_and(u8::is_ascii_alphabetic)
        && host.contains(&b'.')
        && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::testing::{any_token, sample, text};

    #[test]
    fn old_and_new_gh_find_the_token_of_each_host() {
        insta::assert_snapshot!(sample(&GhHosts, &["github.com", "127.0.0.1:8080"]), @r#"
        6 gh/hosts.yml
        --- expiry known
        github.com:⏎
            oauth_token: ghs_1_aB.c-D⏎
            user: x-access-token⏎
            git_protocol: https⏎
            users:⏎
                x-access-token:⏎
                    oauth_token: ghs_1_aB.c-D⏎
        "127.0.0.1:8080":⏎
            oauth_token: ghs_1_aB.c-D⏎
            user: x-access-token⏎
            git_protocol: https⏎
            users:⏎
                x-access-token:⏎
                    oauth_token: ghs_1_aB.c-D⏎
        --- expiry unknown
        github.com:⏎
            oauth_token: ghs_1_aB.c-D⏎
            user: x-access-token⏎
            git_protocol: https⏎
            users:⏎
                x-access-token:⏎
                    oauth_token: ghs_1_aB.c-D⏎
        "127.0.0.1:8080":⏎
            oauth_token: ghs_1_aB.c-D⏎
            user: x-access-token⏎
            git_protocol: https⏎
            users:⏎
                x-access-token:⏎
                    oauth_token: ghs_1_aB.c-D⏎
        "#);
    }

    #[test]
    fn what_could_be_read_as_something_else_is_quoted() {
        for (token, quoted) in [
            ("ghs_abc.DEF-1", false),
            ("null", true),
            ("12345", true),
            ("1_000", true),
            ("_", true),
            ("a_#", true),
            ("a_b:", true),
            ("a_\"b", true),
        ] {
            let text = text(&GhHosts, token);
            assert_eq!(text.contains("oauth_token: \""), quoted, "{text}");
        }
    }

    /// A string scalar in the two forms that occur, read strictly (YAML 1.2 §7.3).
    fn scalar(text: &str) -> Result<String, String> {
        let Some(quoted) = text.strip_prefix('"') else {
            let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
                && text.contains('_');
            return if plain { Ok(text.to_owned()) } else { Err(format!("not plain: {text}")) };
        };
        let mut read = String::new();
        let mut chars = quoted.chars();
        loop {
            match chars.next().ok_or("an open quote")? {
                '"' if chars.as_str().is_empty() => return Ok(read),
                '\\' => match chars.next() {
                    Some(escaped @ ('"' | '\\')) => read.push(escaped),
                    other => return Err(format!("unknown escape: {other:?}")),
                },
                '"' => return Err(format!("text after the quote: {text}")),
                other => read.push(other),
            }
        }
    }

    proptest! {
        #[test]
        fn any_token_is_read_back_as_it_was(token in any_token()) {
            let text = text(&GhHosts, &token);
            let tokens: Vec<_> =
                text.lines().filter_map(|l| l.trim_start().strip_prefix("oauth_token: ")).collect();
            prop_assert_eq!(tokens.len(), 2);
            for read in tokens {
                prop_assert_eq!(scalar(read).map_err(TestCaseError::fail)?, &*token);
            }
        }
    }
}
