//! The inode numbers of a mount with many places: whose an inode is, and what it is there.

/// Where the number of a place begins in an inode number. Below it is room for 2³⁵ generations.
const PLACE_BITS: u32 = 48;

/// Set below [`PLACE_BITS`] in every number of a place. Earlier versions had none there, and did not mix.
const MIXED: u64 = 1 << (PLACE_BITS - 1);

/// An inode of a place, as the kernel knows it. The kernel finds inodes by a hash that hardly depends on the
/// upper bits of their numbers: if only these told places apart, those of a thousand doors would be in one
/// chain, and it would go through all of it for each rename.
pub(super) fn global(place: u64, ino: u64) -> u64 {
    if place == 0 { ino } else { place << PLACE_BITS | ino ^ mix(place) }
}

/// The number of a place, and the inode as it knows it.
pub(super) fn local(ino: u64) -> (u64, u64) {
    let (place, ino) = (ino >> PLACE_BITS, ino & ((1 << PLACE_BITS) - 1));
    let is_mixed = place != 0 && ino & MIXED != 0;
    (place, if is_mixed { ino ^ mix(place) } else { ino })
}

/// Bits that differ between places, below [`PLACE_BITS`] (Fibonacci hashing: 2⁶⁴ divided by the golden
/// ratio).
fn mix(place: u64) -> u64 {
    place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS - PLACE_BITS) | MIXED
}

/// How the inode numbers of a place come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    /// The root's are its own.
    Root,
    /// Those of others have this number above [`PLACE_BITS`].
    Named(u64),
    /// Those on demand begin with this.
    OnDemand(u64),
}

impl Numbers {
    pub(super) fn global(self, ino: u64) -> u64 {
        match self {
            Self::Root => ino,
            Self::Named(place) => global(place, ino),
            Self::OnDemand(prefix) => prefix | ino,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::demand::Demand;
    use crate::fs::generations::regions::PLACES;
    use crate::fs::node::ROOT;

    #[test]
    fn an_inode_number_says_whose_it_is() {
        for (place, ino) in
            [(0, ROOT), (0, MIXED - 1), (1, ROOT), (2, MIXED - 1), (PLACES, 7 << 12)]
        {
            assert_eq!(local(global(place, ino)), (place, ino));
            assert!(!Demand::owns(global(place, ino)), "it has no mark of those on demand");
        }
        assert_eq!(global(0, 77), 77, "the root's are its own, as they always were");
        assert_eq!(
            local(7 << PLACE_BITS | 0x4d),
            (7, 0x4d),
            "the kernel has one of an earlier version"
        );
    }
}
