//! Defaults that follow from something else than the declaration of a setting.

use std::path::{Path, PathBuf};

use crate::config::Setting;
use crate::config::owner::{self, Caller};
use crate::config::tables::Tables;
use crate::foreign::Unreadable;
use crate::secret::Secret;

/// The host of tokens, where none is configured.
pub const DEFAULT_HOST: &str = "github.com";

/// What is known before the settings are read: the defaults of some follow from it.
pub struct Found {
    /// Who runs this process.
    pub caller: Caller,
    /// The file that was read, where there is one.
    pub file: Option<PathBuf>,
    /// Whom the configs directory belongs to, where root asks.
    pub configs_owner: Option<Result<u32, Unreadable>>,
    /// The token of the environment.
    pub token: Setting<Option<Secret>>,
    /// The tables of the file.
    pub tables: Tables,
    /// What is odd; more may come.
    pub warnings: Vec<String>,
}

/// The owner of the files where nobody says who.
pub fn owner(found: &mut Found, configs_dir: &Path) -> Setting<u32> {
    let owner = found.configs_owner.as_ref();
    owner::default_owner(found.caller, configs_dir, owner, &mut found.warnings)
}

/// The group of the files where nobody says which.
pub fn group(found: &mut Found, owner: &u32) -> Setting<u32> {
    owner::default_group(found.caller, *owner)
}

/// The hosts that the file names beside the mount's token, else the usual one.
pub fn hosts(found: &mut Found) -> Setting<Vec<String>> {
    let hosts = found.tables.hosts().map(<[String]>::to_vec);
    Setting::default(hosts.unwrap_or_else(|| vec![DEFAULT_HOST.to_owned()]))
}
