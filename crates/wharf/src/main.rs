//! The `wharf` binary: subcommands, configuration, logging. The only place with exit codes.

mod cli;
mod commands;
mod config;
mod logging;
mod openai;
mod progress;
mod shutdown;
mod size;

fn main() -> std::process::ExitCode {
    commands::run(std::env::args_os().collect())
}
