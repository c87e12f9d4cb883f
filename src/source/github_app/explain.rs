//! What an error means where a GitHub App is asked, and not the platform.

use crate::error::{Explanation, FetchErrorKind};

/// The words for a key that is none in a variable.
pub(super) const KEY_OF_A_VARIABLE: Explanation = Explanation {
    sentence: "the App's private key cannot be used",
    remedy: "set the variable that `private-key` names to the key as GitHub gives it (PEM), in the environment that the daemon is started in, and start it again",
};

/// The words for a budget of our own that is used up: GitHub has nothing to do with it.
pub(super) const BUDGET_USED_UP: Explanation = Explanation {
    sentence: "the App may mint no more tokens in this minute",
    remedy: "wait: it is tried again when there is room; `mints-per-minute` of the source says how many",
};

/// The words for an error; `None` where the usual ones hold.
pub(super) fn explain(kind: FetchErrorKind) -> Option<Explanation> {
    use FetchErrorKind as Kind;
    let (sentence, remedy) = match kind {
        Kind::NotConfigured => {
            ("the source is not configured rightly", "correct `api-url` and `proxy` of the source")
        }
        Kind::BearerNotRead => (
            "the App's private key could not be read just now",
            "look at the file system that the key lies on; it is tried again by itself",
        ),
        Kind::Unreachable => (
            "GitHub cannot be reached",
            "check the network from here, and `api-url` and `proxy` of the source: curl -sS https://api.github.com/zen",
        ),
        Kind::TimedOut => (
            "GitHub did not answer in time",
            "see https://www.githubstatus.com; it is tried again by itself",
        ),
        Kind::ServerError => (
            "GitHub failed to mint a token",
            "see https://www.githubstatus.com; it is tried again by itself",
        ),
        Kind::RateLimited => {
            ("GitHub limits the App's rate", "wait: it is tried again when GitHub allows it")
        }
        Kind::Unauthorized => (
            "GitHub does not accept the App's signature",
            "check that `client-id` or `app-id` and `private-key` belong to the same App, and that the key was not deleted on the App's page",
        ),
        Kind::Forbidden => (
            "GitHub forbids the App a token",
            "read what GitHub says; an IP allow list of the owner must have this machine's address",
        ),
        Kind::NotFound => ("GitHub has nothing at this address", "check `api-url` of the source"),
        Kind::BadAnswer => (
            "the answer is not one of GitHub's",
            "check `api-url` of the source: it must be GitHub's API (for GitHub Enterprise Server https://HOST/api/v3) and no proxy or login page",
        ),
        Kind::Redirected => (
            "GitHub redirects to another origin, where the App's signature must not go",
            "set `api-url` to the address that it redirects to, if that is GitHub",
        ),
        Kind::BornExpired => (
            "GitHub gave a token that had already expired",
            "check the clock of this machine: date -u",
        ),
        Kind::ClocksDisagree => (
            "GitHub's clock and this machine's disagree, and by one of them the token has expired",
            "set this machine's clock: compare `date -u` with the Date of https://api.github.com",
        ),
        Kind::Rejected => (
            "GitHub's tokens are refused",
            "check that the App is still installed there, and not suspended",
        ),
        _ => return None,
    };
    Some(Explanation { sentence, remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_github_knows_as_another_thing_is_explained_in_its_words() {
        for kind in FetchErrorKind::ALL {
            let explanation = explain(kind).unwrap_or_else(|| kind.explain());
            for word in
                ["PLATFORM_URL", "CONFIGS_DIR", "WORKSPACE_ID", "workspace", "bearer", "platform"]
            {
                let text = format!("{} {}", explanation.sentence, explanation.remedy);
                // These never come from GitHub's side.
                let is_foreign =
                    matches!(kind, FetchErrorKind::NotRegistered | FetchErrorKind::BearerUnusable);
                assert!(is_foreign || !text.contains(word), "{kind:?}: {text}");
            }
        }
    }
}
