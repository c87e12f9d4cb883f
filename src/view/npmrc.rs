//! `npmrc`: what npm, pnpm and yarn 1 send to a registry (`npmrc(5)`): a line for the npm registry of
//! each host. GitHub's is `npm.pkg.github.com`; that of an Enterprise host is its subdomain `npm.`.
//!
//! The lines are bound to a registry; none holds for all, which would hand the token to anybody.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::escape::push_quoted;
use crate::view::{View, ViewContext};

/// See the module.
pub struct Npmrc;

impl View for Npmrc {
    fn id(&self) -> u8 {
        10
    }

    fn path(&self) -> &'static str {
        "npmrc"
    }

    /// They read it at their start and may send the token minutes later, when an install has come
    /// that far.
    fn is_held(&self) -> bool {
        true
    }

    fn render(&self, token: &Published, context: &ViewContext, out: &mut Rendered) {
        for host in &context.hosts {
            out.push_str("//");
            out.push_str(&registry(host));
            out.push_str("/:_authToken=");
            push_value(out, token.secret.expose());
            out.push_str("\n");
        }
    }
}

/// The host of the npm registry, with the port of the host where it has one.
fn registry(host: &str) -> String {
    let parent = if host == "github.com" { "pkg.github.com" } else { host };
    format!("npm.{parent}")
}

/// Plain where that has one reading, as each token of an issuer has; else as JSON between quotes.
///
/// Nothing helps a token that is `true`, `false` or `null`, or holds `${NAME}`: between quotes, too,
/// the former are no text, and the latter is a variable, which npm and yarn escape differently.
fn push_value(out: &mut Rendered, token: &[u8]) {
    if token.iter().copied().all(is_plain) {
        out.push(token);
    } else {
        push_quoted(out, token);
    }
}

/// Neither a comment sign, a quote nor a backslash, nor anything that another reader may take for
/// one.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.+/=:@%,".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::testing::{any_token, sample, text};

    #[test]
    fn it_has_a_line_for_the_registry_of_each_host() {
        insta::assert_snapshot!(sample(&Npmrc, &["github.com", "ghe.test", "git.test:8443"]), @r"
        10 npmrc
        --- expiry known
        //npm.pkg.github.com/:_authToken=ghs_1_aB.c-D⏎
        //npm.ghe.test/:_authToken=ghs_1_aB.c-D⏎
        //npm.git.test:8443/:_authToken=ghs_1_aB.c-D⏎
        --- expiry unknown
        //npm.pkg.github.com/:_authToken=ghs_1_aB.c-D⏎
        //npm.ghe.test/:_authToken=ghs_1_aB.c-D⏎
        //npm.git.test:8443/:_authToken=ghs_1_aB.c-D⏎
        ");
    }

    #[test]
    fn only_github_com_has_its_registry_under_another_name() {
        for (host, expected) in [
            ("github.com", "npm.pkg.github.com"),
            ("acme.ghe.com", "npm.acme.ghe.com"),
            ("ghe.test:8443", "npm.ghe.test:8443"),
            ("my.github.com", "npm.my.github.com"),
        ] {
            assert_eq!(registry(host), expected);
        }
    }

    /// A value as the package `ini` reads it, which npm, pnpm and yarn 1 share: JSON between double
    /// quotes; else a comment sign ends it, and a backslash takes the sign's meaning.
    fn value(text: &str) -> Result<String, String> {
        if text.starts_with('"') && text.ends_with('"') {
            return serde_json::from_str(text).map_err(|error| format!("{error}: {text}"));
        }
        if text.starts_with('\'') && text.ends_with('\'') {
            return Err(format!("between single quotes: {text}"));
        }
        let mut value = String::new();
        let mut chars = text.chars();
        while let Some(next) = chars.next() {
            match next {
                ';' | '#' => break,
                '\\' => match chars.next() {
                    Some(sign @ ('\\' | ';' | '#')) => value.push(sign),
                    other => value.extend(Some('\\').into_iter().chain(other)),
                },
                _ => value.push(next),
            }
        }
        Ok(value)
    }

    proptest! {
        #[test]
        fn any_token_is_read_back_as_it_was(token in any_token()) {
            for line in text(&Npmrc, &token).lines() {
                let (key, text) = line.split_once('=').unwrap();
                prop_assert_eq!(key, "//npm.pkg.github.com/:_authToken");
                prop_assert_eq!(value(text).map_err(TestCaseError::fail)?, &*token);
            }
        }
    }
}
