//! What a token looks like in a file.
//!
//! A view is a pure function of a published token and the configuration. Adding one is a file in
//! `view/` and a line in the list below.

use serde::{Deserialize, Serialize};

use crate::secret::Rendered;
use crate::token::Published;

mod escape;

/// What views may know besides the token: the same for every view and every generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewContext {
    /// The hosts that the token is for, at least one, as the setting `host` lets them through: in lower
    /// case, a name or an address (IPv6 in brackets), perhaps with a port.
    pub hosts: Vec<String>,
}

/// One form of a token.
pub trait View: Sync {
    /// A fixed number, never reused for another view: inode numbers are made from it.
    fn id(&self) -> u8;

    /// The path in the mount: a name, or a directory and a name.
    fn path(&self) -> &'static str;

    /// Whether readers keep the token for a whole command. Their opens wait briefly for a fresh token
    /// instead of taking one that is about to expire.
    fn is_held(&self) -> bool {
        false
    }

    /// Appends the bytes of the view.
    fn render(&self, token: &Published, context: &ViewContext, out: &mut Rendered);
}

/// Declares every view: its module and its type.
macro_rules! views {
    ($($module:ident::$view:ident;)*) => {
        $(pub mod $module;)*

        /// Every view, in the order in which a rotation changes them: the token first, views that
        /// are read together next to each other.
        pub static ALL: &[&dyn View] = &[$(&$module::$view),*];
    };
}

views! {
    token::TokenView;
    git_credential::GitCredential;
    netrc::Netrc;
    npmrc::Npmrc;
    header::Header;
    env::Env;
    token_json::TokenJson;
    expires_at::ExpiresAt;
    exec_credential::ExecCredential;
    gh_hosts::GhHosts;
    gh_config::GhConfig;
}

/// The view with this number.
#[must_use]
pub fn by_id(id: u8) -> Option<&'static dyn View> {
    ALL.iter().copied().find(|view| view.id() == id)
}

/// The view at this path.
#[must_use]
pub fn by_path(path: &str) -> Option<&'static dyn View> {
    ALL.iter().copied().find(|view| view.path() == path)
}

/// The bytes of a view.
#[must_use]
pub fn render(view: &dyn View, token: &Published, context: &ViewContext) -> Rendered {
    let mut out = Rendered::with_capacity(token.secret.expose().len() + 256);
    view.render(token, context, &mut out);
    out
}

/// What the tests of the views share.
#[cfg(test)]
pub(crate) mod testing {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::{View, ViewContext, render};
    use crate::secret::Secret;
    use crate::token::Published;

    /// A token like GitHub's, with every byte that its grammar allows between `ghs_` and the end.
    pub(crate) const TOKEN: &str = "ghs_1_aB.c-D";

    pub(crate) fn published(token: &str, expires: bool) -> Published {
        Published {
            secret: Secret::new(token.as_bytes().to_vec()).unwrap(),
            expires_at: expires.then(|| "2026-04-17T22:50:00Z".parse().unwrap()),
        }
    }

    pub(crate) fn context(hosts: &[&str]) -> ViewContext {
        ViewContext { hosts: hosts.iter().map(ToString::to_string).collect() }
    }

    /// The bytes of a view of `token`, with an expiry, for `github.com`.
    pub(crate) fn text(view: &dyn View, token: &str) -> String {
        let bytes = render(view, &published(token, true), &context(&["github.com"]));
        String::from_utf8(bytes.as_bytes().to_vec()).unwrap()
    }

    /// The number and path of a view and its bytes, with and without an expiry, each newline
    /// visible: what the snapshots hold.
    pub(crate) fn sample(view: &dyn View, hosts: &[&str]) -> String {
        let mut out = format!("{} {}\n", view.id(), view.path());
        for (title, expires) in [("expiry known", true), ("expiry unknown", false)] {
            let bytes = render(view, &published(TOKEN, expires), &context(hosts));
            let text = String::from_utf8(bytes.as_bytes().to_vec()).unwrap();
            write!(out, "--- {title}\n{}", text.replace('\n', "⏎\n")).unwrap();
            if !text.ends_with('\n') {
                out.push('\n');
            }
        }
        out
    }

    /// Any token at all, with those bytes often in it that mean something to some format.
    pub(crate) fn any_token() -> impl Strategy<Value = String> {
        let byte = prop_oneof![
            4 => (0x21_u8..=0x7e).prop_map(char::from),
            3 => proptest::sample::select(r#""\#'`$:{}[]&*!|>%@~-?,;="#.chars().collect::<Vec<_>>()),
        ];
        proptest::collection::vec(byte, 1..40).prop_map(|chars| chars.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_view_has_a_number_and_a_path_of_its_own() {
        let ids: HashSet<_> = ALL.iter().map(|view| view.id()).collect();
        let paths: HashSet<_> = ALL.iter().map(|view| view.path()).collect();
        assert_eq!((ids.len(), paths.len()), (ALL.len(), ALL.len()));
        for view in ALL {
            assert_eq!(by_id(view.id()).unwrap().path(), view.path());
            assert_eq!(by_path(view.path()).unwrap().id(), view.id());
            assert!(view.path().split('/').count() <= 2, "{}", view.path());
        }
        assert_eq!(ALL[0].path(), "token");
        assert!(by_id(u8::MAX).is_none() && by_path("nothing").is_none());
    }

    proptest! {
        #[test]
        fn no_token_can_add_a_line_to_a_view(token in testing::any_token()) {
            for &view in ALL {
                let text = testing::text(view, &token);
                let usual = testing::text(view, testing::TOKEN);
                prop_assert_eq!(text.lines().count(), usual.lines().count(), "{}", view.path());
                prop_assert_eq!(text.ends_with('\n'), view.path() != "token", "{}", view.path());
                prop_assert!(!text.is_empty());
            }
        }
    }
}
