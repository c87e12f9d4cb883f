//! `exec-credential.json`: what a Kubernetes client gets from its `exec: cat …`
//! (`ExecCredential`, `client.authentication.k8s.io/v1`).

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::escape::push_quoted;
use crate::view::{View, ViewContext};

/// See the module.
pub struct ExecCredential;

impl View for ExecCredential {
    fn id(&self) -> u8 {
        9
    }

    fn path(&self) -> &'static str {
        "exec-credential.json"
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_str(r#"{"apiVersion":"client.authentication.k8s.io/v1","#);
        out.push_str(r#""kind":"ExecCredential","status":{"token":"#);
        push_quoted(out, token.secret.expose());
        if let Some(expiry) = token.expires_at {
            out.push_str(&format!(r#","expirationTimestamp":"{expiry:.0}""#));
        }
        out.push_str("}}\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::view::testing::{any_token, sample, text};

    #[test]
    fn it_is_an_exec_credential_of_version_1() {
        insta::assert_snapshot!(sample(&ExecCredential, &["github.com"]), @r#"
        9 exec-credential.json
        --- expiry known
        {"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"ghs_1_aB.c-D","expirationTimestamp":"2026-04-17T22:50:00Z"}}⏎
        --- expiry unknown
        {"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"ghs_1_aB.c-D"}}⏎
        "#);
    }

    proptest! {
        #[test]
        fn any_token_is_read_back_as_it_was(token in any_token()) {
            let read: serde_json::Value = serde_json::from_str(&text(&ExecCredential, &token))?;
            prop_assert_eq!(read, json!({
                "apiVersion": "client.authentication.k8s.io/v1",
                "kind": "ExecCredential",
                "status": { "token": token, "expirationTimestamp": "2026-04-17T22:50:00Z" },
            }));
        }
    }
}
