//! Log lines to standard error. Standard output belongs to what a command was asked for.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::cli::{GlobalArgs, LogFormat};

/// Starts logging as asked for. Called once.
pub(crate) fn start(args: &GlobalArgs) -> Result<()> {
    let filter = EnvFilter::builder()
        .parse(&args.log_level)
        .with_context(|| format!("--log-level {:?} is no level and no filter", args.log_level))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match args.log_format {
        LogFormat::Text => {
            builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("logging: {e}"))
}
