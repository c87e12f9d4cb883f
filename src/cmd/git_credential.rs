//! `git-credential`: the helper that git runs (`gitcredentials(7)`, `git-credential(1)`).
//!
//! `scripts/git-credential-molecule` does the same in the shell. What both must keep to:
//!
//! - They answer for `https` and for exactly the hosts they were told, whatever `path=` says; `http`
//!   only on the loopback interface. Silence leaves a request to git's next helper.
//! - git ≥ 2.46 asks again in mid-command after a 401 when the answer carried `state[]` and
//!   `continue=1`. The second request brings the state back: the token in it was refused. Its answer
//!   carries no `continue`, so there is never a loop (git 2.47.3 retries once more by itself where
//!   an earlier answer of the same command was accepted). Older gits ignore these lines, send `erase`
//!   after a 401 and give up; the next command is well again.
//! - Without a token they answer `quit=1`: otherwise git asks on the terminal, for ever.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use nix::errno::Errno;
use zeroize::Zeroizing;

use crate::cmd::EXIT_FAILURE;
use crate::cmd::choice::Choice;
use crate::cmd::reader::files;
use crate::config::{self, DEFAULT_HOST};
use crate::error::ReadErrorKind;
use crate::place::control;
use crate::secret::{Fingerprint, MAX_SECRET_BYTES, Rendered};
use crate::source::Scope;

/// What marks a `state[]` of git's as ours.
const STATE_PREFIX: &[u8] = b"mol.";

/// The longest request or view that is read, in bytes: a token and some lines around it.
const MAX_INPUT_BYTES: usize = MAX_SECRET_BYTES + 16 * 1024;

/// The arguments of `git-credential`.
#[derive(Debug, clap::Args)]
pub struct GitCredentialArgs {
    /// Answer for this host[:port]; may be given more than once
    #[arg(long = "host", value_name = "HOST", default_value = DEFAULT_HOST)]
    pub hosts: Vec<String>,

    /// Where the tokens are mounted [default: searched for, as by every command]
    #[arg(long, value_name = "PATH")]
    pub mountpoint: Option<PathBuf>,

    /// What git asks: get, store or erase; other actions are ignored, as git requires
    #[arg(value_name = "get|store|erase")]
    pub action: String,
}

/// Answers one request of git's from standard input.
///
/// # Errors
/// When the request cannot be read or the answer not be written. That there is no token is no error
/// here: it is answered with `quit=1`, one line on standard error, and exit code 1.
pub fn run(args: &GitCredentialArgs) -> anyhow::Result<ExitCode> {
    let action = match args.action.as_str() {
        "get" => Action::Get,
        "erase" => Action::Erase,
        // store: nobody needs to keep a copy of a token that is always there.
        _ => return Ok(ExitCode::SUCCESS),
    };
    let input = read_all(&mut io::stdin().lock()).context("cannot read git's request")?;
    let request = Request::parse(&input);
    match request.decide(action, &args.hosts) {
        Decision::Silent => {}
        Decision::Refuse(fingerprint) => {
            if let Ok((_, served)) = config::find_served(args.mountpoint.clone()) {
                refuse(&request.place_in(&served.path()), fingerprint);
            }
        }
        Decision::Answer { refused } => {
            let found = config::find_served(args.mountpoint.clone());
            if let (Ok((_, served)), Some(fingerprint)) = (&found, refused) {
                refuse(&request.place_in(&served.path()), fingerprint);
            }
            let answer = found.map_err(|error| error.to_string()).and_then(|(shown, served)| {
                let place = request.place_in(&served.path());
                let own = place.strip_prefix(served.path()).unwrap_or(Path::new(""));
                let shown = if own.as_os_str().is_empty() { shown } else { shown.join(own) };
                answer(&shown, &place, refused)
            });
            match answer {
                Ok(answer) => super::print(answer.as_bytes())?,
                Err(reason) => return give_up(&reason),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells git to stop, and the person why.
fn give_up(reason: &str) -> anyhow::Result<ExitCode> {
    super::print(b"quit=1\n")?;
    let line = format!(
        "molecule-tokenfs git-credential: no token: {reason}. What is wrong and what to do: \
         molecule-tokenfs status\n"
    );
    // Nobody is left to tell when standard error is closed.
    let _ = io::stderr().write_all(line.as_bytes());
    Ok(ExitCode::from(EXIT_FAILURE))
}

/// What git asks of a helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// A credential.
    Get,
    /// To forget one that a server refused.
    Erase,
}

/// What to do about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    /// It is not ours to answer.
    Silent,
    /// Answer with the token that is fresh now.
    Answer {
        /// The token of the first answer, which the server refused in the middle of the command.
        refused: Option<Fingerprint>,
    },
    /// Tell the mount that the server refused this token.
    Refuse(Fingerprint),
}

/// The attributes of a request that count here (`git-credential(1)`, INPUT/OUTPUT FORMAT).
#[derive(Default)]
struct Request<'a> {
    protocol: &'a [u8],
    host: &'a [u8],
    password: &'a [u8],
    /// Of the remote, where git was told to say it (`credential.useHttpPath`).
    path: &'a [u8],
    state: Option<&'a [u8]>,
}

impl<'a> Request<'a> {
    /// Reads the lines up to the first empty one. Of an attribute that comes twice, the last counts,
    /// as in git.
    fn parse(input: &'a [u8]) -> Self {
        let mut request = Self::default();
        for (key, value) in attributes(input) {
            match key {
                b"protocol" => request.protocol = value,
                b"host" => request.host = value,
                b"password" => request.password = value,
                b"path" => request.path = value,
                b"state[]" => request.state = value.strip_prefix(STATE_PREFIX).or(request.state),
                _ => {}
            }
        }
        request
    }

    /// The repository that the path of the remote names, of which `git-lfs` knows a longer one:
    /// `OWNER/REPO`, `OWNER/REPO.git`, `OWNER/REPO.git/info/lfs`.
    fn repository(&self) -> Option<Scope> {
        let path = std::str::from_utf8(self.path).ok()?.trim_matches('/');
        let path = path.split_once(".git/").map_or(path, |(path, _)| path);
        let path = path.strip_suffix("/info/lfs").unwrap_or(path);
        let mut parts = path.rsplit('/');
        let (name, owner) = (parts.next()?, parts.next()?);
        Scope::of_repository(owner, name)
    }

    /// Where its token is: that of the repository, as far as git says which it is.
    fn place_in(&self, mountpoint: &Path) -> PathBuf {
        let host = std::str::from_utf8(self.host).unwrap_or_default();
        let chosen = self.repository().map(|scope| Choice::of(mountpoint, &scope, host));
        chosen.map_or_else(|| mountpoint.to_owned(), |chosen| mountpoint.join(chosen.place()))
    }

    fn decide(&self, action: Action, hosts: &[String]) -> Decision {
        let allowed = match self.protocol {
            b"https" => true,
            b"http" => std::str::from_utf8(self.host).is_ok_and(is_loopback),
            _ => false,
        };
        if !allowed || !hosts.iter().any(|host| host.as_bytes() == self.host) {
            return Decision::Silent;
        }
        match action {
            Action::Get => Decision::Answer { refused: self.state.and_then(parse_fingerprint) },
            Action::Erase if self.password.is_empty() => Decision::Silent,
            Action::Erase => Decision::Refuse(Fingerprint::of(self.password)),
        }
    }
}

fn parse_fingerprint(digits: &[u8]) -> Option<Fingerprint> {
    std::str::from_utf8(digits).ok().and_then(Fingerprint::parse)
}

/// The `key=value` lines up to the first empty one.
fn attributes(input: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    input.split(|&byte| byte == b'\n').take_while(|line| !line.is_empty()).filter_map(|line| {
        let equals = line.iter().position(|&byte| byte == b'=')?;
        Some((line.get(..equals)?, line.get(equals + 1..)?))
    })
}

/// Whether a plain `http` request to this `host[:port]` never leaves the machine: `localhost`, or an
/// address of 127.0.0.0/8 or `::1` written as such. (A *name* under 127 may resolve to anything.)
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix("[::1]") {
        return rest.is_empty() || rest.starts_with(':');
    }
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name == "localhost"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Everything that comes, in a buffer that is wiped and never reallocated.
fn read_all(from: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; MAX_INPUT_BYTES]);
    let mut filled = 0;
    loop {
        let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it is longer than {MAX_INPUT_BYTES} bytes"),
            ));
        };
        match from.read(room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The answer to `get`, or the reason why there is none. `place` is how people know the mountpoint.
fn answer(
    place: &Path,
    mountpoint: &Path,
    refused: Option<Fingerprint>,
) -> Result<Rendered, String> {
    let file_layout = mountpoint.is_file();
    let shown = if file_layout { control::shown_view(mountpoint) } else { None };
    let is_token = match shown.as_deref() {
        None | Some("token") => file_layout,
        Some("git-credential") => false,
        Some(other) => {
            let path = place.display();
            return Err(format!("{path} shows `{other}`; git needs `token` or `git-credential`"));
        }
    };
    let [path, shown] = [mountpoint, place]
        .map(|root| if file_layout { root.to_owned() } else { root.join("git-credential") });
    let fails = |error: &io::Error| format!("{}: {}", shown.display(), explain(error));
    // A mount has another token when the refusal was written; files have it a moment later.
    let is_another = |file: &File| {
        let Some(refused) = refused else { return Ok(true) };
        let view = read_all(&mut file.try_clone()?)?;
        (&*file).rewind()?;
        Ok(Fingerprint::of(password_in(&view, is_token)) != refused)
    };
    if is_token || files::are_at(mountpoint) {
        files::await_lasting(mountpoint, &path);
    }
    let view = files::open_another(mountpoint, &path, is_another)
        .and_then(|mut file| read_all(&mut file))
        .map_err(|error| fails(&error))?;
    let password = password_in(&view, is_token);
    if password.is_empty() || password.contains(&b'\n') {
        return Err(format!("{} holds no credential", shown.display()));
    }
    let mut answer = Rendered::with_capacity(view.len() + 128);
    if refused.is_none() {
        let state = Fingerprint::of(password);
        answer.push_str(&format!("capability[]=state\nstate[]=mol.{state}\ncontinue=1\n"));
    }
    if is_token {
        answer.push_str("username=x-access-token\npassword=");
        answer.push(password);
        answer.push_str("\n");
    } else {
        answer.push(&view);
    }
    Ok(answer)
}

/// The token in a view.
fn password_in(view: &[u8], file_layout: bool) -> &[u8] {
    if file_layout {
        return view.strip_suffix(b"\n").unwrap_or(view);
    }
    attributes(view).find(|&(key, _)| key == b"password").map_or(&[][..], |(_, value)| value)
}

/// What a failed open or read means, in the words of the table of errors.
fn explain(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return error.to_string();
    };
    ReadErrorKind::ALL
        .into_iter()
        .find(|kind| kind.errno() == errno)
        .map_or(errno.desc(), |kind| kind.explain().sentence)
        .to_owned()
}

/// Tells the mount that a server refused this token. Best effort: where the mount cannot take it (it
/// was told already, or has no control file), it fetches by its own clock.
fn refuse(mountpoint: &Path, fingerprint: Fingerprint) {
    let _ = control::refresh(mountpoint, &format!("{fingerprint}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_remote_names_its_repository() {
        let named = |path: &str| {
            let request = Request { path: path.as_bytes(), ..Request::default() };
            request.repository().map(|scope| scope.to_string())
        };
        for path in
            ["Acme/Web", "acme/web.git", "acme/web.git/info/lfs", "/acme/web/", "acme/web/info/lfs"]
        {
            assert_eq!(named(path).as_deref(), Some("acme/web"), "{path}");
        }
        for path in ["", "acme", "acme/..", "-a/web", "a b/web", "../../etc"] {
            assert_eq!(named(path), None, "{path}");
        }
    }

    fn decide(action: Action, hosts: &[&str], input: &str) -> Decision {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        Request::parse(input.as_bytes()).decide(action, &hosts)
    }

    #[test]
    fn only_https_and_the_exact_host_are_answered() {
        let get = |hosts: &[&str], input: &str| decide(Action::Get, hosts, input);
        let answer = Decision::Answer { refused: None };
        for ours in [
            "protocol=https\nhost=github.com\n\n",
            "protocol=https\nhost=github.com",
            "capability[]=authtype\nprotocol=https\nhost=github.com\npath=owner/repo.git\nusername=me\n",
        ] {
            assert_eq!(get(&["github.com"], ours), answer, "{ours}");
        }
        for other in [
            "",
            "protocol=http\nhost=github.com\n",
            "protocol=ssh\nhost=github.com\n",
            "host=github.com\n",
            "protocol=https\n",
            "protocol=https\nhost=\n",
            "protocol=https\nhost=github.com:443\n",
            "protocol=https\nhost=GitHub.com\n",
            "protocol=https\nhost=github.com.evil.example\n",
            "protocol=https\nhost=evil.example\npath=github.com\n",
            "protocol=https\n\nhost=github.com\n",
            "protocol=https\nhost=github.com\nhost=evil.example\n",
        ] {
            assert_eq!(get(&["github.com"], other), Decision::Silent, "{other}");
        }
        let two = ["github.com", "ghe.example:8443"];
        assert_eq!(get(&two, "protocol=https\nhost=ghe.example:8443\n"), answer);
        assert_eq!(get(&two, "protocol=https\nhost=ghe.example\n"), Decision::Silent);
    }

    #[test]
    fn http_is_answered_on_the_loopback_interface_alone() {
        for host in ["localhost", "localhost:80", "127.0.0.1", "127.9.9.9:8080", "[::1]", "[::1]:1"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "github.com",
            "127.evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "[::2]",
            "10.0.0.1",
            "[::1].evil",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
        let request = "protocol=http\nhost=127.0.0.1:8080\n";
        assert_eq!(
            decide(Action::Get, &["127.0.0.1:8080"], request),
            Decision::Answer { refused: None }
        );
        assert_eq!(decide(Action::Get, &["127.0.0.1"], request), Decision::Silent);
    }

    #[test]
    fn the_state_that_comes_back_names_the_refused_token() {
        let get = |state: &str| {
            let input = format!("protocol=https\nhost=github.com\n{state}\n");
            decide(Action::Get, &["github.com"], &input)
        };
        let refused = Fingerprint::parse("ba7816bf");
        assert_eq!(get("state[]=mol.ba7816bf"), Decision::Answer { refused });
        assert_eq!(get("state[]=mol.ba7816bf\nstate[]=other.x"), Decision::Answer { refused });
        for foreign in ["state[]=other.ba7816bf", "state[]=mol.short", "state[]=mol.", "state[]="] {
            assert_eq!(get(foreign), Decision::Answer { refused: None }, "{foreign}");
        }
    }

    #[test]
    fn erase_names_the_token_that_git_was_refused_with() {
        let erase = |input| decide(Action::Erase, &["github.com"], input);
        assert_eq!(
            erase("protocol=https\nhost=github.com\npassword=abc\n"),
            Decision::Refuse(Fingerprint::of(b"abc"))
        );
        assert_eq!(erase("protocol=https\nhost=github.com\n"), Decision::Silent);
        assert_eq!(erase("protocol=https\nhost=other.example\npassword=abc\n"), Decision::Silent);
    }

    #[test]
    fn a_password_may_hold_an_equals_sign() {
        assert_eq!(Request::parse(b"password=a=b=\n").password, b"a=b=");
    }

    #[test]
    fn a_request_without_end_is_refused() {
        let error = read_all(&mut io::repeat(b'a')).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(*read_all(&mut b"abc".as_slice()).unwrap(), b"abc");
    }

    #[test]
    fn a_failed_open_is_told_in_words() {
        let expired = io::Error::from(Errno::EKEYEXPIRED);
        assert_eq!(explain(&expired), ReadErrorKind::Expired.explain().sentence);
        assert_eq!(explain(&io::Error::from(Errno::ENOTCONN)), Errno::ENOTCONN.desc());
    }
}
