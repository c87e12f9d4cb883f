//! Searching output for tokens, in each form in which one could slip out.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A part of a token as long as this is a leak as well.
const PART: usize = 12;

/// Secrets to look for in many texts, each of which is gone through once.
///
/// Looked for are: any [`PART`] bytes of a secret in a row, in either case; their hexadecimal form;
/// the numbers of a byte array as `Debug` prints it; base64 at each of the three alignments.
pub struct Search(Vec<Form>);

/// One form of all secrets, cut into parts of one length.
struct Form {
    name: &'static str,
    length: usize,
    any_case: bool,
    /// Whose part it is.
    parts: HashMap<Vec<u8>, usize>,
    /// Whether a part begins with these two bytes: most of a text is passed over by it.
    begins: Vec<bool>,
}

impl Form {
    fn new(name: &'static str, length: usize, any_case: bool) -> Self {
        let begins = vec![false; 1 << 16];
        Self { name, length, any_case, parts: HashMap::new(), begins }
    }

    fn add(&mut self, secret: usize, part: &[u8]) {
        let mut part = part.iter().copied().take(self.length).collect::<Vec<_>>();
        if self.any_case {
            part.make_ascii_lowercase();
        }
        if let Some(begins) = self.begins.get_mut(beginning(&part)) {
            *begins = true;
        }
        self.parts.insert(part, secret);
    }

    fn first_in(&self, text: &[u8], lower: &[u8]) -> Option<usize> {
        let text = if self.any_case { lower } else { text };
        text.windows(self.length)
            .filter(|part| self.begins.get(beginning(part)) == Some(&true))
            .find_map(|part| self.parts.get(part).copied())
    }
}

fn beginning(part: &[u8]) -> usize {
    part.first_chunk().map_or(0, |begin| usize::from(u16::from_be_bytes(*begin)))
}

impl Search {
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut plain = Form::new("plain", PART, true);
        let mut hexadecimal = Form::new("hexadecimal", 2 * PART, true);
        // As many characters as the shortest numbers of so many letters and digits have.
        let mut numbers = Form::new("numbers", 4 * PART - 2, true);
        let mut base64 = Form::new("base64", 16, false);
        for (number, secret) in secrets.into_iter().enumerate() {
            assert!(secret.len() >= 2 * PART, "too short for a canary");
            for part in secret.as_bytes().windows(PART) {
                plain.add(number, part);
                hexadecimal.add(number, hex(part).as_bytes());
                let list = part.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
                numbers.add(number, list.as_bytes());
            }
            for skip in 0..3 {
                // Whole groups of three bytes: the rest is mixed with what stands around the secret.
                let (groups, _) = secret.as_bytes().split_at(skip).1.as_chunks::<3>();
                let whole = groups.as_flattened();
                for encoded in [STANDARD_NO_PAD.encode(whole), URL_SAFE_NO_PAD.encode(whole)] {
                    for part in encoded.as_bytes().chunks_exact(16) {
                        base64.add(number, part);
                    }
                }
            }
        }
        Self(vec![plain, hexadecimal, numbers, base64])
    }

    /// The number of a secret that is in the text, and its form there.
    pub fn first_in(&self, text: &[u8]) -> Option<(usize, &'static str)> {
        let lower = text.to_ascii_lowercase();
        self.0.iter().find_map(|form| Some((form.first_in(text, &lower)?, form.name)))
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Panics when one of the secrets is in one of the texts; it names the text, and does not repeat
/// the secret.
#[track_caller]
pub fn assert_none(secrets: &[&str], texts: &[(&str, &[u8])]) {
    let search = Search::new(secrets.iter().copied());
    for (name, text) in texts {
        if let Some((number, form)) = search.first_in(text) {
            panic!("{name} holds secret number {number} ({form})");
        }
    }
}
