//! The machine: what it is, how busy, and how fast its memory reads.

use std::{
    fs,
    hint::black_box,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

/// What the bandwidth is measured on, all threads together: past any cache.
const BYTES: usize = 1 << 30;
/// Passes; the best counts, for anything else that runs only slows one.
const PASSES: usize = 4;

/// One-minute load average, as the system writes it.
pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// The processor's name.
pub(super) fn cpu() -> String {
    cpuinfo("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// The best level of SIMD that `wharf --isa` knows and this processor has.
pub(super) fn best_isa() -> &'static str {
    let flags = cpuinfo("flags").or_else(|| cpuinfo("Features")); // of x86 and of Arm
    best_of(&flags.unwrap_or_default())
}

/// What the levels need beside those before them, of each architecture.
const LEVELS: [&[(&str, &str)]; 2] = [
    &[("neon", "asimd"), ("neon-dotprod", "asimddp")],
    &[
        ("avx2", "avx2 fma f16c"),
        ("avx512", "avx512f avx512bw avx512dq avx512vl"),
        ("avx512-vnni", "avx512_vnni"),
        ("amx", "amx_tile amx_int8 amx_bf16"),
    ],
];

fn best_of(flags: &str) -> &'static str {
    let has = |all: &str| all.split(' ').all(|one| flags.split(' ').any(|flag| flag == one));
    let best = |levels: &&[(&'static str, &str)]| {
        levels.iter().take_while(|(_, needed)| has(needed)).last().map(|(name, _)| *name)
    };
    LEVELS.iter().find_map(best).unwrap_or("portable")
}

/// The first `name` in /proc/cpuinfo.
fn cpuinfo(name: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Today, in UTC.
pub(super) fn date() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "unknown".to_owned())
}

/// What a reader of the figures needs to know.
pub(super) fn description(threads: usize, isa: &str) -> Value {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    json!({"date": date(), "cpu": cpu(), "cores": cores, "threads": threads, "isa": isa})
}

/// Bytes per second that `threads` threads read from memory together, by summing what they read.
pub(super) fn read_bandwidth(threads: usize) -> f64 {
    let words = BYTES / size_of::<u64>() / threads;
    // Written, not only allocated: an untouched page has no memory of its own.
    let parts: Vec<Vec<u64>> = (0..threads)
        .map(|part| (0..words as u64).map(|word| word ^ part as u64).collect())
        .collect();
    let pass = || {
        let begun = Instant::now();
        thread::scope(|scope| {
            for part in &parts {
                scope.spawn(move || black_box(sum(part)));
            }
        });
        begun.elapsed()
    };
    let best = (0..PASSES).map(|_| pass()).min().unwrap_or(Duration::MAX);
    (words * size_of::<u64>() * threads) as f64 / best.as_secs_f64()
}

/// In eight sums that don't wait for each other: the compiler makes vectors of them.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    for eight in words.as_chunks().0 {
        for (sum, word) in sums.iter_mut().zip::<&[u64; 8]>(eight) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_are_summed() {
        assert_eq!(sum(&[1; 64]), 64);
    }

    #[test]
    fn a_level_needs_all_below_it() {
        let avx512 = "fma f16c avx2 avx512f avx512bw avx512dq avx512vl";
        let vnni = format!("{avx512} avx512_vnni");
        assert_eq!(best_of("fp asimd evtstrm"), "neon");
        assert_eq!(best_of("fp asimd evtstrm asimddp"), "neon-dotprod");
        assert_eq!(best_of("fpu avx2 fma"), "portable");
        assert_eq!(best_of("fpu avx2 fma f16c amx_tile"), "avx2");
        assert_eq!(best_of(avx512), "avx512");
        assert_eq!(best_of(&vnni), "avx512-vnni");
        assert_eq!(best_of(&format!("{vnni} amx_tile amx_int8 amx_bf16")), "amx");
    }
}
