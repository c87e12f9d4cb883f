//! `netrc`: a machine entry for every name under which a host is looked up (`netrc(5)`); never a
//! `default`, which would hand the token to anybody.
//!
//! curl, git and Python look up the bare name, Go the name with its port: a host with a port gets
//! both. GitHub answers its API under `api.` and the name; an address and a name without a dot have
//! no such sibling.

use std::net::IpAddr;

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::escape::push_quoted;
use crate::view::{View, ViewContext};

/// See the module.
pub struct Netrc;

impl View for Netrc {
    fn id(&self) -> u8 {
        2
    }

    fn path(&self) -> &'static str {
        "netrc"
    }

    fn render(&self, token: &Published, context: &ViewContext, out: &mut Rendered) {
        for machine in machines(&context.hosts) {
            out.push_str("machine ");
            out.push_str(&machine);
            out.push_str(" login x-access-token password ");
            push_password(out, token.secret.expose());
            out.push_str("\n");
        }
    }
}

/// The names to look up, each once.
fn machines(hosts: &[String]) -> Vec<String> {
    let mut machines: Vec<String> = Vec::new();
    for host in hosts {
        let (name, port) = split_port(host);
        let mut names = vec![name.to_owned()];
        let is_address = name.parse::<IpAddr>().is_ok();
        if name.contains('.') && !is_address && !name.starts_with("api.") {
            names.push(format!("api.{name}"));
        }
        for name in names {
            let with_port = port.map(|port| {
                if name.contains(':') {
                    format!("[{name}]:{port}")
                } else {
                    format!("{name}:{port}")
                }
            });
            for machine in [Some(name), with_port].into_iter().flatten() {
                if !machines.contains(&machine) {
                    machines.push(machine);
                }
            }
        }
    }
    machines
}

/// A host without its port and without the brackets of an IPv6 address (RFC 3986 §3.2.2).
fn split_port(host: &str) -> (&str, Option<&str>) {
    if let Some((address, rest)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (address, rest.strip_prefix(':'));
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Unquoted where that is read alike by everybody, since curl before 7.84, Python before 3.11 and Go
/// know no quotes. A comment sign or quote at the start and a backslash anywhere must be quoted: the
/// others read them as something else.
fn push_password(out: &mut Rendered, password: &[u8]) {
    if password.starts_with(b"#") || password.starts_with(b"\"") || password.contains(&b'\\') {
        push_quoted(out, password);
    } else {
        out.push(password);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::testing::{any_token, sample, text};

    #[test]
    fn it_names_each_host_and_its_api() {
        insta::assert_snapshot!(sample(&Netrc, &["github.com"]), @r"
        2 netrc
        --- expiry known
        machine github.com login x-access-token password ghs_1_aB.c-D⏎
        machine api.github.com login x-access-token password ghs_1_aB.c-D⏎
        --- expiry unknown
        machine github.com login x-access-token password ghs_1_aB.c-D⏎
        machine api.github.com login x-access-token password ghs_1_aB.c-D⏎
        ");
    }

    #[test]
    fn hosts_are_looked_up_with_and_without_their_port() {
        let hosts = [
            ("acme.ghe.com", "acme.ghe.com api.acme.ghe.com"),
            ("ghe.test:8443", "ghe.test ghe.test:8443 api.ghe.test api.ghe.test:8443"),
            ("api.github.com", "api.github.com"),
            ("localhost:3000", "localhost localhost:3000"),
            ("127.0.0.1:3000", "127.0.0.1 127.0.0.1:3000"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]:3000", "::1 [::1]:3000"),
            ("[::1]", "::1"),
            ("::1", "::1"),
        ];
        for (host, expected) in hosts {
            assert_eq!(machines(&[host.to_owned()]).join(" "), expected);
        }
        let twice = ["127.0.0.1:1", "127.0.0.1:2"].map(str::to_owned);
        assert_eq!(machines(&twice), ["127.0.0.1", "127.0.0.1:1", "127.0.0.1:2"]);
    }

    /// The words of a line as curl ≥ 7.84 and Python ≥ 3.11 both read them: a line from `#` on is a
    /// comment; quotes group, and a backslash takes the next byte as it is. Python does the latter
    /// without quotes too, curl does not: such a word has two readings and is an error here.
    fn words(line: &str) -> Result<Vec<String>, String> {
        let mut words = Vec::new();
        let mut chars = line.chars().peekable();
        loop {
            while chars.next_if_eq(&' ').is_some() {}
            let mut word = String::new();
            match chars.peek() {
                None | Some('#') => return Ok(words),
                Some('"') => {
                    chars.next();
                    loop {
                        match chars.next().ok_or("an open quote")? {
                            '"' => break,
                            '\\' => word.push(chars.next().ok_or("a lone backslash")?),
                            other => word.push(other),
                        }
                    }
                }
                Some(_) => {
                    while let Some(next) = chars.next_if(|next| *next != ' ') {
                        if next == '\\' {
                            return Err(format!("two readings: {line}"));
                        }
                        word.push(next);
                    }
                }
            }
            words.push(word);
        }
    }

    proptest! {
        #[test]
        fn any_token_is_read_back_as_it_was(token in any_token()) {
            for line in text(&Netrc, &token).lines() {
                let words = words(line).map_err(TestCaseError::fail)?;
                prop_assert_eq!(&words[2..], ["login", "x-access-token", "password", &token]);
            }
        }
    }
}
