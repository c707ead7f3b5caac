//! `cargo xtask fuzz`: libFuzzer over the targets of `fuzz/`, on the stable toolchain.
//!
//! libFuzzer needs only coverage counters, which `-C passes=sancov-module` gives without a
//! nightly compiler; address sanitising, which would need one, finds little in safe code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::tools;

/// Names as `fuzz/src/lib.rs` lists them.
const TARGETS: &[&str] = &[
    "request",
    "gguf",
    "safetensors",
    "config",
    "template",
    "stop",
    "detokenizer",
    "reasoning",
    "tool_calls",
    "schema",
    "grammar",
];

/// Seconds per target in `cargo xtask test`.
const SHORT: u64 = 5;

#[derive(clap::Args)]
pub(crate) struct FuzzArgs {
    /// Targets to run one after the other; none: all
    targets: Vec<String>,
    /// Seconds per target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let chosen: Vec<&str> = match args.targets.as_slice() {
        [] => TARGETS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = chosen.iter().find(|name| !TARGETS.contains(name)) {
        bail!("no fuzz target is called {unknown:?}; there are {}", TARGETS.join(", "));
    }
    let binary = build()?;
    chosen.iter().try_for_each(|target| fuzz(&binary, target, args.seconds, 0))
}

/// A few seconds of each target, from the same seed each time, so that two runs of one commit
/// agree; how many ran.
pub(crate) fn short() -> Result<usize> {
    let binary = build()?;
    TARGETS.iter().try_for_each(|target| fuzz(&binary, target, SHORT, 1))?;
    Ok(TARGETS.len())
}

fn build() -> Result<PathBuf> {
    let target_dir = tools::target_dir().join("fuzz");
    let triple = host_triple()?;
    let flags = [
        "--cfg=fuzzing",
        "-Cpasses=sancov-module",
        "-Cllvm-args=-sanitizer-coverage-level=4",
        "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
        "-Cllvm-args=-sanitizer-coverage-pc-table",
        "-Cllvm-args=-sanitizer-coverage-trace-compares",
    ];
    tools::run(
        tools::cargo()
            .args(["build", "--locked", "--package", "wharf-fuzz", "--features", "libfuzzer"])
            // With a target named, the flags don't reach build scripts.
            .args(["--target", &triple, "--target-dir"])
            .arg(&target_dir)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}")),
    )?;
    Ok(target_dir.join(triple).join("debug/wharf-fuzz"))
}

fn host_triple() -> Result<String> {
    let rustc = Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let text = String::from_utf8_lossy(&rustc.stdout).into_owned();
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("rustc -vV names no host")?.to_owned())
}

/// The corpus grows in `fuzz/corpus`, what breaks a target is kept in `fuzz/artifacts`
/// (git ignores both; a find becomes a regression test).
/// `seed` 0 is one at random.
fn fuzz(binary: &Path, target: &str, seconds: u64, seed: u32) -> Result<()> {
    let corpus = tools::root().join("fuzz/corpus").join(target);
    let artifacts = tools::root().join("fuzz/artifacts").join(target);
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&artifacts)?;
    let output = Command::new(binary)
        .env("WHARF_FUZZ_TARGET", target)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=512", "-max_len=65536"])
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(&corpus)
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fuzz target {target} failed:\n{log}");
    let executed = log
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .map_or("an unknown number of", str::trim);
    println!("fuzz {target}: {executed} inputs in {seconds} s, nothing found");
    Ok(())
}
