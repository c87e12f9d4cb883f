//! What GitHub says in the body of an answer.

use serde::Deserialize;

/// The longest message that is repeated, in characters.
const MOST_CHARACTERS: usize = 300;
/// A word that is longer may be a token, or a claim that a server sent back.
const LONGEST_WORD: usize = 39;

/// The message of a refusal, in one line and without anything that may be a secret.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let Ok(Refusal { message }) = serde_json::from_slice(body) else {
        return "no reason".to_owned();
    };
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut shown = String::new();
    for word in message.split_inclusive(|c: char| !is_part(c)).take(MOST_CHARACTERS) {
        if word.len() > LONGEST_WORD {
            shown.push('…');
        } else {
            shown.extend(word.chars().map(|c| if c.is_control() { ' ' } else { c }));
        }
    }
    shown.chars().take(MOST_CHARACTERS).collect()
}

/// The number of an installation.
pub(super) fn installation(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Installation {
        id: u64,
    }
    let Installation { id } = serde_json::from_slice(body).ok()?;
    (id != 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> String {
        super::message(serde_json::json!({ "message": message }).to_string().as_bytes())
    }

    #[test]
    fn a_message_is_repeated_without_what_may_be_a_secret() {
        let plain = "The permissions requested are not granted to this installation.";
        assert_eq!(said(plain), plain);
        assert_eq!(said("a\nb\u{1b}[31m"), "a b [31m");
        let token = format!("ghs_{}", "a".repeat(36));
        assert_eq!(said(&format!("no {token} here: '{token}'.")), "no …here: '….");
        assert_eq!(said("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0.c2ln_c2ln-c2ln"), "…");
        assert_eq!(said(&"word ".repeat(100)).chars().count(), MOST_CHARACTERS);
        for body in ["", "<html>", "[]", "{\"message\":7}"] {
            assert_eq!(message(body.as_bytes()), "no reason");
        }
    }

    #[test]
    fn an_installation_has_a_number() {
        assert_eq!(installation(br#"{"id":17,"account":{}}"#), Some(17));
        for body in ["{}", "{\"id\":0}", "{\"id\":\"17\"}", "{\"id\":-1}"] {
            assert_eq!(installation(body.as_bytes()), None);
        }
    }
}
