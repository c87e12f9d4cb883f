//! The users and groups of a user namespace, as `user_namespaces(7)` writes them.

use std::fmt;

/// Which numbers inside are which outside: `/proc/PID/uid_map`, `/proc/PID/gid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap(Vec<Range>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

impl IdMap {
    /// Reads one: on each line the first number inside, the first number outside, and how many. What
    /// cannot be understood maps nobody.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let ranges = text.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse);
            match (numbers.next(), numbers.next(), numbers.next()) {
                (Some(Ok(inside)), Some(Ok(outside)), Some(Ok(count))) => {
                    Some(Range { inside, outside, count })
                }
                _ => None,
            }
        });
        Self(ranges.collect())
    }

    /// Whether everybody is mapped, to the same number.
    #[must_use]
    pub fn is_everybody(&self) -> bool {
        self.0 == [Range { inside: 0, outside: 0, count: u32::MAX }]
    }

    /// The number outside of somebody inside.
    #[must_use]
    pub fn outside(&self, inside: u32) -> Option<u32> {
        self.0.iter().find_map(|it| shifted(inside, it.inside, it.outside, it.count))
    }

    /// The number inside of somebody outside.
    #[must_use]
    pub fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|it| shifted(outside, it.outside, it.inside, it.count))
    }
}

fn shifted(number: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let at = number.checked_sub(from).filter(|at| *at < count)?;
    to.checked_add(at)
}

/// As the end of a sentence about users: `0 to 65535 are 100000 to 165535`.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            let last = |first: u32| first.saturating_add(range.count.saturating_sub(1));
            if range.count == 1 {
                write!(f, "{} is {}", range.inside, range.outside)?;
            } else {
                let (inside, outside) = (last(range.inside), last(range.outside));
                write!(f, "{} to {inside} are {} to {outside}", range.inside, range.outside)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_in_both_directions() {
        let map = IdMap::parse("         0       1000          1\n  1  100000  65536\n");
        for (inside, outside) in [(0, 1000), (1, 100_000), (65536, 165_535)] {
            assert_eq!(map.outside(inside), Some(outside));
            assert_eq!(map.inside(outside), Some(inside));
        }
        assert_eq!((map.outside(65537), map.inside(0), map.inside(1001)), (None, None, None));
        assert_eq!(map.to_string(), "0 is 1000, 1 to 65536 are 100000 to 165535");
        assert!(!map.is_everybody());
    }

    #[test]
    fn the_first_namespace_maps_everybody() {
        let map = IdMap::parse("         0          0 4294967295\n");
        assert!(map.is_everybody());
        assert_eq!(map.inside(7), Some(7));
        assert_eq!(map.to_string(), "0 to 4294967294 are 0 to 4294967294");
    }

    #[test]
    fn what_cannot_be_understood_maps_nobody() {
        let map = IdMap::parse("nonsense\n1 2\n");
        assert_eq!((map.outside(0), map.is_everybody()), (None, false));
    }
}
