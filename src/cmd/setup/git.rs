//! `setup git`: makes git ask the mount for the credentials of some hosts.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use super::git_config::{self, Scope};
use super::{
    Installed, Like, Staged, become_owner_of, git_block, install_script, is_script, shell_quote,
};
use crate::cmd::git_credential::is_loopback;
use crate::cmd::{Advise, EXIT_USAGE};
use crate::config::{DEFAULT_HOST, Settings, SettingsArgs};
use crate::foreign::plain;
use crate::spawn;

/// The helper in the shell, for images without the binary.
const SHELL_HELPER: &str = include_str!("../../../scripts/git-credential-molecule");
const SHELL_HELPER_NAME: &str = "git-credential-molecule";

/// The arguments of `setup git`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct GitArgs {
    /// Write the user's configuration (the default)
    #[arg(long, conflicts_with_all = ["system", "file"])]
    global: bool,

    /// Write the machine's configuration, for all users: what an image wants
    #[arg(long, conflicts_with = "file")]
    system: bool,

    /// Write this configuration file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Ask the mount for this host[:port]; may be given more than once [default: the hosts of the
    /// settings, else github.com]
    #[arg(long = "host", value_name = "HOST")]
    hosts: Vec<String>,

    /// Where the tokens are mounted [default: searched for whenever git asks]
    #[arg(long, value_name = "PATH")]
    mountpoint: Option<PathBuf>,

    /// Use a token for the repository at hand alone, where the mount makes them on demand
    #[arg(long)]
    by_repository: bool,

    /// Use the shell version of the helper, and write it to this file: for a git that will not have
    /// this binary at hand
    #[arg(long, value_name = "FILE")]
    shell_helper: Option<PathBuf>,

    /// Take back what setup wrote, and leave the rest as it is
    #[arg(long, conflicts_with_all = ["hosts", "mountpoint", "by_repository"])]
    undo: bool,
}

/// Sets git up, or undoes it.
///
/// # Errors
/// What could not be done; the file is as it was then.
pub fn run(args: &GitArgs) -> anyhow::Result<ExitCode> {
    let file = match &args.file {
        Some(file) => std::path::absolute(file).context("cannot tell the current directory")?,
        None if args.system => git_config::system_file()?,
        None => git_config::global_file()?,
    };
    let owner = become_owner_of(&file)?;
    let mut report = if args.undo { undo(args, &file)? } else { set_up(args, &file)? };
    if let Some(owner) = owner {
        let _ = writeln!(report, "Done as {owner}, who owns the directory.");
    }
    crate::cmd::print(report.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn set_up(args: &GitArgs, file: &Path) -> anyhow::Result<String> {
    let hosts = if args.hosts.is_empty() {
        Settings::load(&SettingsArgs::default())?.hosts.value
    } else {
        args.hosts.clone()
    };
    let mut report = String::new();
    let program = program(args, &mut report)?;
    let asked = Asked::of(&program, &hosts, args.mountpoint.as_deref())?;
    let Written { changed, urls_before } =
        write_block(file, &settings(&asked, args.by_repository), &flag(args))?;

    let urls: Vec<&str> = asked.iter().map(|asked| asked.url.as_str()).collect();
    let _ = writeln!(report, "git asks the mount for the credentials of {}.", urls.join(", "));
    let _ = writeln!(report, "git-lfs asks again for each request (lfs.cachecredentials=false).");
    let verb = if changed { "Written to" } else { "Nothing to change in" };
    let _ = writeln!(report, "{verb} {}.", file.display());
    for url in urls_before.iter().filter(|url| !urls.contains(&url.as_str())) {
        let _ = writeln!(report, "No longer set up: {url} (name all hosts in one command).");
    }
    let scope = if args.file.is_some() { Scope::With(file) } else { Scope::Effective };
    match git_config::list(scope) {
        Ok(entries) => report.extend(asked.iter().map(|asked| rivals(&entries, asked))),
        // The lines are written. git itself will report what it cannot read.
        Err(error) => {
            let _ = writeln!(
                report,
                "Careful: git cannot list its configuration, so other helpers are not known: {error:#}."
            );
        }
    }
    let url = urls.first().copied().unwrap_or_default();
    let _ = writeln!(report, "Test it: git ls-remote {url}/OWNER/PRIVATE-REPOSITORY");
    let _ = writeln!(report, "Take it back: molecule-tokenfs setup git --undo{}", flag(args));
    Ok(report)
}

/// One URL that git asks the mount about.
pub struct Asked {
    protocol: &'static str,
    host: String,
    url: String,
    helper: String,
}

impl Asked {
    /// All of these hosts. `program` is a command line of the shell.
    ///
    /// # Errors
    /// When a host is none.
    pub fn of(
        program: &str,
        hosts: &[String],
        mountpoint: Option<&Path>,
    ) -> anyhow::Result<Vec<Self>> {
        let mut asked = Vec::new();
        for host in hosts {
            let helper = helper_command(program, host, mountpoint)?;
            for protocol in protocols(host)? {
                let url = format!("{protocol}://{host}");
                asked.push(Self { protocol, host: host.clone(), url, helper: helper.clone() });
            }
        }
        Ok(asked)
    }
}

/// The settings that make git ask the mount, in their order (`gitcredentials(7)`).
#[must_use]
pub fn settings(asked: &[Asked], by_repository: bool) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for Asked { url, helper, .. } in asked {
        let key = format!("credential.{url}.helper");
        // Empty: resets the helpers before it, which would save our token and serve it stale.
        settings.push((key.clone(), String::new()));
        settings.push((key, helper.clone()));
        if by_repository {
            // Without it, git does not tell the helper which repository it is about.
            settings.push((format!("credential.{url}.usehttppath"), "true".to_owned()));
        }
    }
    // git-lfs would hold one token over a whole transfer, and send it when it is dead.
    settings.push(("lfs.cachecredentials".to_owned(), "false".to_owned()));
    settings
}

/// What [`write_block`] did.
pub struct Written {
    /// Whether the file is another one now.
    pub changed: bool,
    /// The URLs that our block took care of before.
    urls_before: Vec<String>,
}

/// Puts the settings into a configuration file, as our block at its end. `undo` are the flags with which
/// `setup git --undo` finds it again, each with a blank before it.
///
/// # Errors
/// When git does not understand the file, or it cannot be written; it is as it was then.
pub fn write_block(
    file: &Path,
    settings: &[(String, String)],
    undo: &str,
) -> anyhow::Result<Written> {
    let target = follow_links(file)?;
    let before = read(&target)?;
    if before.is_some() {
        git_config::list(Scope::Alone(&target))
            .with_context(|| format!("{} is no valid configuration", file.display()))?;
    }
    let stripped = git_block::strip(before.as_deref().unwrap_or_default());
    let made_by_setup = before.is_none() || stripped.made_by_setup;
    let entries = git_config::render(settings)?;
    let after = git_block::append(&stripped.rest, &entries, made_by_setup, undo);
    let changed = before.as_deref() != Some(&after);
    if changed {
        write(&target, &after, |staged| {
            let listed = git_config::list(Scope::Alone(staged))?;
            let ours = listed.iter().rev().take(settings.len()).rev();
            if !ours
                .map(|entry| (&entry.key, &entry.value))
                .eq(settings.iter().map(|(k, v)| (k, v)))
            {
                bail!("git does not read back from {} what it should", staged.display());
            }
            Ok(())
        })?;
    }
    Ok(Written { changed, urls_before: stripped.urls })
}

/// Takes our block out of a configuration file; removes the file where we had made it. Tells what it
/// did.
///
/// # Errors
/// When the file cannot be read or written; it is as it was then.
pub fn take_out_block(file: &Path) -> anyhow::Result<String> {
    let target = follow_links(file)?;
    let before = read(&target)?.unwrap_or_default();
    let stripped = git_block::strip(&before);
    if !stripped.found {
        return Ok(format!("There is nothing of setup's in {}.\n", file.display()));
    }
    if stripped.made_by_setup && stripped.rest.trim_ascii().is_empty() {
        fs::remove_file(&target).with_context(|| format!("cannot remove {}", target.display()))?;
        return Ok(format!("Removed {}, which setup had made.\n", file.display()));
    }
    write(&target, &stripped.rest, |_| Ok(()))?;
    Ok(format!("Took setup's lines out of {}; the rest is as it was.\n", file.display()))
}

fn undo(args: &GitArgs, file: &Path) -> anyhow::Result<String> {
    let mut report = take_out_block(file)?;
    if let Some(path) = &args.shell_helper {
        if is_script(path, SHELL_HELPER) {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
            let _ = writeln!(report, "Removed {}.", path.display());
        } else {
            let _ = writeln!(report, "{} is not ours: it stays.", path.display());
        }
    }
    Ok(report)
}

/// The program that git is to run, as a command line of the shell.
fn program(args: &GitArgs, report: &mut String) -> anyhow::Result<String> {
    if let Some(path) = &args.shell_helper {
        let path = std::path::absolute(path).context("cannot tell the current directory")?;
        if install_script(&path, SHELL_HELPER)? != Installed::Unchanged {
            let _ = writeln!(report, "Wrote the helper in the shell to {}.", path.display());
        }
        return Ok(shell_quote(&path.to_string_lossy()));
    }
    if let Some(program) = binary_program() {
        return Ok(program);
    }
    match spawn::find_all(SHELL_HELPER_NAME).next() {
        Some(script) => Ok(shell_quote(&script.to_string_lossy())),
        None => Err(anyhow::anyhow!("this binary is no longer at its place, so git cannot run it")
            .hint("use the helper in the shell: molecule-tokenfs setup git --shell-helper /usr/local/bin/git-credential-molecule")),
    }
}

/// This binary as the helper; `None` when it is no longer at its place.
#[must_use]
pub fn binary_program() -> Option<String> {
    let binary = std::env::current_exe().ok().filter(|binary| binary.is_file())?;
    // The name in PATH may be a link that an upgrade moves on; the file behind it is not.
    let named = spawn::find_all("molecule-tokenfs")
        .find(|named| fs::canonicalize(named).is_ok_and(|named| named == binary));
    let binary = named.unwrap_or(binary);
    Some(format!("{} git-credential", shell_quote(&binary.to_string_lossy())))
}

/// The value of `credential.URL.helper`.
fn helper_command(program: &str, host: &str, mountpoint: Option<&Path>) -> anyhow::Result<String> {
    // git runs an absolute path as it is; anything else that is no helper's name begins with `!`.
    let mut command = if program.starts_with('/') { String::new() } else { "!".to_owned() };
    command += program;
    if host != DEFAULT_HOST {
        let _ = write!(command, " --host {}", shell_quote(host));
    }
    if let Some(mountpoint) = mountpoint {
        let mountpoint =
            std::path::absolute(mountpoint).context("cannot tell the current directory")?;
        let _ = write!(command, " --mountpoint {}", shell_quote(&mountpoint.to_string_lossy()));
    }
    Ok(command)
}

/// The protocols in which the helper answers for a host.
fn protocols(host: &str) -> anyhow::Result<&'static [&'static str]> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
    if host.is_empty() || !host.chars().all(plain) {
        return Err(anyhow::anyhow!("{host:?} is no host")
            .hint("give a name and, where it has one, a port: github.com or ghe.example.com:8443")
            .exit_code(EXIT_USAGE));
    }
    Ok(if is_loopback(host) { &["https", "http"] } else { &["https"] })
}

/// Other helpers that get our token, or that come in our place.
fn rivals(entries: &[git_config::Entry], asked: &Asked) -> String {
    let Asked { protocol, host, url, helper } = asked;
    let mut report = String::new();
    let asked = git_config::helpers(entries, protocol, host);
    let Some(ours) = asked.iter().rposition(|entry| entry.value == *helper) else {
        let why = if entries.iter().any(|entry| entry.value == *helper) {
            "a configuration that git reads later resets it with an empty `helper =`"
        } else {
            "git does not read this file here"
        };
        let _ = writeln!(
            report,
            "Careful: for {url} git will not ask the mount: {why}. See: git config --show-origin \
             --get-regexp '^credential\\..*helper$'"
        );
        return report;
    };
    for later in asked.iter().skip(ours + 1) {
        let _ = writeln!(
            report,
            "Careful: the helper `{}` in {} comes after ours: for {url} git hands it every token \
             that worked, and it may save it and serve it when it is dead. Remove it there.",
            later.value, later.origin
        );
    }
    report
}

/// The flag that names the same file again.
fn flag(args: &GitArgs) -> String {
    let mut flag = match &args.file {
        Some(file) => {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            format!(" --file {}", shell_quote(&file.to_string_lossy()))
        }
        None if args.system => " --system".to_owned(),
        None => String::new(),
    };
    if let Some(helper) = &args.shell_helper {
        let _ = write!(flag, " --shell-helper {}", shell_quote(&helper.to_string_lossy()));
    }
    flag
}

/// The file behind symbolic links, also where it is not there yet: a rename would replace the link.
fn follow_links(file: &Path) -> anyhow::Result<PathBuf> {
    let mut target = file.to_owned();
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&target) else { return Ok(target) };
        target = target.parent().unwrap_or(Path::new("/")).join(link);
    }
    bail!("{}: too many symbolic links", file.display())
}

fn read(file: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match plain::read(file) {
        Ok(text) => Ok(Some(text.to_vec())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Replaces a file under git's own lock (`FILE.lock`), once `check` agrees with what is in it.
fn write(
    file: &Path,
    text: &[u8],
    check: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut lock = file.as_os_str().to_owned();
    lock.push(".lock");
    let lock = PathBuf::from(lock);
    let like = fs::metadata(file).map_or(Like::New, Like::File);
    let staged = match Staged::write(lock.clone(), text, &like) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(anyhow::anyhow!("git is writing {} at this moment", file.display()).hint(
                format!("if no git runs, one died and left its lock: rm {}", lock.display()),
            ));
        }
        other => other.with_context(|| format!("cannot write {}", lock.display()))?,
    };
    check(staged.path())?;
    staged.replace(file).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_a_line_that_git_runs_in_a_shell() {
        let command = |program, host| helper_command(program, host, None).unwrap();
        assert_eq!(command("/usr/bin/x git-credential", "github.com"), "/usr/bin/x git-credential");
        assert_eq!(
            command("'/a b/x' git-credential", "h:1"),
            "!'/a b/x' git-credential --host h:1"
        );
        assert_eq!(
            helper_command("/x", "github.com", Some(Path::new("/m n"))).unwrap(),
            "/x --mountpoint '/m n'"
        );
    }

    #[test]
    fn a_host_is_a_name_and_a_port() {
        assert_eq!(protocols("ghe.example.com:8443").unwrap(), ["https"]);
        assert_eq!(protocols("127.0.0.1:80").unwrap(), ["https", "http"]);
        for bad in ["", "https://github.com", "a b", "a\"b", "a\nb", "*"] {
            assert!(protocols(bad).is_err(), "{bad}");
        }
    }
}
