//! Every level and format against the reference, bit equality between levels, and row independence.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::{
    Activations, CodeBits, CodedRow, CodedShape, PackError, PackedMatrix, matmul, matmul_all,
    reference,
};
use crate::{
    isa::{Isa, Level},
    quant::{Format, Quantization, dequantize, quantize},
    team::Team,
};

/// A stream of bits that looks random enough (Steele et al. 2014, SplitMix64).
pub(crate) struct Bits(pub(crate) u64);

impl Bits {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// -1 to 1.
    pub(crate) fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn numbers(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

/// `weights` weights in `format`: any codes, scales of a sensible size.
fn source(format: Format, weights: usize, bits: &mut Bits) -> Vec<u8> {
    let mut out = Vec::new();
    let f16 = |bits: &mut Bits| half::f16::from_f32(bits.number() * 0.1).to_le_bytes();
    for _ in 0..weights / format.block_len() {
        let number = bits.number();
        match format {
            Format::F32 => out.extend(number.to_le_bytes()),
            Format::F16 => out.extend(half::f16::from_f32(number).to_le_bytes()),
            Format::Bf16 => out.extend(half::bf16::from_f32(number).to_le_bytes()),
            _ => {
                let mut block: Vec<u8> =
                    (0..format.block_bytes()).map(|_| bits.next() as u8).collect();
                let halves: &[usize] = match format {
                    Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
                    Format::Q6K => &[208],
                    _ => &[0],
                };
                if format == Format::Mxfp4 {
                    block[0] = 118 + block[0] % 8;
                }
                let halves: &[usize] = if format == Format::Mxfp4 { &[] } else { halves };
                for &at in halves {
                    block[at..at + 2].copy_from_slice(&f16(bits));
                }
                out.extend(block);
            }
        }
    }
    out
}

fn team(threads: usize) -> Team {
    Team::new(NonZeroUsize::new(threads).unwrap())
}

fn multiply(isa: Isa, team: &Team, x: &[f32], m: usize, w: &PackedMatrix) -> Vec<u32> {
    let mut y = vec![f32::NAN; m * w.rows()];
    matmul(isa, team, x, m, w, &mut y);
    y.into_iter().map(f32::to_bits).collect()
}

/// Every level against the oracle within the rounding of a chain of `cols` steps, all levels equal
/// to the bit, and each row equal to itself alone.
fn check_as(
    activations: Activations,
    format: Format,
    [rows, cols, m]: [usize; 3],
    threads: usize,
    seed: u64,
) {
    let shape = format!("{activations:?}, {format:?} {rows}x{cols}, {m} rows, {threads} threads");
    let mut bits = Bits(seed);
    let src = source(format, rows * cols, &mut bits);
    let x = bits.numbers(m * cols);
    let team = team(threads);
    let w = PackedMatrix::pack(&team, format, rows, cols, &src, &|r| r).unwrap();
    check_packed(activations, format, &src, w, &x, &team, &shape);
}

/// [`check_as`] of a packed matrix: `src` are its rows in `format`.
fn check_packed(
    activations: Activations,
    format: Format,
    src: &[u8],
    w: PackedMatrix,
    x: &[f32],
    team: &Team,
    shape: &str,
) {
    let (rows, cols, m) = (w.rows(), w.cols(), x.len() / w.cols());
    let w = w.with_activations(activations);
    // A group of integers takes a few roundings more: its scale, and x rounded in another order.
    let (met, roundings) = match activations {
        Activations::F32 => (x.to_vec(), cols + 2),
        Activations::Rounded => (rounded(x), cols + 8),
    };
    let want = reference::matmul(&met, m, format, rows, cols, src);
    let mut first = None;
    for isa in Isa::available() {
        let y = multiply(isa, team, x, m, &w);
        for (i, (y, (want, size))) in y.iter().zip(&want).enumerate() {
            let error = (f64::from(f32::from_bits(*y)) - want).abs();
            let bound = size * roundings as f64 * f64::from(f32::EPSILON) + 1e-30;
            assert!(error <= bound, "{shape}, {:?}, output {i}: off by {error}", isa.level());
        }
        assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{shape}, {:?}", isa.level());
        for row in 0..m {
            let alone = multiply(isa, team, &x[row * cols..][..cols], 1, &w);
            assert_eq!(alone, y[row * rows..][..rows], "{shape}, {:?}, row {row}", isa.level());
        }
    }
}

/// What `Activations::Rounded` makes of x before it meets coded weights, `[m, cols]`, in plain arithmetic.
fn rounded(x: &[f32]) -> Vec<f32> {
    let group = |x: &[f32]| {
        let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let round = |x: &f32| match largest {
            0.0 => 0.0,
            _ => {
                // In f64 the product is exact, and rounded once, as by a fused multiply-add.
                let code = f64::from(*x) * f64::from(127.0 / largest);
                code.round_ties_even() as f32 * (largest / 127.0)
            }
        };
        x.iter().map(round).collect::<Vec<_>>()
    };
    x.chunks_exact(32).flat_map(group).collect()
}

/// [`check_as`] is, with x as it is.
fn check(format: Format, rows: usize, cols: usize, m: usize, threads: usize, seed: u64) {
    check_as(Activations::F32, format, [rows, cols, m], threads, seed);
}

/// [`check_as`] is, with x rounded to bytes.
fn check_int8(format: Format, rows: usize, cols: usize, m: usize, threads: usize, seed: u64) {
    check_as(Activations::Rounded, format, [rows, cols, m], threads, seed);
}

const CODED: [Format; 9] = [
    Format::Q4_0,
    Format::Q4_1,
    Format::Q5_0,
    Format::Q5_1,
    Format::Q8_0,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::Mxfp4,
];

#[test]
fn rows_rounded_to_bytes_meet_every_coded_format() {
    for format in CODED {
        let unit = format.block_len();
        for (rows, blocks, m) in [(1, 1, 1), (17, 3, 2), (33, 2, 5), (48, 1, 13), (70, 2, 29)] {
            check_int8(format, rows, unit * blocks, m, 2, 7);
        }
        check_int8(format, 40, 256, 200, 3, 1);
    }
    for m in 0..=40 {
        check_int8(Format::Q4_1, 40, 64, m, 2, m as u64);
        check_int8(Format::Q6K, 20, 256, m, 3, m as u64);
    }
}

/// The largest codes and bytes there are: no sum of products overflows.
#[test]
fn the_largest_products_are_exact() {
    let team = team(1);
    for (format, byte) in [(Format::Q8_0, 0x80), (Format::Q8_0, 0x7f), (Format::Q4_0, 0xff)] {
        let mut block = vec![byte; format.block_bytes()];
        block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
        let w = PackedMatrix::pack(&team, format, 1, 32, &block, &|r| r).unwrap();
        let w = w.with_activations(Activations::Rounded);
        for sign in [1.0, -1.0] {
            let x = vec![127.0 * sign; 32];
            let want = reference::matmul(&x, 1, format, 1, 32, &block)[0].0 as f32;
            for isa in Isa::available() {
                let y = multiply(isa, &team, &x, 1, &w);
                assert_eq!(f32::from_bits(y[0]), want, "{format:?} {byte} {:?}", isa.level());
            }
        }
    }
}

/// To the bit: on AMX the sums as Intel's manual has them, of x rounded; elsewhere as with x in f32.
#[test]
fn rows_rounded_to_bfloat16_meet_bfloat16() {
    let format = Format::Bf16;
    for (rows, cols) in [(1, 32), (16, 64), (17, 96), (33, 43), (70, 352), (90, 60)] {
        // Of one thread the last but one is also cut along k.
        let team = team(if rows == 70 { 1 } else { 2 });
        for m in [1, 2, 3, 15, 16, 17, 31, 32, 33, 50, 140] {
            let mut bits = Bits((rows * m) as u64);
            let src = source(format, rows * cols, &mut bits);
            let x = bits.numbers(m * cols);
            let w = PackedMatrix::pack(&team, format, rows, cols, &src, &|r| r).unwrap();
            let exact = multiply(Isa::detect(), &team, &x, m, &w);
            let tiles = in_tiles(&x, rows, cols, &src);
            let w = w.with_activations(Activations::Rounded);
            for isa in Isa::available() {
                let want = match isa.level() == Level::Amx && cols % 32 == 0 {
                    true => &tiles,
                    false => &exact,
                };
                let got = multiply(isa, &team, &x, m, &w);
                assert_eq!(&got, want, "{rows}x{cols}, {m} rows, {:?}", isa.level());
            }
        }
    }
}

/// `TDPBF16PS` in plain arithmetic: of 32 k the even ones, the odd ones, their sum, added to the sum.
fn in_tiles(x: &[f32], rows: usize, cols: usize, src: &[u8]) -> Vec<u32> {
    let mut w = vec![0.0; rows * cols];
    dequantize(Format::Bf16, src, &mut w);
    let x: Vec<f32> = x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    let dot = |x: &[f32], w: &[f32]| {
        let every_second = |from: usize| {
            let products = x.iter().zip(w).skip(from).step_by(2);
            products.fold(0.0, |sum, (x, w)| x.mul_add(*w, sum))
        };
        every_second(0) + every_second(1)
    };
    let product = |x: &[f32], w: &[f32]| -> f32 {
        x.chunks(32).zip(w.chunks(32)).fold(0.0, |sum, (x, w)| sum + dot(x, w))
    };
    let row = |x: &[f32]| w.chunks(cols).map(|w| product(x, w).to_bits()).collect::<Vec<_>>();
    x.chunks(cols).flat_map(row).collect()
}

#[test]
fn rows_that_bytes_cannot_hold() {
    let team = team(1);
    let src = source(Format::Q8_0, 64, &mut Bits(2));
    let w = PackedMatrix::pack(&team, Format::Q8_0, 1, 64, &src, &|r| r).unwrap();
    let w = w.with_activations(Activations::Rounded);
    for isa in Isa::available() {
        let product = |x: &[f32]| f32::from_bits(multiply(isa, &team, x, 1, &w)[0]);
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 15, 16, 40] {
                let mut x = vec![1.0; 64];
                x[at] = fault;
                assert!(product(&x).is_nan(), "{fault} at {at}");
            }
        }
        assert_eq!(product(&[0.0; 64]), 0.0);
        assert_eq!(product(&[1e-40; 64]), 0.0);
        assert!(product(&[1e30; 64]).is_finite());
    }
}

#[test]
fn every_format_on_every_level_over_odd_shapes() {
    for format in Format::ALL {
        let unit = format.block_len();
        for (rows, blocks, m) in [(1, 1, 1), (17, 3, 2), (33, 2, 5), (48, 1, 13), (70, 2, 29)] {
            let cols = if unit == 1 { 43 * blocks } else { unit * blocks };
            check(format, rows, cols, m, 2, 7);
        }
    }
}

#[test]
fn every_number_of_rows() {
    for m in 0..=40 {
        check(Format::F32, 40, 19, m, 1, m as u64);
        check(Format::Q4_1, 40, 64, m, 2, m as u64);
        check(Format::Q6K, 20, 256, m, 3, m as u64);
    }
}

#[test]
fn k_past_one_tile() {
    for format in Format::ALL {
        let cols = if format.block_len() == 1 { 600 } else { 768 };
        check(format, 50, cols, 30, 2, 3);
    }
    check(Format::F32, 20, 256, 30, 2, 3);
    check(Format::F32, 20, 257, 30, 2, 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_shape(
        format in proptest::sample::select(Format::ALL.to_vec()),
        rows in 1usize..80,
        size in 1usize..300,
        m in 1usize..70,
        threads in 1usize..4,
        seed: u64,
    ) {
        check(format, rows, size.next_multiple_of(format.block_len()), m, threads, seed);
    }
}

#[test]
fn rows_may_be_taken_in_another_order() {
    let team = team(2);
    for format in [Format::F32, Format::Q4K] {
        let (rows, cols) = (37, 256);
        let mut bits = Bits(5);
        let src = source(format, rows * cols, &mut bits);
        let x = bits.numbers(cols);
        let pack = |row_of: &(dyn Fn(usize) -> usize + Sync)| {
            let w = PackedMatrix::pack(&team, format, rows, cols, &src, row_of).unwrap();
            multiply(Isa::detect(), &team, &x, 1, &w)
        };
        let straight = pack(&|r| r);
        let turned = pack(&|r| rows - 1 - r);
        assert!(straight.iter().eq(turned.iter().rev()));
    }
}

/// Any codes of such a matrix, with scales that f16 has.
fn coded_rows(shape: &CodedShape, bits: &mut Bits) -> Vec<CodedRow> {
    let any = |bits: &mut Bits| match shape.bits {
        CodeBits::Four => (bits.next() & 15) as i8,
        CodeBits::Eight => bits.next() as i8,
    };
    let row = |bits: &mut Bits| {
        let mut row = CodedRow::of(shape);
        row.codes.fill_with(|| any(bits));
        row.zeros.fill_with(|| any(bits));
        row.scales.fill_with(|| half::f16::from_f32(bits.number() * 0.1).to_f32());
        row
    };
    (0..shape.rows).map(|_| row(bits)).collect()
}

#[test]
fn codes_with_zeros_in_groups_of_any_size() {
    let team = team(2);
    let mut seed = 0;
    for (cols, group) in [(32, 32), (128, 64), (384, 128), (96, 96), (320, 160), (256, 256)] {
        for (bits, zero) in [
            (CodeBits::Four, None),
            (CodeBits::Four, Some(8)),
            (CodeBits::Four, Some(127)),
            (CodeBits::Four, Some(-128)), // which AMX does not take off bytes
            (CodeBits::Eight, None),
            (CodeBits::Eight, Some(0)),
            (CodeBits::Eight, Some(-100)),
        ] {
            for (rows, m) in [(16, 1), (35, 13), (50, 29)] {
                seed += 1;
                let mut random = Bits(seed);
                let shape = CodedShape { rows, cols, bits, group, zero };
                let coded = coded_rows(&shape, &mut random);
                let w = PackedMatrix::pack_codes(&team, &shape, &|range, out| {
                    out.clone_from_slice(&coded[range]);
                });
                let mut weights = vec![0.0; rows * cols];
                for (row, out) in coded.iter().zip(weights.chunks_exact_mut(cols)) {
                    row.weights(&shape, out);
                }
                // The same weights in plain numbers, times x as it is: to the bit, since exact.
                let floats =
                    PackedMatrix::pack_floats(Format::F32, &team, rows, cols, &|r, out| {
                        out.copy_from_slice(&weights[r * cols..][..cols]);
                    });
                let x = random.numbers(m * cols);
                let product = |w: &PackedMatrix| multiply(Isa::detect(), &team, &x, m, w);
                assert_eq!(product(&w), product(&floats), "{shape:?}");
                let src: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
                for activations in [Activations::F32, Activations::Rounded] {
                    let w = PackedMatrix::pack_codes(&team, &shape, &|range, out| {
                        out.clone_from_slice(&coded[range]);
                    });
                    check_sum_of_parts(activations, &src, w, &x, &team, &shape);
                }
            }
        }
    }
}

/// [`check_packed`], for weights whose code and zero are summed apart, each of which may be as large as
/// the largest weight there is: the bound is that of matrices of such weights.
fn check_sum_of_parts(
    activations: Activations,
    src: &[u8],
    w: PackedMatrix,
    x: &[f32],
    team: &Team,
    shape: &CodedShape,
) {
    if activations == Activations::F32 {
        return check_packed(activations, Format::F32, src, w, x, team, &format!("{shape:?}"));
    }
    let w = w.with_activations(activations);
    let (rows, cols, m) = (w.rows(), w.cols(), x.len() / w.cols());
    let want = reference::matmul(&rounded(x), m, Format::F32, rows, cols, src);
    let mut first = None;
    for isa in Isa::available() {
        let y = multiply(isa, team, x, m, &w);
        for (y, (want, _)) in y.iter().zip(&want) {
            let error = (f64::from(f32::from_bits(*y)) - want).abs();
            // Codes and zeros below 128, scales below 0.1, x below 1.
            let bound = cols as f64 * 256.0 * 0.1 * f64::from(f32::EPSILON) * 16.0;
            assert!(error <= bound, "{shape:?}, {:?}: off by {error}", isa.level());
        }
        assert_eq!(first.get_or_insert_with(|| y.clone()), &y, "{shape:?}, {:?}", isa.level());
        for row in 0..m {
            let alone = multiply(isa, team, &x[row * cols..][..cols], 1, &w);
            assert_eq!(alone, y[row * rows..][..rows], "{shape:?}, {:?}, {row}", isa.level());
        }
    }
}

#[test]
fn groups_that_do_not_fit_are_named() {
    let fault =
        |cols, group| CodedShape { rows: 1, cols, bits: CodeBits::Four, group, zero: None }.fault();
    assert_eq!(fault(256, 128), None);
    for (cols, group) in [(48, 16), (64, 0), (64, 48), (96, 64)] {
        assert!(fault(cols, group).is_some(), "{cols} in {group}");
    }
}

/// A matrix quantised as it is packed is the quantised one packed.
#[test]
fn weights_are_quantised_on_the_way() {
    let (rows, cols, team) = (37, 96, team(2));
    for (from, quantization) in [
        (Format::F32, Quantization::Int8),
        (Format::Bf16, Quantization::Int4),
        (Format::Q8_0, Quantization::Int4),
    ] {
        let into = quantization.format(from);
        let mut bits = Bits(4);
        let src = source(from, rows * cols, &mut bits);
        let mut weights = vec![0.0; rows * cols];
        dequantize(from, &src, &mut weights);
        let mut quantised = vec![0; into.row_bytes(rows * cols).unwrap()];
        quantize(into, &weights, &mut quantised);
        let turned = |row| rows - 1 - row;
        let want = PackedMatrix::pack(&team, into, rows, cols, &quantised, &turned).unwrap();
        let got = PackedMatrix::pack_into(into, &team, from, rows, cols, &src, &turned).unwrap();
        let x = bits.numbers(cols);
        let product = |w: &PackedMatrix| multiply(Isa::detect(), &team, &x, 1, w);
        assert_eq!(product(&got), product(&want), "{from:?} to {into:?}");
        assert_eq!(got.bytes(), want.bytes());
    }
}

#[test]
fn a_source_of_the_wrong_size_is_refused() {
    let team = team(1);
    let pack = |format, rows, cols, src: &[u8]| {
        PackedMatrix::pack(&team, format, rows, cols, src, &|r| r).err()
    };
    let short = PackError { rows: 2, cols: 3, format: Format::F32, need: Some(24), got: 23 };
    assert_eq!(short.to_string(), "a 2x3 matrix in F32 needs 24 bytes, got 23 bytes");
    assert_eq!(pack(Format::F32, 2, 3, &[0; 23]), Some(short));
    assert_eq!(pack(Format::Q4_0, 1, 33, &[0; 18]).unwrap().need, None);
    assert_eq!(pack(Format::F32, usize::MAX, usize::MAX, &[]).unwrap().need, None);
    assert_eq!(pack(Format::F16, usize::MAX / 2, 16, &[]).unwrap().need, None);
    assert_eq!(pack(Format::F32, 2, 3, &[0; 24]), None);
}

#[test]
fn matrices_without_rows_or_columns() {
    let team = team(2);
    let none = PackedMatrix::pack(&team, Format::F32, usize::MAX, 0, &[], &|r| r).unwrap();
    assert_eq!(none.bytes(), 0);
    let flat = PackedMatrix::pack(&team, Format::F32, 3, 0, &[], &|r| r).unwrap();
    assert_eq!(multiply(Isa::detect(), &team, &[], 2, &flat), vec![0; 6]);
    let thin = PackedMatrix::pack(&team, Format::F32, 0, 5, &[], &|r| r).unwrap();
    assert!(multiply(Isa::detect(), &team, &[1.0; 5], 1, &thin).is_empty());
}

#[test]
fn bytes_held_are_about_the_source() {
    let team = team(1);
    for (format, bits) in [
        (Format::Q4_0, 4.5),
        (Format::Q4_1, 5.0),
        (Format::Q4K, 4.625),
        (Format::Q8_0, 8.5),
        (Format::Mxfp4, 4.5),
    ] {
        let src = source(format, 64 * 256, &mut Bits(1));
        let w = PackedMatrix::pack(&team, format, 64, 256, &src, &|r| r).unwrap();
        assert_eq!(w.bytes() as f64 * 8.0 / (64.0 * 256.0), bits, "{format:?}");
    }
    let shape = CodedShape { rows: 64, cols: 256, bits: CodeBits::Four, group: 128, zero: None };
    let w = PackedMatrix::pack_codes(&team, &shape, &|_, _| {});
    assert_eq!(w.bytes() as f64 * 8.0 / (64.0 * 256.0), 4.0 + 24.0 / 128.0);
}

#[test]
#[should_panic(expected = "x is not [2, 4]")]
fn a_wrong_x_is_refused() {
    let team = team(1);
    let w = PackedMatrix::pack(&team, Format::F32, 1, 4, &[0; 16], &|r| r).unwrap();
    matmul(Isa::detect(), &team, &[0.0; 7], 2, &w, &mut [0.0; 2]);
}

/// Of few rows one region computes all; of many one after the other; no bit may tell.
#[test]
fn matrices_side_by_side_are_each_as_alone() {
    let (cols, mut bits, team) = (64, Bits(3), team(3));
    let shapes = [(Format::Q4_1, 40), (Format::F16, 7), (Format::Q8_0, 333)];
    let [a, b, c] = shapes.map(|(format, rows)| {
        let src = source(format, rows * cols, &mut bits);
        PackedMatrix::pack(&team, format, rows, cols, &src, &|r| r).unwrap()
    });
    // One that rounds its rows beside others that do not.
    let c = c.with_activations(Activations::Rounded);
    for isa in Isa::available() {
        for m in [0, 1, 5, 24, 25, 60] {
            let x = bits.numbers(m * cols);
            let [mut one, mut two, mut three] = [&a, &b, &c].map(|w| vec![f32::NAN; m * w.rows()]);
            matmul_all(isa, &team, &x, m, [(&a, &mut one), (&b, &mut two), (&c, &mut three)]);
            for (w, y) in [(&a, one), (&b, two), (&c, three)] {
                let y: Vec<u32> = y.into_iter().map(f32::to_bits).collect();
                assert_eq!(y, multiply(isa, &team, &x, m, w), "{m} rows");
            }
        }
    }
}
