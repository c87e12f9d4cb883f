//! What the running kernel lacks of what a mount would like to have.

use super::Finding;
use crate::connection::kernel::Kernel;
use crate::status::Backend;

/// Says it where a mount serves, or where it is to be found out whether one could.
pub fn look(served: Option<Backend>) -> Option<Finding> {
    if served == Some(Backend::Files) {
        return None;
    }
    judge(Kernel::running())
}

/// By `docs/SEMANTICS.md`, whose table shows what was measured on four kernels.
fn judge(kernel: Kernel) -> Option<Finding> {
    if kernel.resends() {
        return None;
    }
    let Kernel(major, minor) = kernel;
    let sentence = format!(
        "Linux {major}.{minor} loses requests that a dead worker had read: no open fails, but the read of \
         a file that is open may fail with ESTALE in that instant"
    );
    Some(Finding::warn(
        "kernel",
        sentence,
        "open the file again after ESTALE, as cat helpers do at each use; Linux 6.9 loses none",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_lacks_something_is_spoken_of() {
        for new in [Kernel(6, 9), Kernel(6, 18), Kernel(7, 2)] {
            assert_eq!(judge(new), None);
        }
        for old in [Kernel(5, 10), Kernel(6, 8)] {
            let finding = judge(old).unwrap();
            assert!(finding.sentence.starts_with(&format!("Linux {}.{} ", old.0, old.1)));
            assert!(finding.remedy.unwrap().contains("6.9"));
        }
        assert_eq!(look(Some(Backend::Files)), None);
    }
}
