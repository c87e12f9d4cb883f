//! `env`: an assignment, for `source env`, systemd's `EnvironmentFile=` and the like.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::escape::push_quoted_with;
use crate::view::{View, ViewContext};

/// See the module.
pub struct Env;

impl View for Env {
    fn id(&self) -> u8 {
        8
    }

    fn path(&self) -> &'static str {
        "env"
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_str("GH_TOKEN=");
        let token = token.secret.expose();
        if token.iter().copied().all(is_plain) {
            out.push(token);
        } else {
            // The four that a shell (POSIX, 2.2.3) and systemd unescape alike between quotes.
            push_quoted_with(out, token, b"\"\\$`");
        }
        out.push_str("\n");
    }
}

/// Without a meaning to any shell: readers that know no quotes, as `docker --env-file`, get such
/// tokens right, and all that issuers give are such.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.+/=:@%,".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::testing::{any_token, sample, text};

    #[test]
    fn it_is_one_assignment() {
        insta::assert_snapshot!(sample(&Env, &["github.com"]), @r"
        8 env
        --- expiry known
        GH_TOKEN=ghs_1_aB.c-D⏎
        --- expiry unknown
        GH_TOKEN=ghs_1_aB.c-D⏎
        ");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_shell_reads_any_token_back_as_it_was(token in any_token()) {
            let script = format!("{}printf %s \"$GH_TOKEN\"", text(&Env, &token));
            let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output()?;
            prop_assert!(output.stderr.is_empty(), "{:?}", output);
            prop_assert_eq!(String::from_utf8_lossy(&output.stdout), token);
        }
    }
}
