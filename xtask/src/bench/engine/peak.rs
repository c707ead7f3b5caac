//! What multiplying can reach on this machine: the kernels' own benchmark, at its best.

use anyhow::{Result, ensure};

use crate::tools;

/// By format, operations per second; none where it could not be measured.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Peaks(Vec<(String, f64)>);

impl Peaks {
    /// Runs the benchmark. A failure leaves the shares of prefill out, and says why.
    pub(super) fn measure(threads: usize, isa: Option<&str>) -> Self {
        measure(threads, isa).unwrap_or_else(|error| {
            eprintln!("prefill has no limit to be set against: {error:#}");
            Self::default()
        })
    }

    pub(super) fn of(&self, format: &str) -> Option<f64> {
        let found = self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(format));
        found.map(|(_, peak)| *peak)
    }
}

fn measure(threads: usize, isa: Option<&str>) -> Result<Peaks> {
    let mut command = tools::cargo();
    command.args(["bench", "--package", "wharf-kernels", "--bench", "kernels", "--", "peak"]);
    command.args(isa).arg(threads.to_string());
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    let peaks = parse(&String::from_utf8_lossy(&output.stdout));
    ensure!(!peaks.0.is_empty(), "the benchmark of the kernels printed no peak");
    Ok(peaks)
}

/// Lines such as `peak Q4_0 123.4`, in GFLOP/s.
fn parse(text: &str) -> Peaks {
    let peak = |line: &str| -> Option<(String, f64)> {
        let (format, giga) = line.strip_prefix("peak ")?.split_once(' ')?;
        Some((format.to_owned(), giga.parse::<f64>().ok()? * 1e9))
    };
    Peaks(text.lines().filter_map(peak).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_found_by_the_formats_names() {
        let peaks = parse("avx2, 2 threads\npeak Bf16 100.5\npeak Q4_0 200.0\n");
        assert_eq!(peaks.of("bf16"), Some(100.5e9));
        assert_eq!(peaks.of("q8_0"), None);
    }
}
