//! The one holder of token bytes.
//!
//! Besides a [`Secret`] only two places hold them: the slots of the shared state and a rendered
//! view on its way out. Both are wiped after use.

use std::fmt;
use std::sync::Arc;

use zeroize::{Zeroize, Zeroizing};

pub mod wiping;

/// The longest token that is accepted, in bytes.
///
/// GitHub's installation tokens have about 40 or 520 bytes; they are opaque, so the limit is only
/// there to bound memory.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Why bytes are not a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There are no bytes at all.
    #[error("the token is empty")]
    Empty,
    /// More than [`MAX_SECRET_BYTES`].
    #[error("the token is longer than {MAX_SECRET_BYTES} bytes")]
    TooLong,
    /// A byte outside `!`…`~`: a newline or NUL would break a header, a credential line or a C
    /// string, and no issuer uses them (RFC 6750 §2.1 allows fewer).
    #[error("the token holds a byte that no token may hold (0x{byte:02x} at offset {offset})")]
    BadByte {
        /// The offending byte; it is a control character, a space or not ASCII.
        byte: u8,
        /// Its place, counted from 0.
        offset: usize,
    },
}

/// Token bytes: printable ASCII, never empty, wiped when the last clone is dropped.
///
/// `Debug` and `Display` print a mask; [`Secret::expose`] is the one way out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<Zeroizing<Box<[u8]>>>);

impl Secret {
    /// Takes the bytes of a token as an issuer sent them.
    ///
    /// # Errors
    /// [`SecretError`] when the bytes cannot be a token. The bytes are wiped then, too.
    pub fn new(bytes: Vec<u8>) -> Result<Self, SecretError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.is_empty() {
            return Err(SecretError::Empty);
        }
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(SecretError::TooLong);
        }
        if let Some((offset, &byte)) =
            bytes.iter().enumerate().find(|&(_, b)| !b.is_ascii_graphic())
        {
            return Err(SecretError::BadByte { byte, offset });
        }
        Ok(Self(Arc::new(Zeroizing::new(bytes.as_slice().into()))))
    }

    /// The bytes themselves. Every caller is a place where a token leaves its holder.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text; a token is ASCII.
    #[must_use]
    pub fn expose_str(&self) -> &str {
        std::str::from_utf8(self.expose()).unwrap_or_default()
    }

    /// What logs, status and audit show instead of the token.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.expose())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The first 8 hexadecimal digits of the SHA-256 of a token: enough to tell tokens apart, useless
/// to anybody who wants one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 4]);

impl Fingerprint {
    /// The fingerprint of token bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut first = [0; 4];
        for (to, from) in first.iter_mut().zip(digest.as_ref()) {
            *to = *from;
        }
        Self(first)
    }

    /// Reads exactly 8 hexadecimal digits, in either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 8 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u32::from_str_radix(text, 16).ok().map(|n| Self(n.to_be_bytes()))
    }

    /// As a number, for the shared state.
    #[must_use]
    pub fn to_u32(self) -> u32 {
        u32::from_be_bytes(self.0)
    }

    /// From a number made by [`Fingerprint::to_u32`].
    #[must_use]
    pub fn from_u32(n: u32) -> Self {
        Self(n.to_be_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.to_u32())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A buffer for rendered bytes that hold a token: wiped when dropped, and never grown in place
/// without wiping (a reallocation would leave a copy behind).
#[derive(Default)]
pub struct Rendered(Vec<u8>);

impl Rendered {
    /// An empty buffer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.0.capacity() - self.0.len() < bytes.len() {
            let mut larger = Vec::with_capacity((self.0.len() + bytes.len()).next_power_of_two());
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    /// Appends text.
    pub fn push_str(&mut self, text: &str) {
        self.push(text.as_bytes());
    }

    /// Appends a token: the sanctioned way from a [`Secret`] into a view.
    pub fn push_secret(&mut self, secret: &Secret) {
        self.push(secret.expose());
    }

    /// The bytes rendered so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Rendered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rendered({} bytes)", self.0.len())
    }
}

impl Drop for Rendered {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_printable_ascii_and_nothing_else() {
        assert!(Secret::new(b"ghs_abc.def-123".to_vec()).is_ok());
        assert_eq!(Secret::new(Vec::new()).unwrap_err(), SecretError::Empty);
        assert_eq!(
            Secret::new(vec![b'a'; MAX_SECRET_BYTES + 1]).unwrap_err(),
            SecretError::TooLong
        );
        for bad in [b"ghs_a\n".as_slice(), b"ghs\0a", b"a b", b"a\r", "ghs_ü".as_bytes()] {
            assert!(
                matches!(Secret::new(bad.to_vec()), Err(SecretError::BadByte { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn neither_debug_nor_display_shows_the_bytes() {
        let secret = Secret::new(b"ghs_canary".to_vec()).unwrap();
        assert!(!format!("{secret:?} {secret} {:?}", secret.fingerprint()).contains("canary"));
        let mut rendered = Rendered::default();
        rendered.push_secret(&secret);
        assert!(!format!("{rendered:?}").contains("canary"));
    }

    #[test]
    fn a_fingerprint_is_the_start_of_the_sha_256() {
        // printf abc | sha256sum
        assert_eq!(Fingerprint::of(b"abc").to_string(), "ba7816bf");
        assert_eq!(Fingerprint::parse("BA7816bf"), Some(Fingerprint::of(b"abc")));
        for bad in ["", "ba7816b", "ba7816bf0", "ba7816bg", "+a7816bf"] {
            assert_eq!(Fingerprint::parse(bad), None, "{bad}");
        }
        assert_eq!(
            Fingerprint::from_u32(Fingerprint::of(b"abc").to_u32()),
            Fingerprint::of(b"abc")
        );
    }

    #[test]
    fn a_rendered_view_grows_and_keeps_its_bytes() {
        let mut rendered = Rendered::with_capacity(1);
        for _ in 0..100 {
            rendered.push_str("0123456789");
        }
        assert_eq!(rendered.as_bytes(), "0123456789".repeat(100).as_bytes());
    }
}
