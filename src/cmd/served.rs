//! What `mount`, `serve`, `run` and their worker have in common: the arguments that say what is served, and what
//! a process does first that will hold tokens.

use std::ffi::{CString, OsStr, OsString};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

use crate::config::{Origin, Settings, SettingsArgs};
use crate::fs::access::Access;
use crate::fs::node::Root;
use crate::observe::{LogLevel, Target};
use crate::status::Layout;

mod testing;

use testing::TestingArgs;

/// What is served: the same for whoever serves it, `mount`, `serve`, `run` and their worker.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// Who may read the tokens where no setting says so: the user whom `run` runs its command as
    #[arg(long, hide = true, value_name = "UID")]
    pub default_owner: Option<u32>,

    /// Where the log goes where no setting says so
    #[arg(long, hide = true, value_name = "PLACE")]
    pub default_log: Option<OsString>,

    /// What is logged where no setting says so
    #[arg(long, hide = true, value_name = "LEVEL", value_parser = parse_level)]
    pub default_log_level: Option<LogLevel>,

    /// Show the doors of the configuration, and nothing else: for the worker of `serve`
    #[arg(long, hide = true)]
    pub doors: bool,

    /// What only tests ask for.
    #[command(flatten)]
    pub testing: TestingArgs,

    /// The settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

fn parse_level(text: &str) -> Result<LogLevel, &'static str> {
    text.parse().map_err(|()| "expected a level")
}

impl ServeArgs {
    /// The settings as they are now.
    ///
    /// # Errors
    /// See [`Settings::load`].
    pub fn load(&self) -> anyhow::Result<Settings> {
        let mut settings = Settings::load_for(&self.settings, self.default_owner)?;
        // A file is read by nobody who works at the terminal.
        let may_default =
            settings.log_level.origin == Origin::Default && settings.log_file.value.is_none();
        if let Some(level) = self.default_log_level.as_ref().filter(|_| may_default) {
            settings.log_level.value = level.clone();
        }
        Ok(settings)
    }

    /// What is at the root of the mount, where that has this layout.
    pub(super) fn root(&self, settings: &Settings, layout: Layout) -> Root {
        if self.doors { Root::Doors } else { settings.root(layout) }
    }

    /// Whom that belongs to.
    pub(super) fn access(&self, settings: &Settings) -> Access {
        if self.doors { Access::OF_HOST } else { settings.access() }
    }

    /// Where the log goes.
    pub(super) fn log(&self, settings: &Settings) -> Target {
        let file = settings.log_file.value.clone().map(Target::File);
        let default = || self.default_log.clone().map_or(Target::Stderr, Target::from);
        file.unwrap_or_else(default)
    }

    /// The same as arguments of a command line.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let owner = self.default_owner.map(|uid| flag("default-owner", uid.to_string().as_ref()));
        let log = self.default_log.as_deref().map(|place| flag("default-log", place));
        let level = self.default_log_level.as_ref();
        let level = level.map(|level| flag("default-log-level", level.to_string().as_ref()));
        let settings = self.settings.each().map(|(name, value)| flag(name, value));
        let doors = self.doors.then(|| "--doors".into());
        let own = [owner, log, level, doors].into_iter().flatten();
        own.chain(self.testing.arguments()).chain(settings).collect()
    }
}

pub(super) fn flag(name: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value);
    flag
}

/// Gives this process its name, by which `pgrep(1)` finds it. One that was started from a descriptor is
/// called `exe`, or by the descriptor's number.
pub(super) fn name_this_process() {
    // It is cut to 15 characters, and cannot fail.
    prctl::set_name(&CString::new(env!("CARGO_PKG_NAME")).unwrap_or_default()).ok();
}

/// This process's memory holds tokens: no core dumps, no debugger, no `/proc/PID/environ` for others.
pub(super) fn become_opaque() {
    if let Err(error) = prctl::set_dumpable(false) {
        tracing::warn!("cannot keep others out of my memory, and it holds tokens: {error}");
    }
}

/// No core dumps of this process and of what it starts, whatever becomes of their attributes.
pub(super) fn forbid_core_dumps() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0) {
        tracing::warn!("cannot turn core dumps off, and they would hold tokens: {error}");
    }
}
