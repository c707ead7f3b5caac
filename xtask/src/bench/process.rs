//! Servers that a benchmark starts, and ends when it is done with them.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::http;

/// Longest start; an image of several gigabytes is read in it.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at a starting server, whose start is a figure.
const LOOK: Duration = Duration::from_millis(5);

/// A server that ends with us.
pub(super) struct Server {
    child: Child,
    begun: Instant,
    pub(super) port: u16,
}

/// A port that nobody listens on.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Server {
    /// Starts what will listen on `port`.
    pub(super) fn start(command: &mut Command, port: u16) -> Result<Self> {
        let begun = Instant::now();
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { child, begun, port })
    }

    /// Returns how long the start took.
    pub(super) fn wait_until_ready(&mut self) -> Result<Duration> {
        while self.begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended while starting: {status}");
            }
            if http::is_healthy(self.port) {
                return Ok(self.begun.elapsed());
            }
            std::thread::sleep(LOOK);
        }
        bail!("the server was not ready within {} s", PATIENCE.as_secs())
    }

    /// `VmHWM` of /proc, in bytes.
    pub(super) fn peak_memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("/proc has no VmHWM")?.parse::<u64>()? * 1024)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to do about a server that is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
