//! Three loops over the decoded weights, in f64: the tests' oracle.

use crate::quant::{Format, dequantize};

/// `y[m, rows]`, and for each the sum of the products' magnitudes, which bounds rounding errors.
pub(super) fn matmul(
    x: &[f32],
    m: usize,
    format: Format,
    rows: usize,
    cols: usize,
    src: &[u8],
) -> Vec<(f64, f64)> {
    let mut w = vec![0.0f32; rows * cols];
    dequantize(format, src, &mut w);
    let mut y = Vec::with_capacity(m * rows);
    for x in x.chunks_exact(cols) {
        for w in w.chunks_exact(cols) {
            let products = x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w));
            y.push(products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs())));
        }
    }
    y
}
