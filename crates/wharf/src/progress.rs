//! Progress bars on standard error; where that is no terminal, a plain line now and then.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// A bar for downloads.
pub(crate) struct DownloadBar {
    bar: ProgressBar,
    /// Where there is no terminal.
    lines: Option<Mutex<Lines>>,
}

/// What a plain line tells.
struct Lines {
    file: String,
    done: u64,
    total: Option<u64>,
    last: Instant,
}

impl DownloadBar {
    /// A bar that shows once a download begins.
    pub(crate) fn new() -> Self {
        let lines = (!std::io::stderr().is_terminal()).then(|| {
            Mutex::new(Lines { file: String::new(), done: 0, total: None, last: Instant::now() })
        });
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style(
            "{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ));
        Self { bar, lines }
    }

    fn with_lines(&self, change: impl FnOnce(&mut Lines)) {
        if let Some(mut lines) = self.lines.as_ref().and_then(|lines| lines.lock().ok()) {
            change(&mut lines);
        }
    }
}

impl wharf_hub::Progress for DownloadBar {
    fn start(&self, file: &str, done: u64, total: Option<u64>) {
        if self.lines.is_none() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.reset();
        self.bar.set_length(total.unwrap_or(0));
        self.bar.set_position(done);
        self.bar.set_message(format!("Fetching {file}"));
        self.with_lines(|lines| {
            let size = total.map_or(String::new(), |total| format!(" ({} MB)", total / 1_000_000));
            eprintln!("Fetching {file}{size}");
            *lines = Lines { file: file.to_owned(), done, total, last: Instant::now() };
        });
    }

    fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.with_lines(|lines| {
            lines.done += bytes;
            if lines.last.elapsed() >= LINE_EVERY {
                lines.last = Instant::now();
                match lines.total.filter(|&total| total > 0) {
                    Some(total) => {
                        eprintln!("Fetching {}: {} %", lines.file, lines.done * 100 / total);
                    }
                    None => eprintln!("Fetching {}: {} MB", lines.file, lines.done / 1_000_000),
                }
            }
        });
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A bar that counts `what` up to `total`; silent without a terminal.
pub(crate) fn counting_bar(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    bar.set_style(style("{msg} [{bar:30}] {pos} of {len}, {elapsed}"));
    bar.set_message(what.to_owned());
    bar
}

/// A style from a template of ours; a broken one shows the default bar rather than nothing.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸ ")
}
