//! `cargo xtask bench`: speed, beside a peer in the same run, as a ratio.
//!
//! `kernels` runs the kernels' own benchmark. `engine` runs the table of docs/performance.md, ours
//! and the peer alternating, each figure beside the machine's limit where there is one. `server`
//! is a single load of one's own choice. `pressure` counts what a cache that is too small costs. `make-model` makes what they measure. All figures depend
//! on the machine and on what else it does, so its load average stands beside them.

mod engine;
mod http;
mod machine;
mod make_model;
mod pressure;
mod process;
mod server;
mod shape;
mod statistics;
mod words;

use anyhow::Result;

use crate::tools;

#[derive(clap::Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// The kernels alone, as GFLOP/s and GB/s
    Kernels,
    /// The server, and llama.cpp's beside it
    Server(server::ServerArgs),
    /// The whole table, and a peer beside it
    Engine(Box<engine::EngineArgs>),
    /// The server with a cache too small for its streams
    Pressure(pressure::PressureArgs),
    /// Make a model of random weights in a published shape
    MakeModel(make_model::MakeModelArgs),
}

pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.what {
        What::Kernels => tools::run(tools::cargo().args(["bench", "--package", "wharf-kernels"])),
        What::Server(args) => server::run(args),
        What::Engine(args) => engine::run(args),
        What::Pressure(args) => pressure::run(args),
        What::MakeModel(args) => make_model::run(args),
    }
}
