//! An engine as a child process.
//!
//! The child must not outlive us, however we end. `PR_SET_PDEATHSIG` would need unsafe code, so it
//! goes the other way round: the child's standard input is a pipe of which we hold the other end,
//! and `--exit-on-stdin-eof` tells the engine to exit when that end closes, which the system does
//! for us even after SIGKILL. The child has its own process group, so that Ctrl-C in a terminal
//! reaches us alone and we drain before we stop it.
//!
//! What the child prints goes on to our standard error, and the last of it is kept: it is the best
//! answer to "why did it not start".

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rustix::process::{Pid, kill_process};
use tokio::{
    process::{Child, ChildStdin, Command},
    sync::{mpsc, oneshot},
};

use crate::{EngineCommand, lifecycle::Reason, sockets::SocketDirectory};

/// Lines of the child's output that are kept, and bytes of one of them.
const KEPT_LINES: usize = 12;
const LINE_LIMIT: u64 = 4096;

/// Makes engines. The tests have one that starts no process.
pub(crate) trait Launcher: Send + 'static {
    /// Starts an engine; the reason if it cannot even be started.
    fn launch(&mut self) -> Result<Launched, Reason>;
}

/// An engine that was started.
pub(crate) struct Launched {
    /// Where it listens, or will.
    pub(crate) socket: PathBuf,
    pub(crate) signals: mpsc::UnboundedSender<Signal>,
    /// Owns the engine: completes with the reason when it has ended; dropped, it kills it.
    pub(crate) exited: BoxFuture<'static, Reason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Terminate,
    Kill,
}

/// Starts [`EngineCommand`]s.
pub(crate) struct ChildLauncher {
    pub(crate) command: EngineCommand,
    pub(crate) sockets: SocketDirectory,
}

impl Launcher for ChildLauncher {
    fn launch(&mut self) -> Result<Launched, Reason> {
        let socket = self.sockets.next();
        let program = &self.command.program;
        let mut child = Command::new(program)
            .args(&self.command.args)
            .arg("--uds")
            .arg(&socket)
            .arg("--exit-on-stdin-eof")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{} cannot be run: {error}", program.display()))?;
        tracing::info!(pid = child.id(), socket = %socket.display(), "engine launched");
        // `Child::wait` would close it.
        let stdin = child.stdin.take();
        let tail = Arc::new(Mutex::new(Tail::default()));
        let outputs = [
            child.stdout.take().map(|pipe| pipe.into_owned_fd()),
            child.stderr.take().map(|pipe| pipe.into_owned_fd()),
        ];
        let mut ends = Vec::new();
        for output in outputs.into_iter().flatten() {
            let forwarding = output.and_then(|output| forward(output, Arc::clone(&tail)));
            ends.push(forwarding.map_err(|error| format!("its output cannot be read: {error}"))?);
        }
        let (signals, inbox) = mpsc::unbounded_channel();
        let exited = Box::pin(watch(Process { child, _stdin: stdin, tail, ends }, inbox));
        Ok(Launched { socket, signals, exited })
    }
}

struct Process {
    child: Child,
    /// Its closing tells the child that we are gone.
    _stdin: Option<ChildStdin>,
    tail: Arc<Mutex<Tail>>,
    /// Complete when the child's outputs have been read to the end.
    ends: Vec<oneshot::Receiver<()>>,
}

/// Waits for the child's exit, and passes signals on meanwhile.
async fn watch(mut process: Process, mut inbox: mpsc::UnboundedReceiver<Signal>) -> Reason {
    let status = loop {
        tokio::select! {
            status = process.child.wait() => break status,
            Some(signal) = inbox.recv() => send(&mut process.child, signal),
        }
    };
    // The last words may still be on their way. A grandchild that kept the pipe open is not waited for.
    for end in process.ends {
        let _ = tokio::time::timeout(Duration::from_millis(200), end).await;
    }
    let ending = match status {
        Ok(status) => describe(status),
        Err(error) => format!("cannot be waited for: {error}"),
    };
    let tail = process.tail.lock().unwrap_or_else(PoisonError::into_inner).text();
    if tail.is_empty() {
        format!("the engine {ending} and said nothing").into()
    } else {
        format!("the engine {ending}; its last words:\n{tail}").into()
    }
}

fn send(child: &mut Child, signal: Signal) {
    // `id` is None once the child was waited for, so a reused process id is never hit.
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return };
    let sent = match signal {
        Signal::Terminate => kill_process(pid, rustix::process::Signal::TERM).map_err(Into::into),
        Signal::Kill => child.start_kill(),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, ?signal, "the engine could not be signalled");
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => format!("ended: {status}"),
    }
}

/// The last lines of a child's output.
#[derive(Debug, Default)]
struct Tail {
    lines: VecDeque<String>,
}

impl Tail {
    fn push(&mut self, line: &[u8]) {
        // These lines go into error messages: no control characters (colours, carriage returns).
        let line = String::from_utf8_lossy(line);
        let line: String = line.trim_end().chars().filter(|c| !c.is_control()).collect();
        if line.is_empty() {
            return;
        }
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn text(&self) -> String {
        Vec::from_iter(self.lines.iter().map(String::as_str)).join("\n")
    }
}

/// Passes a child's output on to standard error, line by line, on a thread of its own: standard
/// error may block, and the runtime's threads must not. The receiver completes at the end.
fn forward(output: OwnedFd, tail: Arc<Mutex<Tail>>) -> std::io::Result<oneshot::Receiver<()>> {
    let (done, end) = oneshot::channel::<()>();
    let mut output = BufReader::new(File::from(output));
    std::thread::Builder::new().name("engine-output".to_owned()).spawn(move || {
        let _done = done;
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line without end is passed on in pieces.
            match output.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            tail.lock().unwrap_or_else(PoisonError::into_inner).push(&line);
            // Nobody may be listening to us; the engine still has to get rid of its output.
            let _ = std::io::stderr().write_all(&line);
        }
    })?;
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launcher(script: &str, state: &std::path::Path) -> ChildLauncher {
        let command = EngineCommand {
            program: "/bin/sh".into(),
            args: ["-c", script, "engine"].map(str::to_owned).to_vec(),
        };
        ChildLauncher { command, sockets: SocketDirectory::make(state).unwrap() }
    }

    #[tokio::test]
    async fn an_exit_is_told_with_the_last_lines_of_output() {
        let state = tempfile::tempdir().unwrap();
        let script = "i=0; while [ $i -lt 100 ]; do echo line $i >&2; i=$((i+1)); done; exit 3";
        let reason = launcher(script, state.path()).launch().unwrap().exited.await;
        assert!(reason.starts_with("the engine exited with status 3;"), "{reason}");
        assert!(reason.ends_with("line 98\nline 99"), "{reason}");
        assert!(!reason.contains("line 80"), "{reason}");
    }

    #[tokio::test]
    async fn the_engine_gets_its_socket_and_the_flag() {
        let state = tempfile::tempdir().unwrap();
        let launched = launcher("echo \"$@\"", state.path()).launch().unwrap();
        let expected = format!("--uds {} --exit-on-stdin-eof", launched.socket.display());
        let reason = launched.exited.await;
        assert!(reason.ends_with(&expected), "{reason}");
    }

    #[tokio::test]
    async fn signals_reach_the_child() {
        let state = tempfile::tempdir().unwrap();
        let script = "trap 'exit 7' TERM; while :; do sleep 0.02; done";
        for (signal, ending) in [(Signal::Terminate, "status 7"), (Signal::Kill, "signal 9")] {
            let launched = launcher(script, state.path()).launch().unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            launched.signals.send(signal).unwrap();
            let reason = launched.exited.await;
            assert!(reason.contains(ending), "{reason}");
        }
    }

    #[tokio::test]
    async fn a_child_that_is_dropped_is_killed() {
        let state = tempfile::tempdir().unwrap();
        let marker = state.path().join("alive");
        let script = format!("sleep 0.3; touch {}", marker.display());
        drop(launcher(&script, state.path()).launch().unwrap());
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(!marker.exists());
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let state = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _context = runtime.enter();
        let mut launcher = launcher("", state.path());
        launcher.command.program = "/nonexistent/wharf".into();
        let reason = launcher.launch().err().unwrap();
        assert!(reason.contains("/nonexistent/wharf"), "{reason}");
    }

    #[test]
    fn the_tail_is_bounded_and_plain() {
        let mut tail = Tail::default();
        tail.push(b"\x1b[31mred\x1b[0m\r\n");
        tail.push(b"\n");
        tail.push(b"\xff\xfe\n");
        assert_eq!(tail.text(), "[31mred[0m\n\u{fffd}\u{fffd}");
        (0..100).for_each(|_| tail.push(b"x\n"));
        assert_eq!(tail.lines.len(), KEPT_LINES);
    }
}
