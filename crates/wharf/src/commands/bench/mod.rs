//! `wharf bench`: loads an OpenAI-compatible server and reports what its clients would feel.
//!
//! Either a closed loop (N streams, each sends its next request when one is answered: how fast can
//! it go) or an open one (requests arrive at a rate, at random, whether or not earlier ones are
//! answered: how does it feel at this load). Prompts differ from their first word on, so that a
//! prefix cache does not flatter; `--shared-prefix` gives it something to do.

mod load;
mod prompt;
mod random;
mod report;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::BenchArgs;
use crate::openai::Client;
use crate::progress::counting_bar;

/// Runs the command.
pub(crate) async fn run(args: &BenchArgs) -> Result<()> {
    if let Some(rate) = args.rate
        && !(rate.is_finite() && rate > 0.0)
    {
        bail!("--rate {rate} must be more than 0 requests per second");
    }
    let timeout = Duration::from_secs(args.timeout);
    let client = Client::new(&args.base_url, args.api_key.clone(), Some(timeout))?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let bodies = prompt::requests(args, &model)?;
    let (warmup, measured) = bodies.split_at(args.warmup);
    if !warmup.is_empty() {
        let bar = counting_bar(warmup.len() as u64, "Warming up");
        let run = load::closed_loop(&client, warmup, args.concurrency.get(), &bar).await;
        bar.finish_and_clear();
        if run.samples.is_empty() {
            let reason = run.failures.first().map(ToString::to_string).unwrap_or_default();
            bail!("no request of the warm-up was answered: {reason}");
        }
    }
    let load_before = report::load_average();
    let bar = counting_bar(measured.len() as u64, "Measuring");
    let run = match args.rate {
        Some(rate) => load::open_loop(&client, measured, rate, args.seed, &bar).await,
        None => load::closed_loop(&client, measured, args.concurrency.get(), &bar).await,
    };
    bar.finish_and_clear();
    let setting = report::Setting { args, model: &model, load_before };
    let report = report::Report::new(&setting, &run);
    publish(&report, args.json.as_deref())?;
    if run.samples.is_empty() {
        let reason = run.failures.first().map(ToString::to_string).unwrap_or_default();
        bail!("no request was answered: {reason}");
    }
    Ok(())
}

/// The table for people, the JSON for programs. Where both would meet on standard output, the table
/// goes to standard error.
fn publish(report: &report::Report, json: Option<&Path>) -> Result<()> {
    let text = serde_json::to_string_pretty(report).context("cannot write the report")?;
    match json {
        Some(path) if path == Path::new("-") => {
            eprint!("{}", report.table());
            println!("{text}");
        }
        Some(path) => {
            print!("{}", report.table());
            std::fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        None => print!("{}", report.table()),
    }
    Ok(())
}
