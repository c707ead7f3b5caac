//! Runs the real binary: each time with a home of its own, and ended with the test whatever happens.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything, on a machine with much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `wharf`.
pub(crate) struct Wharf {
    child: Child,
    /// Lines of standard output so far.
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

impl Wharf {
    /// The binary, without any of the caller's settings.
    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("WHARF_") || name.starts_with("HF_") {
                command.env_remove(name);
            }
        }
        // A folder in which there is no wharf.toml, and a cache that is empty.
        let nowhere = std::env::temp_dir().join("wharf-tests-nowhere");
        std::fs::create_dir_all(&nowhere).unwrap();
        command.current_dir(&nowhere).env("WHARF_CACHE", nowhere.join("cache"));
        command.env("NO_PROXY", "127.0.0.1").stdin(Stdio::null());
        command
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = collect(child.stdout.take().unwrap());
        let err = collect(child.stderr.take().unwrap());
        Self { child, out, err }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    pub(crate) fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    /// Waits until standard output has `text`; returns all of it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let out = self.out();
            if out.contains(text) {
                return out;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || began.elapsed() > PATIENCE {
                panic!("no {text:?} ({ended:?})\nout: {out}\nerr: {}", self.err());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal, by `kill` of the system.
    pub(crate) fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// Waits for the end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end; err: {}", self.err());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends standard input.
    pub(crate) fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }
}

impl Drop for Wharf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal_process(pid: u32, signal: &str) {
    let status = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Runs a command to its end: status, standard output, standard error.
pub(crate) fn output(command: &mut Command) -> (ExitStatus, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

/// One of the small committed checkpoints.
pub(crate) fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden").join(name)
}

fn collect(pipe: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let shared = text.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let mut text = shared.lock().unwrap();
            text.push_str(&line);
            text.push('\n');
        }
    });
    text
}
