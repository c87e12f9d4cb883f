//! `gh/config.yml`: gh's settings, for a `GH_CONFIG_DIR` that is the view's directory.
//!
//! `version` must be there: without it gh 2.61 and 2.88 want to migrate the file, cannot write it,
//! and give up on every command.

use crate::secret::Rendered;
use crate::token::Published;
use crate::view::{View, ViewContext};

/// See the module.
pub struct GhConfig;

impl View for GhConfig {
    fn id(&self) -> u8 {
        7
    }

    fn path(&self) -> &'static str {
        "gh/config.yml"
    }

    fn render(&self, _: &Published, _: &ViewContext, out: &mut Rendered) {
        out.push_str("version: \"1\"\ngit_protocol: https\nprompt: disabled\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::sample;

    #[test]
    fn it_is_the_same_whatever_the_token_and_the_hosts() {
        insta::assert_snapshot!(sample(&GhConfig, &["ghe.test"]), @r#"
        7 gh/config.yml
        --- expiry known
        version: "1"⏎
        git_protocol: https⏎
        prompt: disabled⏎
        --- expiry unknown
        version: "1"⏎
        git_protocol: https⏎
        prompt: disabled⏎
        "#);
    }
}
