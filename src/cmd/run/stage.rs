//! `run-command` (hidden): what stands between `run` and its command. It gives up what the command
//! must not have, and becomes the command: the same process, a step later.
//!
//! A step of its own, because between fork and exec a process may do next to nothing, and because the
//! error of an exec is told here as a shell would.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, anyhow};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::fstat;
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::termios::tcgetsid;
use nix::unistd::{
    Gid, Uid, fchown, geteuid, getgroups, getpgrp, getppid, getsid, setgid, setgroups, setuid,
    tcsetpgrp,
};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::user::Identity;
use super::{RunArgs, typing};
use crate::cmd::Advise;
use crate::cmd::exec::{EXIT_CANNOT_RUN, cannot_run};

/// The name of the hidden command.
pub const NAME: &str = "run-command";

/// The file system of pipes without a name (`PIPEFS_MAGIC` in Linux's `magic.h`).
const PIPEFS: FsType = FsType(0x5049_5045);

/// What a container engine leaves the command of a container by default: enough for every program
/// that does not manage the machine. Above all it is without `CAP_SYS_ADMIN`, which can unmount.
const USUAL: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// The arguments of `run-command`.
#[derive(Debug, clap::Args)]
pub struct StageArgs {
    /// The user to become
    #[arg(long)]
    uid: u32,

    /// Its group
    #[arg(long)]
    gid: u32,

    /// All its groups
    #[arg(long, value_delimiter = ',')]
    groups: Vec<u32>,

    /// Take the terminal
    #[arg(long)]
    foreground: bool,

    /// Give up no capability
    #[arg(long)]
    keep_capabilities: bool,

    /// Gain nothing by setuid programs
    #[arg(long)]
    no_new_privileges: bool,

    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// The words that lead here.
pub fn words(identity: &Identity, foreground: bool, args: &RunArgs) -> Vec<OsString> {
    let groups = identity.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut words =
        vec![NAME.to_owned(), format!("--uid={}", identity.uid), format!("--gid={}", identity.gid)];
    words.extend((!groups.is_empty()).then(|| format!("--groups={groups}")));
    words.extend(foreground.then(|| "--foreground".to_owned()));
    words.extend(args.keep_capabilities.then(|| "--keep-capabilities".to_owned()));
    words.extend(args.no_new_privileges.then(|| "--no-new-privileges".to_owned()));
    words.push("--".to_owned());
    words.into_iter().map(OsString::from).chain(args.command.iter().cloned()).collect()
}

/// Becomes the command.
///
/// # Errors
/// When the command is not found (127) or cannot be run (126), as a shell reports it.
pub fn run(args: &StageArgs) -> anyhow::Result<ExitCode> {
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(anyhow!("no command is given")); // The command line takes none without one.
    };
    if args.foreground {
        take_terminal();
    }
    if args.no_new_privileges {
        prctl::set_no_new_privs().context("cannot forbid new privileges")?;
    }
    keep_from_typing(args)?;
    if !args.keep_capabilities {
        limit_capabilities().context("cannot give up capabilities")?;
    }
    give_streams(args.uid);
    become_user(args).context("cannot become the user of the command")?;
    clear_inherited().context("cannot give up capabilities")?;
    Err(cannot_run(program, Command::new(program).args(arguments).exec()))
}

/// Makes our process group, which the command inherits, that of the terminal's foreground. Without a
/// terminal there is nothing to take.
fn take_terminal() {
    // What a background process gets for trying.
    let stop = SigSet::from(Signal::SIGTTOU);
    if let (Ok(terminal), Ok(())) = (File::open("/dev/tty"), stop.thread_block()) {
        tcsetpgrp(&terminal, getpgrp()).ok();
        stop.thread_unblock().ok();
    }
}

/// A command with fewer rights than we have must not type at a terminal where we were called: whoever
/// reads there has our rights.
fn keep_from_typing(args: &StageArgs) -> anyhow::Result<()> {
    let has_fewer_rights = geteuid().is_root() && !(args.uid == 0 && args.keep_capabilities);
    if !has_fewer_rights || File::open("/dev/tty").is_err() {
        return Ok(());
    }
    match typing::forbid() {
        Err(error) if is_shared() && !typing::is_forbidden_to_all() => {
            Err(anyhow!(error)
                .context("cannot keep the command from typing into the shell above it"))
            .hint("do without setuid programs in it (molecule-tokenfs run --no-new-privileges …)")
            .hint("or without the terminal (setsid --wait molecule-tokenfs run …)")
            .hint("or let the kernel forbid it to all (sysctl -w dev.tty.legacy_tiocsti=0)")
            .exit_code(EXIT_CANNOT_RUN)
        }
        _ => Ok(()),
    }
}

/// Whether the terminal is that of somebody above `run`, our parent.
fn is_shared() -> bool {
    getsid(None).is_ok_and(|leader| leader != getppid())
}

/// Leaves in the bounding set, which no exec can go beyond, the usual at most.
fn limit_capabilities() -> rustix::io::Result<()> {
    if !rustix::thread::capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(()); // An ordinary user, who has none to give up either.
    }
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if USUAL.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives the command's user its standard streams, as container runtimes do: it could not open
/// `/dev/stdout` otherwise, which asks for rights on what is behind (`proc_pid_fd(5)`). Only pipes, and a
/// terminal that is ours alone: files, and the terminal of whoever called us, stay theirs.
fn give_streams(uid: u32) {
    if !geteuid().is_root() || uid == 0 {
        return;
    }
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [input.as_fd(), output.as_fd(), errors.as_fd()] {
        let Ok(found) = fstat(stream) else { continue };
        let is_roots = found.st_uid == 0;
        let is_pipe = fstatfs(stream).is_ok_and(|system| system.filesystem_type() == PIPEFS);
        let is_terminal = tcgetsid(stream).is_ok_and(|session| getsid(None) == Ok(session));
        let is_terminal = is_terminal && !is_shared();
        if is_roots && (is_pipe || is_terminal) {
            // Refused to the root of a user namespace that does not know the owner; that is no reason not
            // to run.
            fchown(stream, Some(Uid::from_raw(uid)), None).ok();
        }
    }
}

fn become_user(args: &StageArgs) -> nix::Result<()> {
    if !geteuid().is_root() {
        return Ok(()); // It is the user already: `--user` was checked.
    }
    let groups: Vec<_> = args.groups.iter().copied().map(Gid::from_raw).collect();
    // Forbidden to the root of some user namespaces, even where it changes nothing.
    if getgroups()? != groups {
        setgroups(&groups)?;
    }
    setgid(Gid::from_raw(args.gid))?;
    setuid(Uid::from_raw(args.uid))
}

/// Leaves no capability to inherit: only its user and its file give the command any.
fn clear_inherited() -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let own = rustix::thread::capabilities(None)?;
    let inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable, ..own })
}
