//! What the headers of an answer say, as far as it counts here.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AGE, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER};

use super::Limit;
use crate::time::Now;

/// The longest wish of a server that is heeded: a mistaken header must not silence us for ever.
/// GitHub's rate limits are reset within the hour.
const LONGEST_WISH: Duration = Duration::from_hours(1);

/// `Date` is cut to seconds: the server's clock was up to this much further.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// `Date`, if there is one. Two that differ are none.
fn server_date(headers: &HeaderMap) -> Option<Timestamp> {
    let mut dates = headers.get_all(DATE).iter().map(|date| parse_http_date(date.to_str().ok()?));
    let first = dates.next()??;
    dates.all(|other| other == Some(first)).then_some(first)
}

/// See [`Answer::server`](super::Answer::server).
pub(super) fn server_time(headers: &HeaderMap) -> Option<Duration> {
    let date = Duration::try_from(server_date(headers)?.as_duration()).unwrap_or_default();
    Some(date.saturating_add(DATE_RESOLUTION).saturating_add(age(headers)))
}

/// For how long a cache has kept the answer: the longest that any of them says. What is no number is
/// ignored, as RFC 9111 §5.1 wants it.
fn age(headers: &HeaderMap) -> Duration {
    let lines = headers.get_all(AGE).iter().filter_map(|line| line.to_str().ok());
    let ages = lines.flat_map(|line| line.split(',')).map(str::trim);
    let is_number = |age: &&str| !age.is_empty() && age.bytes().all(|b| b.is_ascii_digit());
    // Too many digits for a number are a very long time, too (§1.2.2).
    let seconds = ages.filter(is_number).map(|age| age.parse().unwrap_or(u64::MAX));
    Duration::from_secs(seconds.max().unwrap_or_default())
}

/// The media types that are worth a word in a message. No other is repeated: a server could have put
/// our bearer into it.
const MEDIA_TYPES: [&str; 7] = [
    "application/json",
    "application/octet-stream",
    "application/problem+json",
    "application/xml",
    "text/html",
    "text/plain",
    "text/xml",
];

/// The media type, if it is one of [`MEDIA_TYPES`]; else words that say so.
pub(super) fn content_type(headers: &HeaderMap) -> &'static str {
    let Some(value) = headers.get(CONTENT_TYPE) else { return "no content type" };
    let claimed = value.to_str().ok().and_then(|value| value.split(';').next()).map(str::trim);
    MEDIA_TYPES
        .into_iter()
        .find(|known| claimed.is_some_and(|claimed| claimed.eq_ignore_ascii_case(known)))
        .unwrap_or("an unusual content type")
}

/// How long the server wants to be left alone: `Retry-After` (RFC 9110 §10.2.3), or the reset of a
/// rate limit that is used up (GitHub's headers). At most [`LONGEST_WISH`].
fn wish(headers: &HeaderMap, issued: Now) -> Option<Duration> {
    let server = server_date(headers).unwrap_or_else(|| issued.timestamp());
    let until =
        |when: Timestamp| Duration::try_from(when.duration_since(server)).unwrap_or_default();
    let retry_after = text(headers, &RETRY_AFTER).and_then(|value| {
        if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
            // Too many digits for a number are a very long time, too.
            Some(value.parse().map_or(LONGEST_WISH, Duration::from_secs))
        } else {
            parse_http_date(value).map(until)
        }
    });
    let used_up = || {
        if !rate_is_used_up(headers) {
            return None;
        }
        let reset = text(headers, &HeaderName::from_static("x-ratelimit-reset"))?;
        reset.parse().ok().and_then(|second| Timestamp::from_second(second).ok()).map(until)
    };
    retry_after.or_else(used_up).map(|wish| wish.min(LONGEST_WISH))
}

/// Both of what headers say of rate limits.
pub(super) fn limit(headers: &HeaderMap, issued: Now) -> Limit {
    Limit { wish: wish(headers, issued), is_used_up: rate_is_used_up(headers) }
}

fn rate_is_used_up(headers: &HeaderMap) -> bool {
    text(headers, &HeaderName::from_static("x-ratelimit-remaining")) == Some("0")
}

/// A time as HTTP writes it, in any of the three forms that a recipient must accept
/// (RFC 9110 §5.6.7).
fn parse_http_date(text: &str) -> Option<Timestamp> {
    httpdate::parse_http_date(text).ok()?.try_into().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::source::http) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn all_three_forms_of_an_http_date_are_read() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            let read = parse_http_date(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(read.as_second(), 784_111_777, "{text}");
        }
        for text in ["", "soon", "1994-11-06", "Sun, 06 Nov 1994"] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn a_servers_wish_is_read_in_all_its_forms_and_capped() {
        let now = Now { boot: Duration::ZERO, wall: Duration::from_secs(784_111_777) };
        let seconds = |n| Some(Duration::from_secs(n));
        let wish = |pairs: &[_]| wish(&headers(pairs), now);
        assert_eq!(wish(&[]), None);
        assert_eq!(wish(&[("retry-after", "7")]), seconds(7));
        assert_eq!(wish(&[("retry-after", "999999999999999999999999")]), Some(LONGEST_WISH));
        assert_eq!(wish(&[("retry-after", "-7")]), None);
        // By our clock without the server's, and by the server's with it.
        let date = "Sun, 06 Nov 1994 08:50:37 GMT";
        assert_eq!(wish(&[("retry-after", date)]), seconds(60));
        assert_eq!(
            wish(&[("retry-after", date), ("date", "Sun, 06 Nov 1994 08:50:17 GMT")]),
            seconds(20)
        );
        assert_eq!(
            wish(&[("retry-after", date), ("date", "Mon, 07 Nov 1994 08:00:00 GMT")]),
            seconds(0)
        );
        let reset = ("x-ratelimit-reset", "784111807");
        assert_eq!(wish(&[reset, ("x-ratelimit-remaining", "0")]), seconds(30));
        assert_eq!(wish(&[reset, ("x-ratelimit-remaining", "1")]), None);
        assert_eq!(wish(&[reset]), None);
    }

    #[test]
    fn only_a_known_media_type_is_repeated() {
        let of = |value: &str| content_type(&headers(&[("content-type", value)]));
        assert_eq!(of("Text/HTML; charset=utf-8"), "text/html");
        for unknown in ["ghs_secret", "application/ghs_secret", "a/b c", "", "text/html/ghs"] {
            assert_eq!(of(unknown), "an unusual content type", "{unknown}");
        }
        assert_eq!(content_type(&HeaderMap::new()), "no content type");
    }

    #[test]
    fn the_servers_clock_is_its_date_and_what_caches_add() {
        const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let seconds = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(HeaderName::from_static(name), value.parse().unwrap());
            }
            server_time(&headers).map(|time| time.as_secs())
        };
        let at = |second: u64| Some(784_111_778 + second);
        assert_eq!(seconds(&[DATE]), at(0));
        for (age, added) in [
            ("0", 0),
            ("30", 30),
            (" 30 ", 30),
            ("30, 40", 40),
            ("-1", 0),
            ("1.5", 0),
            ("", 0),
            ("soon", 0),
            ("+3", 0),
        ] {
            assert_eq!(seconds(&[DATE, ("age", age)]), at(added), "{age:?}");
        }
        assert_eq!(seconds(&[DATE, ("age", "30"), ("age", "40"), ("age", "x")]), at(40));
        let endless = "99999999999999999999999999";
        assert_eq!(seconds(&[DATE, ("age", endless)]), Some(u64::MAX));
        assert_eq!(seconds(&[DATE, DATE]), at(0), "said twice");
        for dates in [
            [DATE, ("date", "Sun, 06 Nov 1994 08:49:38 GMT")],
            [("date", "Sun, 06 Nov 1994 08:49:38 GMT"), DATE],
            [DATE, ("date", "now")],
            [("date", "now"), DATE],
        ] {
            assert_eq!(seconds(&dates), None, "{dates:?}");
        }
        assert_eq!(seconds(&[("age", "30")]), None);
        assert_eq!(seconds(&[("date", "Thu, 01 Jan 1970 00:00:00 GMT")]), Some(1));
    }
}
