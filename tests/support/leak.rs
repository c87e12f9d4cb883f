//! Searching output for a token, in each form in which one could slip out.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A part of a token as long as this is a leak as well.
const PART: usize = 12;

/// The form in which a secret stands in a text; `None` where it does not.
///
/// Looked for are: any [`PART`] bytes of it in a row, in either case; their hexadecimal form; the
/// numbers of a byte array as `Debug` prints it; base64 at each of the three alignments.
pub fn find(secret: &str, text: &[u8]) -> Option<&'static str> {
    assert!(secret.len() >= 2 * PART, "too short for a canary");
    let text = String::from_utf8_lossy(text);
    let lower = text.to_ascii_lowercase();
    for part in secret.as_bytes().windows(PART) {
        let plain = String::from_utf8_lossy(part).to_ascii_lowercase();
        let hex = hex(part);
        let numbers = part.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        if lower.contains(&plain) {
            return Some("plain");
        } else if lower.contains(&hex) {
            return Some("hexadecimal");
        } else if text.contains(&numbers) {
            return Some("numbers");
        }
    }
    for skip in 0..3 {
        // Whole groups of three bytes: the rest is mixed with what stands around the secret.
        let (groups, _) = secret.as_bytes().split_at(skip).1.as_chunks::<3>();
        let whole = groups.as_flattened();
        for encoded in [STANDARD_NO_PAD.encode(whole), URL_SAFE_NO_PAD.encode(whole)] {
            let parts = encoded.as_bytes().chunks_exact(16);
            if parts.map(String::from_utf8_lossy).any(|part| text.contains(&*part)) {
                return Some("base64");
            }
        }
    }
    None
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Panics when one of the secrets is in one of the texts; it names the text, and does not repeat
/// the secret.
#[track_caller]
pub fn assert_none(secrets: &[&str], texts: &[(&str, &[u8])]) {
    for (name, text) in texts {
        for (number, secret) in secrets.iter().enumerate() {
            if let Some(form) = find(secret, text) {
                panic!("{name} holds secret number {number} ({form})");
            }
        }
    }
}
