//! `token.json`: the token as an OAuth 2.0 answer has it (RFC 6749 §5.1), with the expiry as a
//! moment. There is no `expires_in`: a relative time in a file that does not change is a lie.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::escape::push_quoted;
use crate::view::{View, ViewContext};

/// See the module.
pub struct TokenJson;

impl View for TokenJson {
    fn id(&self) -> u8 {
        4
    }

    fn path(&self) -> &'static str {
        "token.json"
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_str(r#"{"access_token":"#);
        push_quoted(out, token.secret.expose());
        out.push_str(r#","token_type":"Bearer""#);
        if let Some(expiry) = token.expires_at {
            out.push_str(&format!(r#","expires_at":"{expiry:.0}""#));
        }
        out.push_str("}\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::view::testing::{any_token, sample, text};

    #[test]
    fn it_is_one_json_object_without_a_relative_time() {
        insta::assert_snapshot!(sample(&TokenJson, &["github.com"]), @r#"
        4 token.json
        --- expiry known
        {"access_token":"ghs_1_aB.c-D","token_type":"Bearer","expires_at":"2026-04-17T22:50:00Z"}⏎
        --- expiry unknown
        {"access_token":"ghs_1_aB.c-D","token_type":"Bearer"}⏎
        "#);
    }

    proptest! {
        #[test]
        fn any_token_is_read_back_as_it_was(token in any_token()) {
            let read: serde_json::Value = serde_json::from_str(&text(&TokenJson, &token))?;
            prop_assert_eq!(read, json!({
                "access_token": token,
                "token_type": "Bearer",
                "expires_at": "2026-04-17T22:50:00Z",
            }));
        }
    }
}
