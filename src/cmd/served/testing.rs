//! Flags for tests of the mount. A build without the Cargo feature `testing` has none of them.

use std::ffi::OsString;

use crate::source::SourceConfig;

#[cfg(feature = "testing")]
pub use with::TestingArgs;
#[cfg(not(feature = "testing"))]
pub use without::TestingArgs;

#[cfg(feature = "testing")]
mod with {
    use std::time::Duration;

    use super::{OsString, SourceConfig};
    use crate::cmd::served::flag;
    use crate::config;
    use crate::config::settings::shown_span;
    use crate::fs::fault::Fault;
    use crate::source::made_up::MadeUpConfig;

    /// What only tests ask for.
    #[derive(Debug, Clone, Default, clap::Args)]
    pub struct TestingArgs {
        /// Serve made-up tokens that live this long
        #[arg(long, hide = true, value_name = "LIFE", value_parser = config::parse::span_argument)]
        pub made_up: Option<Duration>,

        /// Break the worker at a certain place
        #[arg(long, hide = true, value_name = "ACTION:PLACE[:WHEN]")]
        pub fault: Option<Fault>,

        /// Do as on kernels before 6.9, which do not deliver again what a dead worker had read
        #[arg(long, hide = true)]
        pub without_resend: bool,
    }

    impl TestingArgs {
        /// The sources that stand in for those of the settings.
        pub(in crate::cmd) fn sources(&self) -> Option<Vec<SourceConfig>> {
            self.made_up.map(|life| vec![SourceConfig::MadeUp(MadeUpConfig { life })])
        }

        /// The same as arguments of a command line, but for what concerns the supervisor alone.
        pub(in crate::cmd) fn arguments(&self) -> impl Iterator<Item = OsString> {
            let life = self.made_up.map(|life| flag("made-up", shown_span(life).as_ref()));
            let fault = self.fault.as_ref().map(|fault| flag("fault", fault.to_string().as_ref()));
            [life, fault].into_iter().flatten()
        }

        /// Whether the kernel may be asked to deliver requests again.
        pub(in crate::cmd) fn resends(&self) -> bool {
            !self.without_resend
        }
    }
}

#[cfg(not(feature = "testing"))]
mod without {
    use super::{OsString, SourceConfig};

    /// Nothing: this build has no flags for tests.
    #[derive(Debug, Clone, Default, clap::Args)]
    pub struct TestingArgs {}

    #[expect(clippy::unused_self, reason = "as in a build for tests")]
    impl TestingArgs {
        /// None stand in for those of the settings.
        pub(in crate::cmd) fn sources(&self) -> Option<Vec<SourceConfig>> {
            None
        }

        /// There are none.
        pub(in crate::cmd) fn arguments(&self) -> impl Iterator<Item = OsString> {
            std::iter::empty()
        }

        /// Always.
        pub(in crate::cmd) fn resends(&self) -> bool {
            true
        }
    }
}
