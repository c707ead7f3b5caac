//! The subcommands, one file each, and what ends the process.

mod bench;
mod chat;
mod cores;
mod engine;
mod loading;
mod model_source;
mod perplexity;
mod pull;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::cli::Command;
use crate::{config, logging};

/// Threads of the async runtime. Few: they move bytes, and must leave the cores to the arithmetic.
const RUNTIME_THREADS: usize = 2;

/// Runs what the command line asks for; reports what went wrong.
pub(crate) fn run(arguments: Vec<OsString>) -> ExitCode {
    match try_run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<clap::Error>() {
            // Also `--help` and `--version`, which are no failures.
            Some(error) => {
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
            }
            None => {
                eprintln!("wharf: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn try_run(arguments: Vec<OsString>) -> Result<()> {
    let settings = config::load(arguments)?;
    logging::start(&settings.cli.global)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let outcome = runtime.block_on(async {
        match &settings.cli.command {
            Command::Serve(args) => serve::run(args, &settings).await,
            Command::Engine(args) => engine::run(args).await,
            Command::Pull(args) => pull::run(args).await,
            Command::Chat(args) => chat::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Perplexity(args) => perplexity::run(args).await,
        }
    });
    // A blocking task that never ends (a read of the terminal) must not keep the process.
    runtime.shutdown_background();
    outcome
}
