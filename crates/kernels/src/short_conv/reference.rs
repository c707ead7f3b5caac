//! The convolution as it is defined, in f64: the tests' oracle.

/// `x`: all inputs from the sequence's start, `[rows, channels]`; before them are zeros.
pub(super) fn short_conv(weight: &[f32], taps: usize, x: &[f32]) -> Vec<f64> {
    let channels = weight.len() / taps;
    let input = |row: usize, tap: usize, channel: usize| match (row + tap).checked_sub(taps - 1) {
        Some(row) => f64::from(x[row * channels + channel]),
        None => 0.0,
    };
    let mut out = Vec::new();
    for row in 0..x.len() / channels {
        for channel in 0..channels {
            let sum: f64 = (0..taps)
                .map(|tap| f64::from(weight[tap * channels + channel]) * input(row, tap, channel))
                .sum();
            out.push(sum / (1.0 + (-sum).exp()));
        }
    }
    out
}
