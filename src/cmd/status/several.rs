//! Several tokens of a mount: a line for each, and for those that are not well what fails.

use jiff::Timestamp;

use super::{LABEL, about_the_mount, failures, list, relative, unlisted};
use crate::status::{State, Status, TokenStatus};

/// What stands above the lines.
const TITLES: [&str; 4] = ["token", "state", "expires", "source"];

/// What a person reads: the verdict, each token in a line, what fails.
pub(super) fn text(status: &Status, now: Timestamp) -> String {
    let mut out = format!("{}: {}\n\n", status.state.name(), status.summary);
    let rows: Vec<_> = status.tokens.iter().map(|token| row(token, now)).collect();
    let widths: Vec<_> = TITLES
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).fold(title.len(), usize::max)
        })
        .collect();
    let titles = TITLES.map(str::to_owned);
    let what = std::iter::once("what to do").chain(status.tokens.iter().map(what_to_do));
    for (row, what) in std::iter::once(&titles).chain(&rows).zip(what) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        line!(out, "{}", (cells.collect::<String>() + what).trim_end());
    }
    for token in status.tokens.iter().filter(|token| !token.failures.is_empty()) {
        failures(&mut out, &format!("what fails: {}", token.name), token, now);
    }
    let mut notes: Vec<String> = Vec::new();
    for note in status.tokens.iter().flat_map(|token| &token.notes) {
        // The same of each, that they are files for one.
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    list(&mut out, "good to know", notes.iter().chain(&unlisted(status)));
    line!(out, "\nwhere");
    about_the_mount(&mut out, status, now);
    let command = format!("molecule-tokenfs status --token NAME {}", status.mountpoint);
    line!(out, "  {:<LABEL$}{command}", "all about one");
    out
}

fn row(token: &TokenStatus, now: Timestamp) -> [String; 4] {
    let expires = match (token.expires_at, token.left_seconds) {
        (Some(at), _) => relative(at, now),
        (None, Some(_)) => "nobody knows".to_owned(),
        (None, None) => "-".to_owned(),
    };
    let source = token.source.as_deref().unwrap_or("-");
    [token.name.clone(), token.state.name().to_owned(), expires, source.to_owned()]
}

/// Nothing for one that is well.
fn what_to_do(token: &TokenStatus) -> &str {
    match token.state {
        State::Fresh | State::Idle => "",
        State::Degraded | State::None => token.advice.first().unwrap_or(&token.summary),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::error::FetchErrorKind;
    use crate::status::OnDemandStatus;
    use crate::status::testing::{Scene, many_on_demand, now};

    #[test]
    fn each_token_has_a_line_and_the_one_that_is_not_well_says_what_to_do() {
        let mut status = Scene::fresh().document();
        status.tokens[0].name = "default".to_owned();
        for (name, mut scene) in
            [("acme", Scene::idle()), ("globex-labs", Scene::failing(FetchErrorKind::Unauthorized))]
        {
            scene.identity.name = name.to_owned();
            status.add(scene.document());
        }
        insta::assert_snapshot!(text(&status, now().timestamp()), @r"
        none: globex-labs: there is no token yet, and platform gives none: the source says that our bearer is wrong (what exactly)

        token        state  expires  source    what to do
        default      fresh  in 43m   platform
        acme         idle   -        -
        globex-labs  none   -        -         platform: register the workspace anew, so that the bearer file is written again; the file is watched

        what fails: globex-labs
          platform: the source says that our bearer is wrong (what exactly)
            7 times in a row since 2026-04-17T22:30:00Z, 20m ago, last 1m ago
          env: no token is configured here
          next try: 2026-04-17T22:50:20Z, in 20s (back-off)

        where
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago
          all about one molecule-tokenfs status --token NAME /run/molecule/token
        ");
    }

    #[test]
    fn tokens_on_demand_come_last_and_what_is_not_listed_is_counted() {
        let mut status = Scene::fresh().document();
        let failing = Scene::failing(FetchErrorKind::NotInstalled);
        let tokens =
            [Scene::fresh(), failing].into_iter().flat_map(|scene| many_on_demand(1, &scene));
        let mut tokens: Vec<_> = tokens.collect();
        tokens[1].name = "orgs/acmee".to_owned();
        status.add_on_demand(4, tokens);
        insta::assert_snapshot!(text(&status, now().timestamp()), @r"
        fresh: a token of platform is served

        token                   state  expires  source    what to do
        token                   fresh  in 43m   platform
        repos/acme/a-service-0  fresh  in 43m   platform
        orgs/acmee              none   -        -         platform: install it for this owner or repository on the App's page, or correct the source's `owner`, `repository` or `installation-id`

        what fails: orgs/acmee
          platform: the GitHub App is not installed there (what exactly)
            7 times in a row since 2026-04-17T22:30:00Z, 20m ago, last 1m ago
          env: no token is configured here
          next try: 2026-04-17T22:50:20Z, in 20s (back-off)

        good to know
          2 more tokens on demand are kept than there is room for here, opened longer ago: status --repo OWNER/REPO tells of one

        where
          mounted at    /run/molecule/token
          served by     version 0.1.0, pids 41 and 42, since 2026-04-17T21:20:00Z, 1h 30m ago
          all about one molecule-tokenfs status --token NAME /run/molecule/token
        ");
        status.on_demand = Some(OnDemandStatus { kept: 2, listed: 2 });
        assert!(!text(&status, now().timestamp()).contains("on demand"), "all are listed");
        status.tokens.truncate(1);
        status.on_demand = Some(OnDemandStatus { kept: 1, listed: 0 });
        let said = super::super::text(&status, Path::new(""), now().timestamp());
        assert!(
            said.contains("  1 token on demand is kept; which, is told to those who"),
            "{said}"
        );
    }

    #[test]
    fn what_is_good_to_know_of_all_is_said_once() {
        let mut scene = Scene::fresh();
        scene.identity.why_files = Some("there is no /dev/fuse here".to_owned());
        let mut status = scene.document();
        status.add(scene.document());
        let said = text(&status, now().timestamp());
        assert_eq!(said.matches("plain files").count(), 1, "{said}");
    }
}
