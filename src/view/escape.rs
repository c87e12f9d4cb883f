//! Quoting, straight into the buffer that is wiped: no copy of a token is left behind.

use crate::secret::Rendered;

/// What has a meaning between double quotes in JSON (RFC 8259 §7), in YAML (1.2 §7.3.1) and in
/// netrc, where all else is printable ASCII.
const BETWEEN_QUOTES: &[u8] = b"\"\\";

/// Appends printable ASCII between double quotes, as JSON and YAML read it.
pub(super) fn push_quoted(out: &mut Rendered, text: &[u8]) {
    push_quoted_with(out, text, BETWEEN_QUOTES);
}

/// The same with a backslash before each byte of `special`.
pub(super) fn push_quoted_with(out: &mut Rendered, text: &[u8], special: &[u8]) {
    out.push(b"\"");
    for byte in text {
        if special.contains(byte) {
            out.push(b"\\");
        }
        out.push(std::slice::from_ref(byte));
    }
    out.push(b"\"");
}
