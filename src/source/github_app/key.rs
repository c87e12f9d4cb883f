//! The private key of a GitHub App, and what is signed with it.

use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use crate::secret::Secret;

/// GitHub refuses a claim that begins in its future, so it begins a little in our past.
const BACKDATED: Duration = Duration::from_mins(1);
/// GitHub takes at most ten minutes; its clock may be behind ours.
const LIFE: Duration = Duration::from_mins(9);

/// Why a file is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing in it begins as a PEM file does.
    #[error("it holds no private key in PEM form (no line -----BEGIN … PRIVATE KEY-----)")]
    NoPem,
    /// It wants a passphrase.
    #[error("line {line}: the key is encrypted with a passphrase")]
    Encrypted {
        /// The line, counted from 1.
        line: usize,
    },
    /// It is of another kind.
    #[error("line {line}: it is {what}, and GitHub Apps have an RSA private key")]
    Kind {
        /// The line, counted from 1.
        line: usize,
        /// What it is.
        what: &'static str,
    },
    /// It is cut, or was changed.
    #[error("line {line}: the key that begins there is damaged ({why})")]
    Damaged {
        /// The line, counted from 1.
        line: usize,
        /// The library's word for it.
        why: String,
    },
}

/// A private key.
#[derive(Debug)]
pub struct Key(KeyPair);

/// What a file in PEM form can hold, by the label of its first line.
const KINDS: [(&str, &str); 6] = [
    ("EC PRIVATE KEY", "an EC key"),
    ("DSA PRIVATE KEY", "a DSA key"),
    ("OPENSSH PRIVATE KEY", "an OpenSSH key"),
    ("PUBLIC KEY", "a public key"),
    ("RSA PUBLIC KEY", "a public key"),
    ("CERTIFICATE", "a certificate"),
];

impl Key {
    /// Reads a key: PKCS#1 (`BEGIN RSA PRIVATE KEY`, as GitHub gives it) or PKCS#8 (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// [`KeyError`]; it never holds a byte of the key.
    pub fn parse(pem: &[u8]) -> Result<Self, KeyError> {
        let text = String::from_utf8_lossy(pem);
        let mut begins = text.lines().enumerate().filter_map(|(number, line)| {
            let label = line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----")?;
            Some((number + 1, label))
        });
        let (line, label) = begins.next().ok_or(KeyError::NoPem)?;
        if label == "ENCRYPTED PRIVATE KEY" || text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(KeyError::Encrypted { line });
        }
        if let Some((_, what)) = KINDS.iter().find(|(kind, _)| *kind == label) {
            return Err(KeyError::Kind { line, what });
        }
        let damaged = |why: String| KeyError::Damaged { line, why };
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            // Its `Debug` alone can hold bytes of the file.
            rustls_pki_types::pem::Error::MissingSectionEnd { .. } => {
                damaged("its end is missing".into())
            }
            rustls_pki_types::pem::Error::NoItemsFound => KeyError::NoPem,
            _ => damaged("it is not base64".into()),
        })?;
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
            _ => return Err(KeyError::Kind { line, what: "another key" }),
        };
        pair.map(Self).map_err(|rejected| match rejected.to_string().as_str() {
            "WrongAlgorithm" => KeyError::Kind { line, what: "a key of another algorithm" },
            why => damaged(why.to_owned()),
        })
    }

    /// What the App shows to GitHub: a JWT (RFC 7519) with RS256 (RFC 7518 §3.3), as of `now` since the
    /// Unix epoch.
    ///
    /// # Errors
    /// Where the library fails, which has no memory or no randomness then.
    pub fn claim(&self, issuer: &str, now: Duration) -> Result<Secret, &'static str> {
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let claims = json!({
            "iat": now.saturating_sub(BACKDATED).as_secs(),
            "exp": now.saturating_add(LIFE).as_secs(),
            "iss": issuer,
        });
        let head = encode(&json!({ "alg": "RS256", "typ": "JWT" }));
        let signed = format!("{head}.{}", encode(&claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| "it cannot be signed with")?;
        let claim = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&signature));
        Secret::new(claim.into_bytes()).map_err(|_| "it is too long")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    fn pem(label: &str, der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
    }

    /// A key of its own, as it stands in a file.
    pub(in super::super) fn any() -> String {
        pem("PRIVATE KEY", &pkcs8().1)
    }

    fn pkcs8() -> (KeyPair, Vec<u8>) {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let der = der.as_ref().to_vec();
        (pair, der)
    }

    #[test]
    fn a_claim_is_signed_and_says_who_and_for_how_long() {
        let (pair, der) = pkcs8();
        let key =
            Key::parse(format!("a comment\n{}", pem("PRIVATE KEY", &der)).as_bytes()).unwrap();
        let claim = key.claim("Iv23liABC", Duration::from_secs(1_000_000)).unwrap();
        let parts: Vec<_> = claim.expose_str().split('.').collect();
        let [head, body, signature] = parts.as_slice() else { panic!("three parts") };
        let json = |part: &str| {
            serde_json::from_slice::<serde_json::Value>(&URL_SAFE_NO_PAD.decode(part).unwrap())
                .unwrap()
        };
        assert_eq!(json(head), json!({ "alg": "RS256", "typ": "JWT" }));
        let claims = json!({ "iat": 999_940, "exp": 1_000_540, "iss": "Iv23liABC" });
        assert_eq!(json(body), claims);
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref())
            .verify(
                format!("{head}.{body}").as_bytes(),
                &URL_SAFE_NO_PAD.decode(signature).unwrap(),
            )
            .unwrap();
    }

    #[test]
    fn what_is_no_key_is_named_with_its_line_and_without_a_byte_of_it() {
        let (_, der) = pkcs8();
        let whole = pem("PRIVATE KEY", &der);
        let cut = whole.lines().take(10).collect::<Vec<_>>().join("\n");
        let short = pem("PRIVATE KEY", &der[..der.len() / 2]);
        let spoilt = whole.replacen('\n', "\n!canary!\n", 1);
        for (text, told) in [
            (
                "canary",
                "it holds no private key in PEM form (no line -----BEGIN … PRIVATE KEY-----)",
            ),
            ("", "it holds no private key in PEM form (no line -----BEGIN … PRIVATE KEY-----)"),
            (
                "\n-----BEGIN ENCRYPTED PRIVATE KEY-----\nY2FuYXJ5\n-----END ENCRYPTED PRIVATE KEY-----",
                "line 2: the key is encrypted with a passphrase",
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB\n\nY2FuYXJ5\n-----END RSA PRIVATE KEY-----",
                "line 1: the key is encrypted with a passphrase",
            ),
            (
                "-----BEGIN EC PRIVATE KEY-----\nY2FuYXJ5\n-----END EC PRIVATE KEY-----",
                "line 1: it is an EC key, and GitHub Apps have an RSA private key",
            ),
            (&cut, "line 1: the key that begins there is damaged (its end is missing)"),
            (&spoilt, "line 1: the key that begins there is damaged (it is not base64)"),
        ] {
            let error = Key::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), told);
            assert!(!format!("{error:?}").contains("canary"));
        }
        let error = Key::parse(short.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("line 1: the key that begins there is damaged ("), "{error}");
    }
}
