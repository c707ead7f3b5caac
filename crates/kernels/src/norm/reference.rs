//! RMS normalisation as the paper writes it, in f64: the tests' oracle.

pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        let rms = (squares / row.len() as f64 + f64::from(eps)).sqrt();
        out.extend(row.iter().zip(weight).map(|(&x, &w)| f64::from(x) / rms * f64::from(w)));
    }
    out
}
