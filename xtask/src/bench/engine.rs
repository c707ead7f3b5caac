//! `cargo xtask bench engine`: the table of docs/performance.md, ours and a peer's.
//!
//! Each figure is taken several times, ours and the peer's in turn, each time from a server started
//! for it; medians are shown, the ratio, and the share of what the machine could do. A busy machine
//! spoils figures, not ratios, as long as it is busy for both: its load stands in every row.

mod cell;
mod contest;
mod gap;
mod measure;
mod outcome;
mod page;
mod peak;
mod plot;
mod subject;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde_json::{Value, json};

use self::{
    cell::Cell,
    contest::{Contest, Peer, Side},
    measure::{Limits, Trial},
    outcome::{Outcome, Run},
    peak::Peaks,
    subject::{Model, Subject},
};
use super::{http::Endpoint, machine, make_model::format::Format};
use crate::tools;

#[derive(clap::Args)]
pub(super) struct EngineArgs {
    /// Models to measure; the default model is fetched, the others made of random weights
    #[arg(long, value_delimiter = ',', default_value = "smollm2")]
    model: Vec<Model>,
    /// Formats of the made models
    #[arg(long, value_delimiter = ',', default_value = "bf16,q8_0,q4_0")]
    format: Vec<Format>,
    /// Cells to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    cell: Vec<Cell>,
    /// A directory that holds llama.cpp's llama-server and llama-bench
    #[arg(long, value_name = "DIR", conflicts_with = "peer_url")]
    peer_llama: Option<PathBuf>,
    /// A server that is running, with the same model: http://host:port/v1
    #[arg(long, value_name = "URL")]
    peer_url: Option<String>,
    /// Compute threads of each server [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Instructions for our engine [default: the best this CPU has]
    #[arg(long)]
    isa: Option<String>,
    /// In what numbers our engine's activations meet weights
    #[arg(long, default_value = "auto")]
    activations: String,
    /// Times that each cell is measured; medians are shown
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A built wharf [default: one is built for the purpose]
    #[arg(long, value_name = "FILE", env = "WHARF_BIN")]
    wharf: Option<PathBuf>,
    /// Write every figure here, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a bar plot of each cell into this directory
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
    /// Put the table into docs/performance.md, and its plots beside it
    #[arg(long)]
    docs: bool,
}

pub(super) fn run(args: &EngineArgs) -> Result<()> {
    let contest = contest(args)?;
    let subjects = Subject::all(&args.model, &args.format, &contest.wharf)?;
    let cells = if args.cell.is_empty() { Cell::value_variants() } else { &args.cell };
    let needs_peak = |cell: &Cell| matches!(cell, Cell::Prefill512 | Cell::Prefill2048);
    let peaks = match cells.iter().any(needs_peak) {
        true => Peaks::measure(contest.threads, contest.isa.as_deref()),
        false => Peaks::default(),
    };
    let peer = contest.peer.as_ref().map(Peer::name);
    let mut outcomes = Vec::new();
    for subject in &subjects {
        for &cell in cells {
            let multiplication = peaks.of(subject.format);
            let outcome = outcome(&contest, subject, cell, multiplication, args.runs);
            println!("{}", table::render(std::slice::from_ref(&outcome), peer.as_deref()));
            outcomes.push(outcome);
        }
    }
    let isa = contest.isa.as_deref().unwrap_or(machine::best_isa());
    let machine = machine::description(contest.threads, isa);
    let table = table::render(&outcomes, peer.as_deref());
    println!("{}\n\n{table}", page::setting(&machine, args.runs));
    publish(args, &machine, &table, &outcomes, peer.as_deref())?;
    let failures: usize = outcomes.iter().map(|outcome| outcome.failures.len()).sum();
    ensure!(failures == 0, "{failures} measurements failed and are missing");
    Ok(())
}

fn contest(args: &EngineArgs) -> Result<Contest> {
    let wharf = match &args.wharf {
        Some(wharf) => wharf.clone(),
        None => {
            tools::run(tools::cargo().args(["build", "--release", "--package", "wharf"]))?;
            tools::target_dir().join("release/wharf")
        }
    };
    let peer = match (&args.peer_llama, &args.peer_url) {
        (Some(dir), _) => Some(Peer::Llama(dir.clone())),
        (None, Some(url)) => Some(Peer::Url(Endpoint::parse(url)?)),
        (None, None) => None,
    };
    let threads = args.threads.or_else(|| available_parallelism().ok().map(usize::from));
    Ok(Contest {
        wharf,
        peer,
        threads: threads.unwrap_or(1),
        isa: args.isa.clone(),
        activations: args.activations.clone(),
    })
}

/// Measures a cell: ours, the peer, ours, the peer. What fails is told and left out: the other cells of
/// a long run are worth having.
fn outcome(
    contest: &Contest,
    subject: &Subject,
    cell: Cell,
    multiplication: Option<f64>,
    runs: usize,
) -> Outcome {
    let isa = contest.isa.as_deref().unwrap_or(machine::best_isa());
    println!(
        "{}, {}: {} threads of {}, {isa}, load average {}",
        subject.name,
        cell.title(),
        contest.threads,
        machine::cpu(),
        machine::load_average(),
    );
    let bandwidth = (cell == Cell::Decode).then(|| machine::read_bandwidth(contest.threads));
    let limits = Limits { bandwidth, multiplication };
    let mut outcome = Outcome {
        subject: subject.name.clone(),
        cell,
        limits,
        runs: Vec::new(),
        without_server: None,
        failures: Vec::new(),
    };
    let sides = [Some(Side::Ours), contest.peer.is_some().then_some(Side::Peer)];
    for run in 0..runs {
        for side in sides.into_iter().flatten() {
            let load_average = machine::load_average();
            let trial = Trial { contest, subject, cell, side, run, limits };
            match trial.take() {
                Ok(taken) => {
                    outcome.runs.extend(taken.map(|measured| Run { side, measured, load_average }));
                }
                Err(error) => outcome.fail(side, &error),
            }
        }
    }
    if contest.peer.is_some() && matches!(cell, Cell::Prefill512 | Cell::Decode) {
        match contest.llama_bench(subject, runs) {
            Ok(speeds) => {
                let of_cell =
                    |(prefill, decode)| if cell == Cell::Decode { decode } else { prefill };
                outcome.without_server = speeds.map(of_cell);
            }
            Err(error) => outcome.fail(Side::Peer, &error),
        }
    }
    outcome
}

/// Writes what the user asked for.
fn publish(
    args: &EngineArgs,
    machine: &Value,
    table: &str,
    outcomes: &[Outcome],
    peer: Option<&str>,
) -> Result<()> {
    if let Some(path) = &args.json {
        let cells: Vec<Value> = outcomes.iter().map(|o| o.json(peer.unwrap_or("peer"))).collect();
        let all = json!({"machine": machine, "peer": peer, "runs": args.runs, "cells": cells});
        let text = serde_json::to_string_pretty(&all)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let setting = page::setting(machine, args.runs);
    let plots = plot::all(outcomes, peer, &setting);
    if let Some(dir) = &args.svg {
        write_plots(dir, &plots)?;
    }
    if args.docs {
        page::update(&tools::root().join("docs"), &setting, table, &plots)?;
    }
    Ok(())
}

fn write_plots(dir: &Path, plots: &[(Cell, String)]) -> Result<()> {
    fs::create_dir_all(dir)?;
    for (cell, svg) in plots {
        let path = dir.join(format!("{}.svg", cell.name()));
        fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
