//! Who is measured, and how each is started: with the same threads, the same file, and the same room
//! for keys and values.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{cell::Room, subject::Subject};
use crate::bench::{
    http::Endpoint,
    process::{Server, free_port},
};

/// Whom to set beside us.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    /// llama.cpp's programs in this directory.
    Llama(PathBuf),
    /// Whatever listens there, with the right model and room for what is asked.
    Url(Endpoint),
}

impl Peer {
    pub(super) fn name(&self) -> String {
        match self {
            Peer::Llama(_) => "llama.cpp".to_owned(),
            Peer::Url(endpoint) => endpoint.url(),
        }
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Ours,
    Peer,
}

/// Both sides, and what they are given.
pub(super) struct Contest {
    pub(super) wharf: PathBuf,
    pub(super) peer: Option<Peer>,
    pub(super) threads: usize,
    pub(super) isa: Option<String>,
    pub(super) activations: String,
}

/// A server that answers.
pub(super) struct Running {
    /// `None` of one that someone else started.
    pub(super) server: Option<Server>,
    pub(super) endpoint: Endpoint,
    /// What its start took.
    pub(super) start: Option<Duration>,
}

impl Contest {
    /// Starts a side's server and waits until it is ready.
    pub(super) fn start(&self, side: Side, subject: &Subject, room: Room) -> Result<Running> {
        let port = free_port()?;
        let mut command = match (side, &self.peer) {
            (Side::Peer, Some(Peer::Url(endpoint))) => {
                let endpoint = endpoint.clone();
                return Ok(Running { server: None, endpoint, start: None });
            }
            (Side::Peer, Some(Peer::Llama(dir))) => {
                let mut command = Command::new(dir.join("llama-server"));
                let context = room.slots * room.context;
                command.arg("-m").arg(&subject.file).args(["--port", &port.to_string()]);
                command.args(["-t", &self.threads.to_string(), "-np", &room.slots.to_string()]);
                command.args(["-c", &context.to_string()]);
                command
            }
            _ => self.wharf_engine(subject, room, port),
        };
        let mut server = Server::start(&mut command, port)?;
        let start = server.wait_until_ready().with_context(|| format!("{command:?}"))?;
        Ok(Running { server: Some(server), endpoint: Endpoint::local(port), start: Some(start) })
    }

    fn wharf_engine(&self, subject: &Subject, room: Room, port: u16) -> Command {
        let mut command = Command::new(&self.wharf);
        command.arg("engine").arg("--model").arg(&subject.file).args(["--port", &port.to_string()]);
        command.args(["--threads", &self.threads.to_string()]);
        command.args(["--activations", &self.activations]);
        // Answers of random weights, and to random words, repeat themselves: guesses would come true
        // more often than on any text that somebody wants.
        command.args(["--speculative-method", "off"]);
        command.args(["--max-num-seqs", &room.slots.to_string()]);
        command.args(["--max-model-len", &room.context.to_string()]);
        if let Some(isa) = &self.isa {
            command.args(["--isa", isa]);
        }
        command
    }

    /// llama-bench's own figures, without any server: prefill of 512 and decode, tokens/s.
    pub(super) fn llama_bench(&self, subject: &Subject, runs: usize) -> Result<Option<(f64, f64)>> {
        let Some(Peer::Llama(dir)) = &self.peer else { return Ok(None) };
        let mut command = Command::new(dir.join("llama-bench"));
        command.arg("-m").arg(&subject.file).args(["-p", "512", "-n", "128", "-o", "json"]);
        command.args(["-t", &self.threads.to_string(), "-r", &runs.to_string()]);
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        let tests: Vec<Value> = serde_json::from_slice(&output.stdout)?;
        let speed = |count: &str| {
            let test = tests.iter().find(|test| test[count].as_u64().is_some_and(|n| n > 0));
            test.and_then(|test| test["avg_ts"].as_f64()).context("llama-bench's report")
        };
        Ok(Some((speed("n_prompt")?, speed("n_gen")?)))
    }
}
