//! `cargo xtask test`: every check, with its own set-up, and one summary at the end.
//!
//! A check that fails doesn't stop the others. The last line is `N passed, N failed`.

use std::{path::PathBuf, process::Command, time::Instant};

use anyhow::{Result, bail};

use crate::{fuzz, tidy, tools};

#[derive(clap::Args)]
pub(crate) struct TestArgs {
    /// Run only these checks (their names are the headings that a full run prints)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// How many tests of a check passed, failed and were skipped.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// A check that counts as one test.
    fn one(passed: bool) -> Self {
        Self { passed: usize::from(passed), failed: usize::from(!passed), skipped: 0 }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// A named check.
struct Check {
    name: &'static str,
    run: fn() -> Result<Tally>,
}

/// Cheap checks first, so that a slip shows early.
const CHECKS: &[Check] = &[
    Check { name: "format", run: format },
    Check { name: "tidy", run: || tidy::run().map(|()| Tally::one(true)) },
    Check { name: "clippy", run: clippy },
    Check { name: "docs", run: docs },
    Check { name: "deny", run: deny },
    Check { name: "rust", run: rust_tests },
    Check { name: "shuttle", run: thread_schedules },
    Check { name: "fuzz", run: || Ok(Tally { passed: fuzz::short()?, ..Tally::default() }) },
    Check { name: "model", run: pull_model },
    Check { name: "python", run: python_clients },
    Check { name: "frameworks", run: framework_clients },
    Check { name: "node", run: node_clients },
];

pub(crate) fn run(args: &TestArgs) -> Result<()> {
    if let Some(unknown) =
        args.only.iter().find(|name| CHECKS.iter().all(|check| check.name != name.as_str()))
    {
        let names: Vec<_> = CHECKS.iter().map(|check| check.name).collect();
        bail!("no check is called {unknown:?}; there are {}", names.join(", "));
    }
    let mut total = Tally::default();
    let mut report = Vec::new();
    for check in CHECKS {
        if !args.only.is_empty() && !args.only.iter().any(|name| name == check.name) {
            continue;
        }
        println!("\n=== {} ===", check.name);
        let began = Instant::now();
        let tally = (check.run)().unwrap_or_else(|error| {
            println!("{}: {error:#}", check.name);
            Tally::one(false)
        });
        report.push((check.name, tally, began.elapsed().as_secs()));
        total.add(tally);
    }
    println!("\ncheck       passed  failed  skipped  seconds");
    for (name, tally, seconds) in report {
        let Tally { passed, failed, skipped } = tally;
        println!("{name:<10} {passed:>7} {failed:>7} {skipped:>8} {seconds:>8}");
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("{} failed", total.failed);
    }
    Ok(())
}

fn format() -> Result<Tally> {
    tools::run(tools::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Tally::one(true))
}

fn clippy() -> Result<Tally> {
    tools::run(tools::cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-Dwarnings",
    ]))?;
    Ok(Tally::one(true))
}

fn docs() -> Result<Tally> {
    tools::run(
        tools::cargo()
            .args(["doc", "--quiet", "--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    Ok(Tally::one(true))
}

/// Licences, sources and duplicate versions; advisories too where their database can be had.
/// Skipped, and said so, where `cargo deny` isn't installed: building it takes longer than
/// all other checks together.
fn deny() -> Result<Tally> {
    let installed = tools::cargo().args(["deny", "--version"]).output()?.status.success();
    if !installed {
        println!("skipped: cargo-deny is not installed (`cargo install --locked cargo-deny`)");
        return Ok(Tally { skipped: 1, ..Tally::default() });
    }
    tools::run(tools::cargo().args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    Ok(Tally::one(true))
}

/// Unit, integration and documentation tests of the whole workspace.
fn rust_tests() -> Result<Tally> {
    let mut command = tools::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    cargo_tests(&mut command)
}

/// The thread team under orders of its threads' steps that shuttle draws: its own build, as `sync` of
/// the kernels is another there.
fn thread_schedules() -> Result<Tally> {
    let mut command = tools::cargo();
    command
        .args(["test", "--package", "wharf-kernels", "--lib", "--locked", "team::schedules"])
        .env("RUSTFLAGS", "--cfg shuttle")
        .env("CARGO_TARGET_DIR", tools::target_dir().join("shuttle"));
    cargo_tests(&mut command)
}

fn cargo_tests(command: &mut Command) -> Result<Tally> {
    let (lines, succeeded) = tools::run_keeping_output(command)?;
    let mut tally = Tally::default();
    lines.iter().filter_map(|line| cargo_test_tally(line)).for_each(|one| tally.add(one));
    Ok(with_exit_code(tally, succeeded))
}

/// The default model, by the way a user gets it.
fn pull_model() -> Result<Tally> {
    tools::run(Command::new(wharf_binary()?).args(["pull", "smollm2"]))?;
    Ok(Tally::one(true))
}

fn python_clients() -> Result<Tally> {
    // The README's Node examples run here too.
    tools::node_modules(&tools::root().join("tests/clients/node"))?;
    pytest("python", "clients")
}

fn framework_clients() -> Result<Tally> {
    pytest("frameworks", "frameworks")
}

/// The tests in `tests/clients/{folder}`, in an environment of their own called `venv`.
fn pytest(folder: &str, venv: &str) -> Result<Tally> {
    let dir = tools::root().join("tests/clients").join(folder);
    let python = tools::python_venv(venv, &dir.join("requirements.txt"))?;
    let mut command = Command::new(python);
    command.args(["-m", "pytest", "-p", "no:cacheprovider", "-q"]).current_dir(dir);
    let (lines, succeeded) = tools::run_keeping_output(with_server(&mut command)?)?;
    let tally = lines.iter().rev().find_map(|line| pytest_tally(line)).unwrap_or_default();
    Ok(with_exit_code(tally, succeeded))
}

fn node_clients() -> Result<Tally> {
    let dir = tools::root().join("tests/clients/node");
    tools::node_modules(&dir)?;
    let mut command = Command::new("npm");
    command.args(["test", "--silent"]).current_dir(dir);
    let (lines, succeeded) = tools::run_keeping_output(with_server(&mut command)?)?;
    let mut tally = Tally::default();
    lines.iter().filter_map(|line| node_tally(line)).for_each(|one| tally.add(one));
    Ok(with_exit_code(tally, succeeded))
}

/// Builds the binary that the clients talk to.
fn wharf_binary() -> Result<PathBuf> {
    tools::run(tools::cargo().args(["build", "--quiet", "--locked", "--package", "wharf"]))?;
    Ok(tools::target_dir().join("debug/wharf"))
}

fn with_server(command: &mut Command) -> Result<&mut Command> {
    Ok(command.env("WHARF_BIN", wharf_binary()?).env("WHARF_MODEL", "smollm2"))
}

/// A runner that failed without a failed test, or that ran none, has failed.
fn with_exit_code(mut tally: Tally, succeeded: bool) -> Tally {
    if tally.failed == 0 && (!succeeded || tally.passed == 0) {
        tally.failed = 1;
    }
    tally
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; …`
fn cargo_test_tally(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    Some(Tally {
        passed: count_before(counts, " passed"),
        failed: count_before(counts, " failed"),
        skipped: count_before(counts, " ignored"),
    })
}

/// `12 passed, 1 skipped in 3.20s`, errors counted as failures.
fn pytest_tally(line: &str) -> Option<Tally> {
    let counts = line.trim_matches(['=', ' ']);
    let is_summary = counts.contains(" in ")
        && [" passed", " failed", " error"].iter().any(|word| counts.contains(word));
    is_summary.then(|| Tally {
        passed: count_before(counts, " passed"),
        failed: count_before(counts, " failed") + count_before(counts, " error"),
        skipped: count_before(counts, " skipped"),
    })
}

/// `ℹ pass 12` or `# pass 12`, a line for each count.
fn node_tally(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("ℹ ").or_else(|| line.strip_prefix("# "))?;
    let (word, count) = counts.split_once(' ')?;
    let count = count.parse().ok()?;
    match word {
        "pass" => Some(Tally { passed: count, ..Tally::default() }),
        "fail" => Some(Tally { failed: count, ..Tally::default() }),
        "skipped" => Some(Tally { skipped: count, ..Tally::default() }),
        _ => None,
    }
}

/// The number that stands before `word`, or 0.
fn count_before(text: &str, word: &str) -> usize {
    text.split(word)
        .next()
        .filter(|before| before.len() < text.len())
        .and_then(|before| before.rsplit([' ', ',', ';']).next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_summaries_of_each_runner() {
        let tally = |passed, failed, skipped| Some(Tally { passed, failed, skipped });
        let cargo =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(cargo_test_tally(cargo), tally(12, 3, 1));
        assert_eq!(pytest_tally("== 2 failed, 12 passed, 1 skipped in 3.20s =="), tally(12, 2, 1));
        assert_eq!(pytest_tally("1 passed, 2 errors in 0.1s"), tally(1, 2, 0));
        assert_eq!(pytest_tally("ran in circles"), None);
        assert_eq!(node_tally("ℹ pass 7"), tally(7, 0, 0));
        assert_eq!(node_tally("# fail 2"), tally(0, 2, 0));
        assert_eq!(node_tally("# duration_ms 2"), None);
    }

    #[test]
    fn a_runner_that_ran_nothing_has_failed() {
        assert_eq!(with_exit_code(Tally::default(), true).failed, 1);
        assert_eq!(with_exit_code(Tally::one(true), false).failed, 1);
        assert_eq!(with_exit_code(Tally::one(true), true).failed, 0);
    }
}
