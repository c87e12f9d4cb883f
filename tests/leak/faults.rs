//! What goes wrong while tokens are fetched.

use std::fs;

use molecule_tokenfs::demo::faults::{Fault, Service};
use molecule_tokenfs::demo::ledger::Verdict;
use molecule_tokenfs::secret::Fingerprint;
use nix::errno::Errno;

use crate::support::limit::each;
use crate::support::namespace::sandboxed;
use crate::support::process::errno;
use crate::support::{eventually, secs};
use crate::tls::Tls;
use crate::{Driven, IN_THE_ENVIRONMENT, with_password};

#[derive(Debug, Clone, Copy)]
enum Wrong {
    Nothing,
    Answer(Fault),
    Refused,
    NoName,
    NoBearer,
    /// What the bearer file holds after the bearer.
    Bearer(&'static str),
}

const CASES: &[Wrong] = {
    use Wrong::{Answer, Bearer, NoBearer, NoName, Nothing, Refused};
    &[
        Nothing,
        Answer(Fault::Status(401)),
        Answer(Fault::Status(403)),
        Answer(Fault::Status(404)),
        Answer(Fault::Status(500)),
        Answer(Fault::RetryAfter(1)),
        Answer(Fault::RateLimit(1)),
        Answer(Fault::Hang),
        Answer(Fault::Close),
        Answer(Fault::Reset),
        Answer(Fault::Cut),
        Answer(Fault::Html),
        Answer(Fault::Truncated),
        Answer(Fault::EmptyToken),
        Answer(Fault::NewlineToken),
        Answer(Fault::NulToken),
        Answer(Fault::BornExpired),
        Answer(Fault::Huge),
        Answer(Fault::HugeStream),
        Answer(Fault::RedirectElsewhere),
        Answer(Fault::RedirectSame),
        Answer(Fault::RedirectLoop),
        Answer(Fault::NoDate),
        Answer(Fault::DateOff(-7200)),
        Answer(Fault::OtherKey),
        Answer(Fault::NoExpiry),
        Refused,
        NoName,
        NoBearer,
        Bearer("\n"),
        Bearer("\nanother line"),
        Bearer("\0"),
        Bearer("ä"),
    ]
};

#[test]
fn whatever_fails_no_token_bearer_or_password_comes_out() {
    sandboxed(secs(90), || {
        each(
            CASES,
            |wrong| format!("{wrong:?}"),
            |wrong| {
                let mut driven = Driven::start(|demo, dir, builder| {
                    let bearer = dir.join("configs/.auth_token");
                    let builder = builder.env("GITHUB_TOKEN", IN_THE_ENVIRONMENT);
                    match wrong {
                        Wrong::Nothing => {}
                        Wrong::Answer(fault) => demo.faults().stick(Service::Platform, Some(fault)),
                        Wrong::Refused => {
                            return builder
                                .env("PLATFORM_URL", with_password("http://127.0.0.1:1"));
                        }
                        Wrong::NoName => {
                            return builder.env("PLATFORM_URL", with_password("http://no.invalid"));
                        }
                        Wrong::NoBearer => fs::remove_file(bearer).unwrap(),
                        Wrong::Bearer(more) => {
                            let text = fs::read_to_string(&bearer).unwrap() + more;
                            fs::write(&bearer, text).unwrap();
                        }
                    }
                    builder
                });
                fs::read(driven.path("token")).expect("the environment's, where there is no other");
                driven.look();
                let can_heal = !matches!(wrong, Wrong::Refused | Wrong::NoName);
                if can_heal {
                    goes_on(&mut driven);
                }
                let log = driven.end();
                let mut libraries = vec!["molecule_tokenfs::", "fuser::"];
                if can_heal {
                    libraries.extend(["reqwest::", "hyper_util::"]);
                }
                for library in libraries {
                    assert!(log.contains(library), "no line of {library} in the log");
                }
            },
        );
    });
}

/// All is well again: a rotation, a reject, and what people write into `refresh` by mistake.
fn goes_on(driven: &mut Driven) {
    driven.demo.faults().heal();
    driven.demo.register(&driven.dir.join("configs")).unwrap();
    let token = eventually("a token of the platform", secs(30), || {
        // EAGAIN where it was asked for a moment ago.
        let _ = fs::write(driven.path("refresh"), "now");
        let token = fs::read(driven.path("token")).ok()?;
        (driven.demo.ledger().verdict(&token) == Verdict::Live).then_some(token)
    });
    let refused = fs::write(driven.path("refresh"), &token).unwrap_err();
    assert_eq!(errno(&refused), Some(Errno::EINVAL), "a token is no fingerprint");
    fs::write(driven.path("refresh"), Fingerprint::of(&token).to_string()).unwrap();
    eventually("another token", secs(10), || {
        fs::read(driven.path("token")).ok().filter(|other| *other != token)
    });
    driven.look();
}

#[test]
fn over_tls_neither() {
    sandboxed(secs(60), || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let tls = Tls::new();
        let mut driven = Driven::start(|demo, _, builder| {
            let url = runtime.block_on(tls.serve(demo.host()));
            builder
                .env("PLATFORM_URL", with_password(&url))
                .env("GITHUB_TOKEN", IN_THE_ENVIRONMENT)
                .args(["--ca-file", tls.certificate().to_str().unwrap()])
        });
        goes_on(&mut driven);
        let log = driven.end();
        for library in ["reqwest::", "hyper_util::"] {
            assert!(log.contains(library), "no line of {library} in the log");
        }
    });
}
