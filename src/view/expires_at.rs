//! `expires_at`: when this generation of the token expires, in local wall time (RFC 3339); an empty
//! line when nobody knows.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::{View, ViewContext};

/// See the module.
pub struct ExpiresAt;

impl View for ExpiresAt {
    fn id(&self) -> u8 {
        5
    }

    fn path(&self) -> &'static str {
        "expires_at"
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        if let Some(expiry) = token.expires_at {
            out.push_str(&format!("{expiry:.0}"));
        }
        out.push_str("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::sample;

    #[test]
    fn it_is_a_moment_or_an_empty_line() {
        insta::assert_snapshot!(sample(&ExpiresAt, &["github.com"]), @r"
        5 expires_at
        --- expiry known
        2026-04-17T22:50:00Z⏎
        --- expiry unknown
        ⏎
        ");
    }
}
