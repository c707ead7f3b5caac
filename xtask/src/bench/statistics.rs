//! Medians and percentiles of a few figures.

/// The middle of `values`, the mean of two if they are even in number; `None` of nothing.
pub(super) fn median(values: Vec<f64>) -> Option<f64> {
    percentile(values, 0.5)
}

/// The value below which the share `q` of `values` lies, interpolated; `None` of nothing.
pub(super) fn percentile(mut values: Vec<f64>, q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let position = q * values.len().checked_sub(1)? as f64;
    let (below, above) = (position.floor() as usize, position.ceil() as usize);
    Some(values[below] + (values[above] - values[below]) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_interpolated() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(percentile((1..=101).map(f64::from).collect(), 0.99), Some(100.0));
    }
}
