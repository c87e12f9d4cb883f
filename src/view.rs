//! What a token looks like in a file.
//!
//! A view is a pure function of a published token and the configuration. Adding one is a file in
//! `view/` and a line in [`ALL`].

use crate::secret::Rendered;
use crate::token::Published;

pub mod token;

/// What views may know besides the token: the same for every view and every generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewContext {
    /// The hosts that the token is for, at least one; the first is the main one. A host may carry a
    /// port.
    pub hosts: Vec<String>,
}

/// One form of a token.
pub trait View: Sync {
    /// A fixed number, never reused for another view: inode numbers are made from it.
    fn id(&self) -> u8;

    /// The path in the mount: a name, or a directory and a name.
    fn path(&self) -> &'static str;

    /// Appends the bytes of the view.
    fn render(&self, token: &Published, context: &ViewContext, out: &mut Rendered);
}

/// Every view, in the order in which a rotation changes them: the token first, views that are read
/// together next to each other.
pub static ALL: &[&dyn View] = &[&token::TokenView];

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
