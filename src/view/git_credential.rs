//! `git-credential`: what a credential helper answers to `get` (`git-credential(1)`).
//!
//! Never with `continue=1`, which would make git ≥ 2.46 ask a `cat` for ever, and never with
//! `authtype` or `ephemeral`, which older versions take amiss.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::{View, ViewContext};

/// See the module.
pub struct GitCredential;

impl View for GitCredential {
    fn id(&self) -> u8 {
        1
    }

    fn path(&self) -> &'static str {
        "git-credential"
    }

    /// git asks once per command and may send the token minutes later, after a hook.
    fn is_held(&self) -> bool {
        true
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_str("username=x-access-token\npassword=");
        out.push_secret(&token.secret);
        out.push_str("\n");
        if let Some(expiry) = token.expires_at {
            out.push_str(&format!("password_expiry_utc={}\n", expiry.as_second()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::sample;

    #[test]
    fn it_is_an_answer_to_get_that_every_git_understands() {
        insta::assert_snapshot!(sample(&GitCredential, &["github.com"]), @r"
        1 git-credential
        --- expiry known
        username=x-access-token⏎
        password=ghs_1_aB.c-D⏎
        password_expiry_utc=1776466200⏎
        --- expiry unknown
        username=x-access-token⏎
        password=ghs_1_aB.c-D⏎
        ");
    }
}
