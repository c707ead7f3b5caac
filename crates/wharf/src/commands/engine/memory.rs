//! How much memory is free for this process: what the system has, and what its control group allows.

use std::path::Path;

/// Assumed where the system does not tell, in bytes.
const UNKNOWN: usize = 4 << 30;

/// Free bytes.
pub(super) fn available() -> usize {
    let system = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| system(&text));
    let group = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| group(&text, Path::new("/sys/fs/cgroup")));
    [system, group].into_iter().flatten().min().unwrap_or(UNKNOWN)
}

/// `MemAvailable` of /proc/meminfo, which counts what caches would give back.
fn system(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
}

/// The tightest room among our control group and those above it (version 2).
fn group(self_cgroup: &str, root: &Path) -> Option<usize> {
    let path = self_cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let number = |folder: &Path, file: &str| -> Option<usize> {
        std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok() // "max" is no number
    };
    root.join(path)
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| {
            let limit = number(folder, "memory.max")?;
            Some(limit.saturating_sub(number(folder, "memory.current")?))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:  100 kB\nMemAvailable:     50 kB\n";
        assert_eq!(system(text), Some(50 << 10));
        assert_eq!(system("MemTotal: 1 kB"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        std::fs::write(inner.join("memory.current"), "5\n").unwrap();
        assert_eq!(group("0::/a/b\n", root.path()), None);
        std::fs::write(root.path().join("a/memory.max"), "100\n").unwrap();
        std::fs::write(root.path().join("a/memory.current"), "30\n").unwrap();
        assert_eq!(group("0::/a/b\n", root.path()), Some(70));
    }
}
