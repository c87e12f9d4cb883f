//! `setup gh`: puts the shim, `scripts/gh`, where PATH reaches it before the real gh.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::{
    Installed, become_owner_of, in_path, install_script, install_script_over, is_script,
    path_directories, shell_quote,
};
use crate::cmd::Advise;
use crate::{config, spawn};

/// The shim itself.
pub const SHIM: &str = include_str!("../../../scripts/gh");

/// Beside a shim: the gh whose place it took. The shim knows the name, too.
const ASIDE: &str = "gh.before-molecule-tokenfs";

/// The arguments of `setup gh`.
#[derive(Debug, clap::Args)]
pub struct GhArgs {
    /// Put the shim into this directory [default: /usr/local/bin or /usr/local/sbin for root,
    /// ~/.local/bin or ~/bin for others: the first that PATH reaches before gh]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,

    /// Install nothing; print the lines that point gh at the mount's own configuration directory
    #[arg(long, conflicts_with_all = ["dir", "undo"])]
    config_dir: bool,

    /// Remove the shim
    #[arg(long)]
    undo: bool,
}

/// Installs the shim, removes it, or prints the other way.
///
/// # Errors
/// What could not be done. A file that is not ours is never touched.
pub fn run(args: &GhArgs) -> anyhow::Result<ExitCode> {
    let owner = match &args.dir {
        Some(directory) => become_owner_of(&std::path::absolute(directory)?.join("gh"))?,
        None => None,
    };
    let mut report = if args.config_dir {
        config_dir()?
    } else if args.undo {
        undo(args.dir.as_deref())?
    } else {
        install(args.dir.as_deref())?
    };
    if let Some(owner) = owner {
        let _ = writeln!(report, "Done as {owner}, who owns the directory.");
    }
    crate::cmd::print(report.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

fn install(directory: Option<&Path>) -> anyhow::Result<String> {
    let real = real_gh();
    let path = path_directories();
    let directory = match directory {
        Some(directory) => {
            std::path::absolute(directory).context("cannot tell the current directory")?
        }
        None => choose(&usual_directories()?, &path, real.as_deref()).ok_or_else(|| {
            anyhow::anyhow!("each of the usual directories has a gh that is not ours")
                .hint("name a directory that PATH reaches before them: molecule-tokenfs setup gh --dir DIRECTORY")
        })?,
    };
    let shim = directory.join("gh");
    let installed = install_script(&shim, SHIM).hint(
        "name another directory that PATH reaches before it: molecule-tokenfs setup gh --dir DIRECTORY",
    )?;

    let mut report = String::new();
    let shown = shim.display();
    let _ = match installed {
        Installed::New => writeln!(report, "Installed the gh shim as {shown}."),
        Installed::Replaced => writeln!(report, "Replaced an older gh shim at {shown}."),
        Installed::Unchanged => writeln!(report, "The gh shim is at {shown} already."),
    };
    let _ = match &real {
        Some(real) => writeln!(
            report,
            "It gives each call of gh a fresh token and then runs {}.",
            real.display()
        ),
        None => writeln!(
            report,
            "There is no real gh in PATH yet; the shim will find it there. Install it: apt-get \
             install gh"
        ),
    };
    if !comes_first(&directory, &path, real.as_deref()) {
        let quoted = shell_quote(&directory.to_string_lossy());
        let _ = writeln!(
            report,
            "Careful: PATH does not reach it first. Add this to the shell's profile, or its like \
             to the image: export PATH={quoted}:\"$PATH\""
        );
    }
    let _ = writeln!(report, "A shell that ran gh before may remember the old one: hash -r");
    let _ = writeln!(
        report,
        "Of several tokens it takes the one for the repository that gh is about; see which in a clone: \
         molecule-tokenfs doctor"
    );
    let _ = writeln!(report, "Test it: gh api /installation/repositories");
    let _ = writeln!(
        report,
        "Take it back: molecule-tokenfs setup gh --undo --dir {}",
        shell_quote(&directory.to_string_lossy())
    );
    Ok(report)
}

fn undo(directory: Option<&Path>) -> anyhow::Result<String> {
    let directories = match directory {
        Some(directory) => vec![directory.to_owned()],
        None => usual_directories()?,
    };
    let mut report = String::new();
    for directory in &directories {
        report += &take_out(directory)?.unwrap_or_default();
    }
    if report.is_empty() {
        let looked: Vec<_> = directories.iter().map(|path| path.display().to_string()).collect();
        let _ = writeln!(report, "There is no gh shim in {}.", looked.join(" or "));
    }
    Ok(report)
}

/// Puts the shim into a directory whatever is there: another gh moves aside, and the shim runs it.
/// Tells whether anything changed.
///
/// # Errors
/// When the directory cannot be written; another gh is then where it was.
pub fn put_in(directory: &Path) -> anyhow::Result<bool> {
    let (shim, aside) = (directory.join("gh"), directory.join(ASIDE));
    let theirs = fs::symlink_metadata(&shim).is_ok() && !is_script(&shim, SHIM);
    if theirs {
        // An older one is from before the gh that is there now.
        fs::remove_file(&aside).ok();
        fs::hard_link(&shim, &aside)
            .with_context(|| format!("cannot move {} aside", shim.display()))?;
    }
    match install_script_over(&shim, SHIM, theirs) {
        Ok(installed) => Ok(installed != Installed::Unchanged),
        Err(error) => {
            if theirs {
                fs::remove_file(&aside).ok();
            }
            Err(error)
        }
    }
}

/// Takes the shim out of a directory, and puts the gh back that it took the place of. Tells what it
/// did, if anything.
///
/// # Errors
/// When the directory cannot be written.
pub fn take_out(directory: &Path) -> anyhow::Result<Option<String>> {
    let (shim, aside) = (directory.join("gh"), directory.join(ASIDE));
    if !is_script(&shim, SHIM) {
        return Ok(None);
    }
    let shown = shim.display();
    if fs::symlink_metadata(&aside).is_ok() {
        fs::rename(&aside, &shim).with_context(|| format!("cannot put {shown} back"))?;
        return Ok(Some(format!("Put {shown} back, which had moved aside.\n")));
    }
    fs::remove_file(&shim).with_context(|| format!("cannot remove {shown}"))?;
    Ok(Some(format!("Removed {shown}.\n")))
}

/// The way without a shim, as lines for a shell.
fn config_dir() -> anyhow::Result<String> {
    let mountpoint = match config::find_mountpoint(None) {
        Ok(mountpoint) => mountpoint,
        // Not mounted yet: the lines are for later.
        Err(_) => config::default_mountpoint()?,
    };
    if mountpoint.is_file() {
        let path = mountpoint.display();
        return Err(anyhow::anyhow!("{path} is a single file, and gh reads a directory")
            .hint("take the shim: molecule-tokenfs setup gh"));
    }
    Ok(format!(
        "# gh reads its configuration and token from the mount. Not together with the shim.\n\
         # A token in the environment would win over it, also when it is dead.\n\
         export GH_CONFIG_DIR={}\n\
         unset {}\n\
         # Test it: gh api /installation/repositories\n",
        shell_quote(&mountpoint.join("gh").to_string_lossy()),
        spawn::GH_VARIABLES.join(" ")
    ))
}

/// The first gh in PATH that is not a shim of ours.
fn real_gh() -> Option<PathBuf> {
    real_gh_of(in_path("gh"))
}

/// The first of these programs that is not a shim of ours, or that such a shim took the place of.
pub fn real_gh_of(mut programs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    programs.find_map(|gh| {
        let aside = gh.with_file_name(ASIDE);
        if is_script(&gh, SHIM) { aside.is_file().then_some(aside) } else { Some(gh) }
    })
}

/// Where programs go that do not belong to the distribution. Debian's PATH, and that of the official
/// images, reaches `/usr/local/sbin` even before `/usr/local/bin`: it serves where the latter has a
/// wrapper around gh already.
fn usual_directories() -> anyhow::Result<Vec<PathBuf>> {
    if nix::unistd::geteuid().is_root() {
        return Ok(vec!["/usr/local/bin".into(), "/usr/local/sbin".into()]);
    }
    let home = config::env("HOME").map(PathBuf::from).ok_or_else(|| {
        anyhow::anyhow!("HOME is not set: where do your programs go?")
            .hint("name the directory: molecule-tokenfs setup gh --dir DIRECTORY")
    })?;
    Ok(vec![home.join(".local/bin"), home.join("bin")])
}

/// The first directory that PATH reaches before the real gh, else the first at all; none that has a
/// gh which is not ours.
fn choose(candidates: &[PathBuf], path: &[PathBuf], real: Option<&Path>) -> Option<PathBuf> {
    let free = |directory: &&PathBuf| {
        let gh = directory.join("gh");
        fs::symlink_metadata(&gh).is_err() || is_script(&gh, SHIM)
    };
    let mut free = candidates.iter().filter(free);
    free.clone()
        .find(|directory| comes_first(directory, path, real))
        .or_else(|| free.next())
        .cloned()
}

/// Whether PATH reaches `directory`, and before the real gh.
fn comes_first(directory: &Path, path: &[PathBuf], real: Option<&Path>) -> bool {
    let resolve = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = resolve(directory);
    let shim = path.iter().position(|entry| resolve(entry) == directory);
    let real = real
        .and_then(Path::parent)
        .and_then(|real| path.iter().position(|entry| entry == real))
        .unwrap_or(usize::MAX);
    shim.is_some_and(|shim| shim < real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shim_goes_where_path_reaches_it_before_gh_and_nothing_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| dir.path().join(name));
        for directory in [&a, &b, &c] {
            fs::create_dir(directory).unwrap();
        }
        let path = [a.clone(), b.clone(), c.clone()];
        let choose = |candidates: &[&PathBuf], real: Option<&Path>| {
            choose(&candidates.iter().copied().cloned().collect::<Vec<_>>(), &path, real)
        };
        let real = b.join("gh");
        assert_eq!(choose(&[&c, &a], Some(&real)).as_ref(), Some(&a));
        assert_eq!(choose(&[&c, &a], None).as_ref(), Some(&c));
        assert_eq!(choose(&[&c], Some(&real)).as_ref(), Some(&c), "PATH has to change then");
        fs::write(a.join("gh"), "#!/bin/sh\nexec /usr/bin/gh \"$@\"\n").unwrap();
        assert_eq!(choose(&[&a, &c], Some(&real)).as_ref(), Some(&c));
        assert_eq!(choose(&[&a], Some(&real)), None);
        fs::write(a.join("gh"), SHIM).unwrap();
        assert_eq!(choose(&[&a], Some(&real)).as_ref(), Some(&a));
    }
}
