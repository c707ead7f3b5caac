//! Storage formats of weights, as GGUF and safetensors lay them out, and their plain decoding.

/// How a row of weights is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Format {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl Format {
    /// Weights per block (1 for the plain formats).
    pub fn block_len(self) -> usize {
        todo!()
    }
    /// Bytes per block.
    pub fn block_bytes(self) -> usize {
        todo!()
    }
    /// Bytes of a row of `cols` weights; `None` if `cols` is not a whole number of blocks or it overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let _ = cols;
        todo!()
    }
}

/// Decodes whole blocks of `src` into `dst` (`dst.len()` weights).
///
/// # Panics
/// When the lengths disagree.
pub fn dequantize(format: Format, src: &[u8], dst: &mut [f32]) {
    let _ = (format, src, dst);
    todo!()
}
