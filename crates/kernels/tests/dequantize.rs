//! The plain decoding against an independent one: `data/dequantize.txt`, made by
//! `data/dequantize.py` with the Python package `gguf`.

use wharf_kernels::quant::{Format, dequantize};

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).map_or(0, |value| value as u8);
    hex.as_bytes().as_chunks().0.iter().map(|&[high, low]| digit(high) << 4 | digit(low)).collect()
}

/// Formats without a minimum must agree to the bit. With one, gguf rounds the product and the sum,
/// and we round once: half a unit in the last place of the product, whose size is at most that of
/// the block's largest weight and minimum together.
#[test]
fn agrees_with_gguf() {
    let mut formats = 0;
    for line in include_str!("data/dequantize.txt").lines() {
        let mut fields = line.split(' ');
        let mut next = || fields.next().unwrap();
        let (name, blocks, want) = (next(), bytes(next()), bytes(next()));
        let (format, exact) = match name {
            "Q4_0" => (Format::Q4_0, true),
            "Q4_1" => (Format::Q4_1, false),
            "Q5_0" => (Format::Q5_0, true),
            "Q5_1" => (Format::Q5_1, false),
            "Q8_0" => (Format::Q8_0, true),
            "Q4_K" => (Format::Q4K, false),
            "Q5_K" => (Format::Q5K, false),
            "Q6_K" => (Format::Q6K, true),
            "MXFP4" => (Format::Mxfp4, true),
            other => panic!("unknown format {other}"),
        };
        let want: Vec<f32> =
            want.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(want.len(), 2 * format.block_len());
        let mut got = vec![0.0; want.len()];
        dequantize(format, &blocks, &mut got);
        let largest = want.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        let bound = if exact { 0.0 } else { 4.0 * f32::EPSILON * largest };
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got - want).abs() <= bound, "{name}, weight {i}: {got}, gguf has {want}");
        }
        formats += 1;
    }
    assert_eq!(formats, 9);
}
