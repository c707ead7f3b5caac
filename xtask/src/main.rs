//! The chores of this repository, as `cargo xtask …`. `cargo xtask --help` lists them.
//!
//! Nothing here is part of Wharf: the binary never depends on it.

mod bench;
mod fuzz;
mod golden;
mod suite;
mod tidy;
mod tools;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Wharf's chores.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Set up what the checks need and run every one of them
    Test(suite::TestArgs),
    /// Check the invariants of ARCHITECTURE.md that a program can check
    Tidy,
    /// Make the golden checkpoints anew with Hugging Face transformers
    Golden,
    /// Fuzz the parsers with libFuzzer
    Fuzz(fuzz::FuzzArgs),
    /// Measure speed: kernels, or the server beside a peer
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let done = match Args::parse().chore {
        Chore::Test(args) => suite::run(&args),
        Chore::Tidy => tidy::run(),
        Chore::Golden => golden::run(),
        Chore::Fuzz(args) => fuzz::run(&args),
        Chore::Bench(args) => bench::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
