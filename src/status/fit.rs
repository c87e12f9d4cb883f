//! The bytes of `status.json`: they are as many as there is room for, whatever they tell.

use super::{OnDemandStatus, Status, size};

/// The bytes of `status.json`: JSON, spaces, a newline, [`size`] bytes in all.
#[must_use]
pub fn padded(status: &Status) -> Vec<u8> {
    let mut bytes = fitted(status);
    bytes.resize(size(status.configured().len(), status.on_demand.is_some()) - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// JSON of less than [`size`] bytes. What does not fit is cut: the line breaks, the oldest history,
/// and what else can be left out. Of the tokens on demand so many are listed as there is room for.
#[must_use]
pub fn fitted(status: &Status) -> Vec<u8> {
    let tokens = status.configured().len();
    let room = size(tokens, status.on_demand.is_some());
    // Strings, numbers and lists: serialisation has no way to fail.
    let bytes = serde_json::to_vec_pretty(status).unwrap_or_default();
    if bytes.len() < room {
        return bytes;
    }
    let mut cut = status.clone();
    let on_demand = cut.tokens.split_off(tokens);
    cut.on_demand = cut.on_demand.map(|on_demand| OnDemandStatus { listed: 0, ..on_demand });
    // However many are on demand, they take no room from the others.
    let room_of_the_others = size(tokens, false);
    let mut bytes = serde_json::to_vec(&cut).unwrap_or_default();
    while bytes.len() >= room_of_the_others {
        if !shorten(&mut cut) {
            return Vec::new();
        }
        bytes = serde_json::to_vec(&cut).unwrap_or_default();
    }
    let Some(told) = status.on_demand else { return bytes };
    // The number of those that are listed may have more digits now.
    let mut left = room.saturating_sub(bytes.len() + DIGITS);
    let mut listed = 0;
    for token in on_demand {
        // With the comma.
        let length = serde_json::to_vec(&token).unwrap_or_default().len() + 1;
        if length >= left {
            break;
        }
        left -= length;
        listed += 1;
        cut.tokens.push(token);
    }
    cut.on_demand = Some(OnDemandStatus { listed, ..told });
    serde_json::to_vec(&cut).unwrap_or_default()
}

/// Those of the largest number.
const DIGITS: usize = 20;

/// Leaves out the least important thing there is; false when nothing is left.
fn shorten(status: &mut Status) -> bool {
    let longest = status.tokens.iter_mut().max_by_key(|token| token.history.len());
    if let Some(token) = longest.filter(|token| !token.history.is_empty()) {
        token.history.remove(0);
        return true;
    }
    let mut removed = false;
    for token in &mut status.tokens {
        removed |= token.notes.pop().is_some() | token.failures.pop().is_some();
    }
    if removed {
        return true;
    }
    if status.tokens.pop().is_some() {
        return true;
    }
    // A path of control characters only, each six bytes long in JSON.
    !std::mem::take(&mut status.mountpoint).is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::FetchErrorKind;
    use crate::status::testing::{Scene, failing, many_on_demand};
    use crate::status::{HistoryEntry, ON_DEMAND_SIZE, SIZE, State};

    fn read(padded: &[u8]) -> Status {
        assert_eq!(padded.len() % SIZE, 0);
        assert_eq!(padded.last(), Some(&b'\n'));
        assert!(!padded.contains(&0));
        serde_json::from_slice(padded).unwrap()
    }

    #[test]
    fn a_padded_document_is_read_back_as_it_was() {
        let status = Scene::fresh().document();
        let padded = padded(&status);
        assert_eq!(read(&padded), status);
        assert!(padded.starts_with(b"{\n  \"state\": \"fresh\""), "made to be read");
    }

    #[test]
    fn however_many_tokens_there_are_each_is_in_the_document() {
        let mut scene = Scene::fresh();
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::ServerError)];
        let mut status = scene.document();
        for number in 1..40 {
            scene.identity.name = format!("{number:039}");
            status.add(scene.document());
        }
        let padded = padded(&status);
        assert_eq!(padded.len(), 40 * SIZE);
        assert_eq!(serde_json::from_slice::<Status>(&padded).unwrap(), status);
    }

    #[test]
    fn all_tokens_on_demand_that_can_be_kept_are_listed_while_they_are_well() {
        let mut status = Scene::fresh().document();
        let (state, summary) = (status.state, status.summary.clone());
        status.add_on_demand(256, many_on_demand(256, &Scene::fresh()));
        let cut = read(&padded(&status));
        assert_eq!(cut.on_demand, Some(OnDemandStatus { kept: 256, listed: 256 }));
        assert_eq!((cut.state, &cut.summary), (state, &summary), "they say nothing of the mount");
        assert_eq!((cut.configured().len(), cut.on_demand().len()), (1, 256));
        assert_eq!(cut.tokens, status.tokens);
    }

    #[test]
    fn what_does_not_fit_of_the_tokens_on_demand_is_counted_and_takes_nothing_from_the_others() {
        let mut scene = Scene::fresh();
        scene.snapshot.failures = vec![failing("platform", FetchErrorKind::ServerError)];
        let mut status = scene.document();
        status.add(scene.document());
        let whole = status.clone();
        let long = "x".repeat(300);
        let mut tokens = many_on_demand(256, &Scene::failing(FetchErrorKind::NotInstalled));
        for token in &mut tokens {
            token.failures.iter_mut().for_each(|failure| failure.detail.clone_from(&long));
        }
        status.add_on_demand(256, tokens);
        let padded = padded(&status);
        assert_eq!(padded.len(), 2 * SIZE + ON_DEMAND_SIZE);
        let cut = read(&padded);
        assert_eq!(cut.configured(), whole.tokens, "not a word of theirs is missing");
        let OnDemandStatus { kept, listed } = cut.on_demand.unwrap();
        assert_eq!((kept, cut.on_demand().len()), (256, listed));
        assert!((50..256).contains(&listed), "{listed}");
        assert_eq!(cut.on_demand(), &status.on_demand()[..listed], "the most lately opened");
        let used = padded.trim_ascii_end().len();
        assert!(padded.len() - used < 4096, "as many as there is room for: {used} bytes");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn whatever_is_too_long_is_cut_until_it_fits(
            mountpoint in "[\\x01\"a-c]{0,4096}",
            detail in "\\PC{0,2000}",
            events in 0_usize..21,
            tokens in 1_usize..10,
            on_demand in 0_usize..300,
        ) {
            let mut status = Scene::fresh().document();
            status.mountpoint = mountpoint;
            let token = &mut status.tokens[0];
            let entry = token.history[0].clone();
            token.history = (0..events)
                .map(|_| HistoryEntry { reason: detail.clone(), ..entry.clone() })
                .collect();
            status.tokens = vec![status.tokens[0].clone(); tokens];
            let mut others = many_on_demand(on_demand, &Scene::fresh());
            for other in &mut others {
                other.summary.clone_from(&detail);
            }
            status.add_on_demand(on_demand, others);
            let padded = padded(&status);
            prop_assert_eq!(padded.len(), tokens * SIZE + ON_DEMAND_SIZE);
            let cut = read(&padded);
            prop_assert_eq!(cut.state, State::Fresh);
            prop_assert_eq!(cut.worker_pid, status.worker_pid);
            for token in cut.configured() {
                let newest = status.tokens[0].history.iter().rev().take(token.history.len());
                prop_assert!(newest.eq(token.history.iter().rev()), "the oldest go first");
            }
        }
    }
}
