//! The processes below another one (`proc_pid_stat(5)`).

use std::collections::HashMap;
use std::fs;

use nix::unistd::Pid;

/// All processes below `root` that have not ended, without those that `except` names and what is
/// below them.
pub fn of(root: Pid, except: &mut dyn FnMut(Pid) -> bool) -> Vec<Pid> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let process = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some((process, parent)) = process.zip(parent(&stat)) {
            children.entry(Pid::from_raw(parent)).or_default().push(Pid::from_raw(process));
        }
    }
    let mut found = Vec::new();
    let mut above = vec![root];
    while let Some(process) = above.pop() {
        let below = children.remove(&process).unwrap_or_default();
        let below = below.into_iter().filter(|&child| process != root || !except(child));
        for child in below {
            found.push(child);
            above.push(child);
        }
    }
    found
}

/// The parent of a process that has not ended, of its `stat`: the name in parentheses may hold any.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_parent_is_found_whatever_a_process_is_called() {
        assert_eq!(parent("7 (a b) S 3 7 7 0"), Some(3));
        assert_eq!(parent("7 (a) R 1) S 3 7"), Some(3));
        assert_eq!(parent("7 (a) Z 3 7"), None);
        assert_eq!(parent(""), None);
    }

    #[test]
    fn children_and_their_children_are_below_a_process() {
        let mut sh = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().unwrap();
        let pid = Pid::from_raw(sh.id().try_into().unwrap());
        let sleep = loop {
            if let [sleep] = of(pid, &mut |_| false)[..] {
                break sleep;
            }
        };
        let all = of(Pid::this(), &mut |_| false);
        assert!(all.contains(&pid) && all.contains(&sleep));
        assert!(!of(Pid::this(), &mut |child| child == pid).contains(&sleep));
        nix::sys::signal::kill(sleep, nix::sys::signal::Signal::SIGKILL).unwrap();
        sh.wait().unwrap();
    }
}
