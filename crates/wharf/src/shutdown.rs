//! When to stop: SIGTERM, Ctrl-C, or the end of standard input. The first begins an orderly end, a
//! second Ctrl-C ends the process at once.

use std::io::Read;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// What the shell reports for a program ended by Ctrl-C.
const INTERRUPTED: i32 = 130;

/// Tells any number of listeners that the end has begun.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    begun: watch::Receiver<bool>,
}

/// Which ends to heed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heed {
    /// SIGTERM and Ctrl-C: a program that a person started.
    Signals,
    /// SIGTERM and the end of standard input. Ctrl-C reaches the parent too, which decides.
    SignalsAndStdin,
}

impl Shutdown {
    /// Listens from now on. Must be called on the runtime.
    pub(crate) fn listen(heed: Heed) -> std::io::Result<Self> {
        let (begin, begun) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stdin_ended = match heed {
            Heed::Signals => None,
            Heed::SignalsAndStdin => Some(watch_stdin()),
        };
        tokio::spawn(async move {
            let stdin_end = async {
                match stdin_ended {
                    Some(ended) => drop(ended.await),
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(stdin_end);
            let mut signalled = false;
            loop {
                tokio::select! {
                    _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
                    () = &mut stdin_end, if !signalled => tracing::info!("standard input ended: stopping"),
                    _ = interrupt.recv() => {
                        if heed == Heed::SignalsAndStdin {
                            continue; // the parent's business
                        }
                        if signalled {
                            std::process::exit(INTERRUPTED);
                        }
                        eprintln!("\nStopping. Ctrl-C again ends at once.");
                    }
                }
                signalled = true;
                // An error means that nobody waits for it any more; a second Ctrl-C still counts.
                let _ = begin.send(true);
            }
        });
        Ok(Self { begun })
    }

    /// Whether the end has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Completes when the end has begun.
    pub(crate) async fn begun(mut self) {
        // An error means that the task above is gone, which only the end of the runtime does.
        let _ = self.begun.wait_for(|&begun| begun).await;
    }
}

/// Completes when standard input ends. A thread of its own: reading cannot be cancelled, and must
/// not keep the runtime from ending.
fn watch_stdin() -> tokio::sync::oneshot::Receiver<()> {
    let (send, receive) = tokio::sync::oneshot::channel();
    let watch = move || {
        let mut buffer = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while matches!(stdin.read(&mut buffer), Ok(1..)) {}
        let _ = send.send(());
    };
    if let Err(e) = std::thread::Builder::new().name("stdin".into()).spawn(watch) {
        tracing::error!("cannot watch standard input: {e}");
    }
    receive
}
