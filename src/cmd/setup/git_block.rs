//! The lines of ours in a git configuration file (`git-config(1)`, SYNTAX): a block at its end.
//!
//! A block of its own, and not lines among the user's, so that undoing gives back every byte, and at
//! the end, so that its empty `helper =` resets every helper that stands before it. git itself may
//! put lines of the user's into it later (`git config` adds to the last section of a name): those
//! stay when the block goes.

/// Opens the block; how to undo it follows.
const BEGIN: &[u8] = b"# molecule-tokenfs: begin";
/// The same in a file that held nothing else.
const BEGIN_OWN: &[u8] = b"# molecule-tokenfs: begin, file made by setup";
/// Closes the block.
const END: &[u8] = b"# molecule-tokenfs: end";
/// Ends each line that setup wrote, so that undo finds it whatever the program is called.
const MARK: &[u8] = b" # molecule-tokenfs";

/// A file without our block.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Stripped {
    /// What is left: every byte of the user's.
    pub rest: Vec<u8>,
    /// Whether there was a block.
    pub found: bool,
    /// Whether setup made the file.
    pub made_by_setup: bool,
    /// The URLs whose credentials the block took care of.
    pub urls: Vec<String>,
}

/// Takes our block out of a file.
pub fn strip(text: &[u8]) -> Stripped {
    let mut stripped = Stripped::default();
    let mut inside = false;
    let mut header: Option<&[u8]> = None;
    let mut lines = text.split_inclusive(|&byte| byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let trimmed = line.trim_ascii();
        if trimmed.starts_with(BEGIN) {
            inside = true;
            stripped.found = true;
            stripped.made_by_setup |= trimmed.starts_with(BEGIN_OWN);
        } else if trimmed == END {
            inside = false;
        } else if !inside {
            stripped.rest.extend_from_slice(line);
        } else if trimmed.starts_with(b"[") {
            header = Some(line);
            stripped.urls.extend(url_of(trimmed));
        } else if !is_ours(trimmed, lines.peek().map(|next| next.trim_ascii())) {
            stripped.rest.extend_from_slice(header.take().unwrap_or_default());
            stripped.rest.extend_from_slice(line);
        }
    }
    stripped
}

/// The URL in `[credential "URL"]`.
fn url_of(header: &[u8]) -> Option<String> {
    let url = header.strip_prefix(b"[credential \"")?.strip_suffix(b"\"]")?;
    String::from_utf8(url.to_vec()).ok()
}

/// Whether setup wrote this line of the block. Older versions left no mark: there, an empty `helper =`
/// is ours only if our helper follows, because the user may have added one to the block.
fn is_ours(line: &[u8], next: Option<&[u8]>) -> bool {
    match line {
        line if line.ends_with(MARK) => true,
        b"cachecredentials = false" => true,
        b"helper =" => next.is_some_and(is_our_helper),
        line => is_our_helper(line),
    }
}

fn is_our_helper(line: &[u8]) -> bool {
    let contains = |part: &[u8]| line.windows(part.len()).any(|window| window == part);
    line.starts_with(b"helper = ") && contains(b"git-credential") && contains(b"molecule")
}

/// Puts `entries`, sections as git writes them, as our block at the end of a file without one.
///
/// `made_by_setup`: the file was not there. `undo` are the flags with which `setup git --undo` finds it
/// again, each with a blank before it.
pub fn append(rest: &[u8], entries: &[u8], made_by_setup: bool, undo: &str) -> Vec<u8> {
    let mut text = rest.to_vec();
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(if made_by_setup { BEGIN_OWN } else { BEGIN });
    // A comment has one line.
    let undo = if undo.contains(char::is_control) { "" } else { undo };
    text.extend_from_slice(
        format!(" (undo: molecule-tokenfs setup git --undo{undo})\n").as_bytes(),
    );
    for line in entries.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_suffix(b"\n") {
            Some(entry) if !line.starts_with(b"[") => {
                text.extend_from_slice(entry.trim_ascii_end());
                text.extend_from_slice(MARK);
                text.push(b'\n');
            }
            _ => text.extend_from_slice(line),
        }
    }
    text.extend_from_slice(END);
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &[u8] = b"[user]\n\tname = me ; yes\n[credential]\n\thelper = store\n";
    const ENTRIES: &[u8] = b"[credential \"https://github.com\"]\n\thelper = \n\thelper = \
        /usr/bin/molecule-tokenfs git-credential\n[lfs]\n\tcachecredentials = false\n";

    #[test]
    fn stripping_gives_back_every_byte_that_was_there() {
        for users in [USERS, b"", b"\n\n", b"# \xff\n"] {
            let stripped = strip(&append(users, ENTRIES, false, ""));
            assert_eq!(stripped.rest, users);
            assert!(stripped.found && !stripped.made_by_setup);
            assert_eq!(stripped.urls, ["https://github.com"]);
        }
        let untouched = strip(USERS);
        assert!(!untouched.found);
        assert_eq!(untouched.rest, USERS);
        assert!(strip(&append(b"", ENTRIES, true, " --file /etc/x")).made_by_setup);
    }

    #[test]
    fn the_block_says_how_to_undo_it_in_one_line() {
        let text = append(b"", ENTRIES, true, " --file '/etc/my git'");
        let begin =
            b"# molecule-tokenfs: begin, file made by setup (undo: molecule-tokenfs setup git \
            --undo --file '/etc/my git')\n";
        assert!(text.starts_with(begin), "{}", String::from_utf8_lossy(&text));
        let text = append(USERS, ENTRIES, false, " --file 'a\nb'");
        assert_eq!(strip(&text).rest, USERS, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn a_last_line_without_an_end_gets_one() {
        assert_eq!(strip(&append(b"[a]\n\tb = 1", ENTRIES, false, "")).rest, b"[a]\n\tb = 1\n");
    }

    #[test]
    fn lines_of_the_users_within_the_block_stay_with_their_section() {
        let text = String::from_utf8(append(USERS, ENTRIES, false, "")).unwrap();
        let after =
            |line: &str, added: &str| (format!("{line} # molecule-tokenfs\n"), added.to_owned());
        let text = [
            after("git-credential", "\tusername = me\n\thelper = \n\thelper = foo\n"),
            after("= false", "\tlocksverify = true\n"),
        ]
        .into_iter()
        .fold(text, |text, (line, added)| text.replace(&line, &(line.clone() + &added)));
        let expected = [
            USERS,
            b"[credential \"https://github.com\"]\n\tusername = me\n\thelper = \n\thelper = foo\n",
            b"[lfs]\n\tlocksverify = true\n",
        ]
        .concat();
        assert_eq!(strip(text.as_bytes()).rest, expected);
    }

    #[test]
    fn a_block_is_found_whatever_program_wrote_it() {
        let helper = "helper = /opt/mtfs git-credential --host ghe.example.com";
        let entries =
            format!("[credential \"https://ghe.example.com\"]\n\thelper = \n\t{helper}\n");
        assert_eq!(strip(&append(USERS, entries.as_bytes(), false, "")).rest, USERS);
    }

    #[test]
    fn a_block_of_an_older_version_is_found() {
        let text = [USERS, BEGIN, b"\n", ENTRIES, END, b"\n"].concat();
        assert_eq!(strip(&text).rest, USERS);
    }

    #[test]
    fn what_the_user_wrote_after_the_block_stays() {
        let mut text = append(USERS, ENTRIES, false, "");
        text.extend_from_slice(b"[alias]\n\tst = status\n");
        assert_eq!(strip(&text).rest, [USERS, b"[alias]\n\tst = status\n"].concat());
    }
}
