//! `header`: a header line, for `curl -H @header`.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::{View, ViewContext};

/// See the module.
pub struct Header;

impl View for Header {
    fn id(&self) -> u8 {
        3
    }

    fn path(&self) -> &'static str {
        "header"
    }

    fn render(&self, token: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_str("Authorization: Bearer ");
        out.push_secret(&token.secret);
        out.push_str("\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::sample;

    #[test]
    fn it_is_one_bearer_header() {
        insta::assert_snapshot!(sample(&Header, &["github.com"]), @r"
        3 header
        --- expiry known
        Authorization: Bearer ghs_1_aB.c-D⏎
        --- expiry unknown
        Authorization: Bearer ghs_1_aB.c-D⏎
        ");
    }
}
