//! RMS normalisation (Zhang & Sennrich 2019).
use crate::isa::Isa;
/// `out[r, d] = x[r, d] / sqrt(mean(x[r]²) + eps) * weight[d]` for each row of `weight.len()` values. `out.len() == x.len()`.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let _ = (isa, x, weight, eps, out);
    todo!()
}
/// As [`rms_norm`], in place (Qwen3's per-head query and key norms).
pub fn rms_norm_in_place(isa: Isa, x: &mut [f32], weight: &[f32], eps: f32) {
    let _ = (isa, x, weight, eps);
    todo!()
}
