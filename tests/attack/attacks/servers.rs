//! Servers that answer for the platform, and should not.

use std::thread::sleep;

use molecule_tokenfs::demo::faults::{Fault, Service};
use rand::rngs::StdRng;

use super::{Attack, boxed};
use crate::platform::Answers;
use crate::scene::{LIFE, Scene};
use crate::support::millis;
use crate::support::server::bearer;

/// A server that speaks what no platform speaks.
struct Bad(&'static str, Answers);

impl Attack for Bad {
    fn name(&self) -> &str {
        self.0
    }

    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
        scene.front.answer_with(Some(self.1));
        ask_it(scene, random);
        Ok(())
    }
}

/// A platform that has a fault.
struct Faulty(&'static str, Fault);

impl Attack for Faulty {
    fn name(&self) -> &str {
        self.0
    }

    fn run(&self, scene: &Scene<'_>, random: &mut StdRng) -> Result<(), String> {
        scene.demo.faults().stick(Service::Platform, Some(self.1));
        ask_it(scene, random);
        if is_about_time(self.1) {
            // What is taken to live for too long must have the time to die.
            sleep(LIFE);
        }
        if scene.demo.strays().with_credential() > 0 {
            return Err("the bearer was sent to another origin".to_owned());
        }
        Ok(())
    }
}

fn is_about_time(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::DateOff(_) | Fault::TwoDates(_) | Fault::NoDate | Fault::Age(_) | Fault::Repeat
    )
}

/// Opens must wait for it, or are served a token that is there.
fn ask_it(scene: &Scene<'_>, random: &mut StdRng) {
    scene.reject_perhaps(random);
    scene.refresh();
    sleep(scene.span(random));
}

pub fn all() -> Vec<Box<dyn Attack>> {
    let mut all = boxed(BAD.iter().map(|&(name, answers)| Bad(name, answers)));
    all.extend(boxed(FAULTS.iter().map(|&(name, fault)| Faulty(name, fault))));
    all
}

const OK: &str = "HTTP/1.1 200 OK\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

const BAD: &[(&str, Answers)] = &[
    ("a body in chunks of one byte", |_, to| {
        to.send(CHUNKED);
        to.send_for_ever("1\r\nx\r\n".repeat(1000));
    }),
    ("a body without an end", |_, to| {
        to.send(OK.to_owned() + "\r\n");
        to.send_for_ever("x".repeat(100_000));
    }),
    ("a byte at a time", |_, to| {
        to.send(OK.to_owned() + "\r\n");
        while to.send("x") {
            sleep(millis(10));
        }
    }),
    ("a length that is announced and not sent", |_, to| {
        to.send(OK.to_owned() + "Content-Length: 1048576\r\n\r\nx");
        sleep(millis(2500));
    }),
    ("headers without an end", |_, to| {
        to.send(OK);
        to.send_for_ever("X: y\r\n".repeat(1000));
    }),
    ("a header without an end", |_, to| {
        to.send(OK.to_owned() + "X: ");
        to.send_for_ever("y".repeat(100_000));
    }),
    ("a status line without an end", |_, to| {
        to.send("HTTP/1.1 200 ");
        to.send_for_ever("y".repeat(100_000));
    }),
    ("informational answers without an end", |_, to| {
        to.send_for_ever("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100));
    }),
    ("extensions of chunks without an end", |_, to| {
        to.send(CHUNKED);
        to.send_for_ever(format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(10));
    }),
    ("trailers without an end", |_, to| {
        to.send(CHUNKED.to_owned() + "1\r\nx\r\n0\r\n");
        to.send_for_ever("X: y\r\n".repeat(1000));
    }),
    ("JSON of a hundred thousand brackets", |_, to| {
        to.send(OK.to_owned() + "Content-Type: application/json\r\n\r\n");
        to.send("[".repeat(100_000));
    }),
    ("the bearer as the kind of the content", |head, to| {
        let bearer = bearer(head).unwrap_or_default();
        to.send(format!("{OK}Content-Type: {bearer}\r\nContent-Length: 2\r\n\r\n{{}}"));
    }),
    ("the bearer as the place to go to", |head, to| {
        let bearer = bearer(head).unwrap_or_default();
        to.send(format!("HTTP/1.1 302 Found\r\nLocation: http://{bearer}/{bearer}\r\n\r\n"));
    }),
    ("the bearer as the reason and in the body", |head, to| {
        let bearer = bearer(head).unwrap_or_default();
        let body = format!("{{\"error\": \"{bearer}\", \"message\": \"{bearer}\"}}");
        let length = body.len();
        to.send(format!("HTTP/1.1 500 {bearer}\r\nContent-Length: {length}\r\n\r\n{body}"));
    }),
    ("a way to an evil host", |_, to| {
        to.send("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://evil.local/take\r\n\r\n");
    }),
];

const FAULTS: &[(&str, Fault)] = &[
    ("a clock in 1970", Fault::DateOff(-1_700_000_000)),
    ("a clock half an hour behind", Fault::DateOff(-1800)),
    ("a clock two hours behind", Fault::DateOff(-7200)),
    ("a clock three seconds behind", Fault::DateOff(-3)),
    ("a clock half an hour ahead", Fault::DateOff(1800)),
    ("two dates, one half an hour behind", Fault::TwoDates(-1800)),
    ("two dates, one an hour ahead", Fault::TwoDates(3600)),
    ("no date", Fault::NoDate),
    ("an answer that a cache kept for three seconds", Fault::Age(3)),
    ("an answer that a cache kept for a minute", Fault::Age(60)),
    ("a platform that hangs", Fault::Hang),
    ("a platform that is slow", Fault::Slow(millis(1500))),
    ("a platform that resets", Fault::Reset),
    ("a platform that repeats its tokens, dead ones too", Fault::Repeat),
    ("tokens that are born dead", Fault::BornExpired),
    ("an answer that is cut", Fault::Cut),
    ("a login page", Fault::Html),
    ("ten megabytes", Fault::HugeStream),
    ("a token with a NUL", Fault::NulToken),
    ("an empty token", Fault::EmptyToken),
    ("a way to another origin", Fault::RedirectElsewhere),
    ("a way that leads to itself", Fault::RedirectLoop),
    ("a platform that asks to wait", Fault::RetryAfter(2)),
    ("a platform that refuses the bearer", Fault::Status(401)),
];
