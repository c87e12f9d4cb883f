//! What the running kernel lacks, by its release: the promise holds without it, but with an exception.

use rustix::system::uname;

/// A release of Linux, by its first two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel(pub u32, pub u32);

impl Kernel {
    /// The one that runs (`uname(2)`).
    #[must_use]
    pub fn running() -> Self {
        Self::parse(&uname().release().to_string_lossy())
    }

    /// From a release such as `5.10.0-46-cloud-amd64`. A number that is not there is 0.
    fn parse(release: &str) -> Self {
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
        Self(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// Whether it delivers requests again that a dead worker had read (`FUSE_NOTIFY_RESEND`).
    #[must_use]
    pub fn resends(self) -> bool {
        self >= Self(6, 9)
    }

    /// Whether a rename leaves the file that it replaced without links at once. Watchers are told that a
    /// file was deleted only then.
    #[must_use]
    pub fn drops_links(self) -> bool {
        self >= Self(5, 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_told_by_its_first_two_numbers() {
        for (release, kernel) in [
            ("5.10.0-46-cloud-amd64", Kernel(5, 10)),
            ("6.12-rc3", Kernel(6, 12)),
            ("7.2.12+deb14-amd64", Kernel(7, 2)),
            ("7", Kernel(7, 0)),
            ("", Kernel(0, 0)),
        ] {
            assert_eq!(Kernel::parse(release), kernel, "{release}");
        }
        assert!(Kernel(6, 9).resends() && Kernel(7, 0).resends() && !Kernel(6, 8).resends());
        assert!(Kernel(5, 16).drops_links() && !Kernel(5, 15).drops_links());
    }
}
