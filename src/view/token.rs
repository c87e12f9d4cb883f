//! `token`: the bytes of the token and nothing else, not even a newline.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::{View, ViewContext};

/// See the module.
pub struct TokenView;

impl View for TokenView {
    fn id(&self) -> u8 {
        0
    }

    fn path(&self) -> &'static str {
        "token"
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_secret(&token.secret);
    }
}
