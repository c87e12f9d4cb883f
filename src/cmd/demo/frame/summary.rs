//! The totals at the end, and whether they are what the demo claims.

use std::fmt;
use std::time::Duration;

use super::{LaneView, Progress, count};
use crate::cmd::demo::app;
use crate::cmd::demo::lane::{Kind, Operation, Tally};

/// The totals at the end.
pub(in crate::cmd::demo) struct Summary {
    elapsed: Duration,
    life: Duration,
    lanes: Vec<LaneView>,
    issued: u64,
}

/// Why a demo showed the opposite of what it should.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cmd::demo) enum Failure {
    /// Something of the mounted lane failed.
    Requests { failed: u64, refused: u64 },
    /// The mounted lane's token did not rotate as often as lives went by.
    Rotations { seen: u64, expected: u64 },
    /// Something with the token for one repository went another way than it should.
    Repository { failed: u64, refused: u64 },
    /// The token for one repository was never refused for another.
    Untried,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requests { failed, refused } => write!(
                f,
                "with the mounted token {} failed, and {refused} of its requests got 401",
                count(*failed, "operation")
            ),
            Self::Rotations { seen, expected } => {
                write!(f, "the mounted token rotated {seen} times instead of {expected}")
            }
            Self::Repository { failed, refused } => write!(
                f,
                "with the token for {} {} failed, and {refused} of its requests got 401",
                app::REPOSITORY,
                count(*failed, "operation")
            ),
            Self::Untried => {
                write!(f, "the token for {} was not tried on {}", app::REPOSITORY, app::OTHER)
            }
        }
    }
}

impl Summary {
    pub(in crate::cmd::demo) fn of(progress: &Progress, issued: u64) -> Self {
        Self {
            elapsed: progress.elapsed,
            life: progress.life,
            lanes: progress.lanes.clone(),
            issued,
        }
    }

    /// Whether the lanes of the mount did without a failure what they should: rotate once a lifetime, and
    /// be refused for another repository.
    pub(in crate::cmd::demo) fn verdict(&self, lifetimes: u32) -> Result<(), Failure> {
        for lane in &self.lanes {
            let (failed, refused) = (lane.total().failed, lane.refused);
            let is_bad = failed + refused > 0;
            match lane.kind {
                Kind::Mounted if is_bad => return Err(Failure::Requests { failed, refused }),
                Kind::Repository if is_bad => return Err(Failure::Repository { failed, refused }),
                Kind::Repository if lane.out_of_scope == 0 => return Err(Failure::Untried),
                Kind::Mounted => {
                    let expected = u64::from(lifetimes.saturating_sub(1)).max(1);
                    if lane.rotations < expected {
                        return Err(Failure::Rotations { seen: lane.rotations, expected });
                    }
                }
                Kind::Frozen | Kind::Repository => {}
            }
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} s, tokens that live {} s, {} issued",
            self.elapsed.as_secs(),
            self.life.as_secs(),
            self.issued
        )?;
        for lane in self.lanes.iter().filter(|lane| lane.kind == Kind::Repository) {
            let Tally { worked, failed } = lane.total();
            let tried = |operation| lane.tally(operation).worked;
            writeln!(
                f,
                "token for {} alone ({}): {}, {} minted, {} worked, {failed} failed, {} got 401; \
                 {} got 404 for {}, as they should",
                app::REPOSITORY,
                lane.token(),
                count(tried(Operation::Read), "open"),
                lane.minted,
                worked.saturating_sub(tried(Operation::Elsewhere)),
                lane.refused,
                count(lane.out_of_scope, "request"),
                app::OTHER
            )?;
        }
        let compared = self.lanes.iter().filter(|lane| lane.kind != Kind::Repository);
        let totals = compared.map(|lane| {
            let Tally { worked, failed } = lane.total();
            format!(
                "{} token: {}, {worked} worked, {failed} failed, {} of {} requests got 401",
                lane.kind.name(),
                count(lane.rotations, "rotation"),
                lane.refused,
                lane.accepted + lane.refused
            )
        });
        writeln!(f, "{}", totals.collect::<Vec<_>>().join("; "))
    }
}
