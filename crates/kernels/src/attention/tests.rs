//! Every level against the reference, and that paging, chunking and batching change no bit.

use std::num::NonZeroUsize;

use proptest::prelude::*;

use super::{
    AttentionScratch, AttentionShape, BLOCK_TOKENS, KvCache, KvFormat, KvShape, SequenceRows,
    attention, reference, tile::CHUNK,
};
use crate::{isa::Isa, matmul::Bits, team::Team};

/// A model's attention and one sequence's operands, all positions of it.
#[derive(Clone)]
struct Case {
    kv: KvShape,
    shape: AttentionShape<'static>,
    tokens: usize,
    q: Vec<f32>, // [tokens, num_heads, head_dim]
    k: Vec<f32>, // [tokens, num_kv_heads, head_dim]
    v: Vec<f32>,
}

impl Case {
    fn new(
        (num_kv_heads, group, head_dim): (usize, usize, usize),
        tokens: usize,
        window: Option<usize>,
        format: KvFormat,
    ) -> Self {
        let mut bits = Bits((tokens * 1000 + head_dim) as u64);
        let num_heads = num_kv_heads * group;
        let scale = 1.0 / (head_dim as f32).sqrt();
        Self {
            kv: KvShape { num_blocks: 64, num_kv_heads, head_dim, format },
            shape: AttentionShape { num_heads, scale, soft_cap: None, window, sinks: None },
            tokens,
            q: bits.numbers(tokens * num_heads * head_dim).iter().map(|x| x * 3.0).collect(),
            k: bits.numbers(tokens * num_kv_heads * head_dim),
            v: bits.numbers(tokens * num_kv_heads * head_dim),
        }
    }

    /// Runs the sequence in chunks, `blocks` its table, in a cache full of NaN; the outputs' bits.
    fn run(&self, isa: Isa, threads: usize, chunks: &[usize], blocks: &[u32]) -> Vec<u32> {
        let team = Team::new(NonZeroUsize::new(threads).unwrap());
        let mut cache = KvCache::new(2, self.kv);
        self.poison(isa, &team, &mut cache);
        let mut scratch = AttentionScratch::default();
        let mut out = vec![0.0f32; self.q.len()];
        let (q_row, kv_row) = (self.q.len() / self.tokens, self.k.len() / self.tokens);
        let mut start = 0;
        for &num_rows in chunks {
            let seqs = [SequenceRows { first_row: 0, num_rows, start, block_table: blocks }];
            let kv = start * kv_row..(start + num_rows) * kv_row;
            cache.write(isa, &team, 1, &seqs, &self.k[kv.clone()], &self.v[kv]);
            let q = start * q_row..(start + num_rows) * q_row;
            let out = &mut out[q.clone()];
            attention(isa, &team, self.shape, &cache, 1, &seqs, &self.q[q], &mut scratch, out);
            start += num_rows;
        }
        assert_eq!(start, self.tokens);
        out.into_iter().map(f32::to_bits).collect()
    }

    /// NaN everywhere, as a block's last tenant may have left it.
    fn poison(&self, isa: Isa, team: &Team, cache: &mut KvCache) {
        let num_rows = self.kv.num_blocks * BLOCK_TOKENS;
        let block_table: Vec<u32> = (0..self.kv.num_blocks as u32).collect();
        let nan = vec![f32::NAN; num_rows * self.kv.num_kv_heads * self.kv.head_dim];
        let all = SequenceRows { first_row: 0, num_rows, start: 0, block_table: &block_table };
        cache.write(isa, team, 1, &[all], &nan, &nan);
    }

    fn straight(&self) -> Vec<u32> {
        (0..self.tokens.div_ceil(BLOCK_TOKENS) as u32).collect()
    }

    fn check(&self) {
        let round = |row: &[f32]| -> Vec<f32> {
            let largest = row.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let round = |x: &f32| match self.kv.format {
                KvFormat::F32 => *x,
                KvFormat::F16 => half::f16::from_f32(*x).to_f32(),
                KvFormat::Int8 => (x * (127.0 / largest)).round_ties_even() * (largest / 127.0),
                KvFormat::Bf16 => half::bf16::from_f32(*x).to_f32(),
            };
            row.iter().map(round).collect()
        };
        let (heads, dim) = (self.shape.num_heads, self.kv.head_dim);
        let of_head = |x: &[f32], head: usize| -> Vec<Vec<f32>> {
            let rows = x.chunks_exact(self.kv.num_kv_heads * dim);
            rows.map(|row| round(&row[head * dim..][..dim])).collect()
        };
        // In bfloat16 queries, times the scale, and weights are rounded too; a weight that is near the
        // middle of two may then be either.
        let is_bfloat = self.kv.format == KvFormat::Bf16;
        let bfloat = |x: f32| half::bf16::from_f32(x).to_f32();
        let mut shape = self.shape;
        let mut q = self.q.clone();
        if is_bfloat {
            q.iter_mut().for_each(|q| *q = bfloat(*q * shape.scale));
            shape.scale = 1.0;
        }
        let most_error = if is_bfloat { 2e-3 } else { 2e-6 };
        let round = |weight: f64| match is_bfloat {
            true => f64::from(bfloat(weight as f32)),
            false => weight,
        };
        let mut first = None;
        for isa in Isa::available().filter(|isa| self.kv.format.is_available(*isa)) {
            let out = self.run(isa, 2, &[self.tokens], &self.straight());
            for head in 0..heads {
                let kv_head = head / (heads / self.kv.num_kv_heads);
                let (k, v) = (of_head(&self.k, kv_head), of_head(&self.v, kv_head));
                for row in 0..self.tokens {
                    let at = (row * heads + head) * dim;
                    let q = &q[at..at + dim];
                    let want = reference::attend(shape, head, row, q, &k, &v, round);
                    for (out, want) in out[at..].iter().zip(want) {
                        let error = (f64::from(f32::from_bits(*out)) - want).abs();
                        assert!(error < most_error, "{:?}, row {row}, off by {error}", isa.level());
                    }
                }
            }
            assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{:?}", isa.level());
            let chunked = self.run(isa, 3, &self.odd_chunks(), &self.scattered());
            assert!(chunked == out, "{:?}: chunks or blocks change the bits", isa.level());
            let ones = self.run(isa, 1, &vec![1; self.tokens], &self.straight());
            assert!(ones == out, "{:?}: one by one changes the bits", isa.level());
        }
    }

    /// 1, 2, 3, 4, … tokens at a time.
    fn odd_chunks(&self) -> Vec<usize> {
        let mut left = self.tokens;
        let mut chunks = Vec::new();
        while left > 0 {
            chunks.push((chunks.len() + 1).min(left));
            left -= chunks[chunks.len() - 1];
        }
        chunks
    }

    /// Blocks in no order.
    fn scattered(&self) -> Vec<u32> {
        (0..self.tokens.div_ceil(BLOCK_TOKENS) as u32).map(|i| (i * 37 + 11) % 64).collect()
    }
}

const FORMATS: [KvFormat; 4] = [KvFormat::F32, KvFormat::F16, KvFormat::Int8, KvFormat::Bf16];

/// Those of the formats that there are kernels for here: all, but for bfloat16 where there is no AMX.
fn formats_here() -> impl Iterator<Item = KvFormat> {
    FORMATS.into_iter().filter(|format| format.is_available(Isa::detect()))
}

#[test]
fn every_level_agrees_however_it_is_cut() {
    for format in formats_here() {
        for heads in [(1, 1, 64), (3, 3, 64), (2, 4, 43), (1, 7, 24), (2, 1, 48), (1, 18, 16)] {
            for tokens in [1, 15, 16, 17, 70, 150] {
                Case::new(heads, tokens, None, format).check();
            }
        }
    }
}

/// A lone decoding sequence used to make one task per KV head, whatever the number of threads.
#[test]
fn a_lone_decoding_sequence_gives_every_thread_work() {
    let kv = KvShape { num_blocks: 1, num_kv_heads: 2, head_dim: 16, format: KvFormat::F32 };
    let shape =
        AttentionShape { num_heads: 8, scale: 1.0, soft_cap: None, window: None, sinks: None };
    let row = SequenceRows { first_row: 0, num_rows: 1, start: 0, block_table: &[0] };
    for isa in Isa::available() {
        for (threads, rows, tasks) in [(1, 1, 2), (2, 1, 4), (4, 1, 8), (16, 1, 8), (2, 8, 16)] {
            let team = Team::new(NonZeroUsize::new(threads).unwrap());
            let mut scratch = AttentionScratch::default();
            let seqs: Vec<_> =
                (0..rows).map(|first_row| SequenceRows { first_row, ..row }).collect();
            scratch.plan(isa, &team, shape, kv, &seqs);
            assert_eq!(scratch.tasks.len(), tasks, "{threads} threads, {rows} rows");
        }
    }
}

#[test]
fn a_window_hides_what_is_before_it() {
    for window in [1, 2, 7, 16, 33, 1000] {
        for heads in [(1, 1, 20), (2, 3, 32)] {
            Case::new(heads, 75, Some(window), KvFormat::F32).check();
            Case::new(heads, 75, Some(window), KvFormat::Bf16).check();
        }
    }
}

/// Each case in f32 and, where there are kernels for it, in bfloat16.
fn each_of_two<T: Copy>(cases: [T; 2]) -> impl Iterator<Item = (KvFormat, T)> {
    let formats = formats_here().filter(|format| [KvFormat::F32, KvFormat::Bf16].contains(format));
    formats.flat_map(move |format| cases.map(|case| (format, case)))
}

#[test]
fn a_soft_cap_bends_scores() {
    for (format, (heads, window)) in each_of_two([((1, 1, 20), None), ((2, 3, 32), Some(17))]) {
        let mut case = Case::new(heads, 40, window, format);
        let bits = |case: &Case| case.run(Isa::detect(), 1, &[40], &case.straight());
        let without = bits(&case);
        case.shape.soft_cap = Some(0.5);
        case.check();
        assert!(bits(&case) != without);
    }
}

/// Sinks below, among and far above the scores.
#[test]
fn sinks_take_their_part() {
    for (format, (heads, window)) in each_of_two([((1, 6, 20), None), ((2, 3, 32), Some(17))]) {
        let mut case = Case::new(heads, 40, window, format);
        let bits = |case: &Case| case.run(Isa::detect(), 1, &[40], &case.straight());
        let without = bits(&case);
        case.shape.sinks = Some(&[0.3, -1.0, 2.5, 0.0, 90.0, -200.0]);
        case.check();
        assert!(bits(&case) != without);
    }
}

/// Rows that see several chunks, one of them or parts of two, tiles that chunks leave behind.
#[test]
fn chunks_of_positions() {
    for format in [KvFormat::F32, KvFormat::Int8] {
        for window in [None, Some(40), Some(300)] {
            let mut case = Case::new((2, 3, 16), 2 * CHUNK + 70, window, format);
            case.check();
            case.shape.soft_cap = Some(0.5);
            case.shape.sinks = Some(&[0.3, -1.0, 2.5, 0.0, 90.0, -200.0]);
            case.check();
        }
    }
}

/// A first chunk of scores of -∞ must not become a maximum to take away, which gives NaN.
#[test]
fn a_chunk_of_scores_of_minus_infinity_counts_for_nothing() {
    let mut case = Case::new((1, 2, 16), CHUNK + 20, None, KvFormat::F32);
    case.q.iter_mut().for_each(|q| *q = -1.0 - q.abs());
    let mut late = case.clone();
    case.k[..CHUNK * 16].fill(f32::INFINITY);
    late.k[..CHUNK * 16].fill(1e6);
    for isa in Isa::available() {
        let [out, late] = [&case, &late].map(|case| {
            let row = 2 * 16;
            case.run(isa, 2, &[case.tokens], &case.straight()).split_off(CHUNK * row)
        });
        assert!(out.iter().all(|&bits| f32::from_bits(bits).is_finite()));
        assert!(out == late, "{:?}", isa.level());
    }
}

#[test]
fn wide_heads() {
    Case::new((1, 2, 128), 40, None, KvFormat::F32).check();
    Case::new((1, 5, 256), 20, Some(9), KvFormat::F16).check();
    Case::new((1, 5, 256), 20, Some(9), KvFormat::Int8).check();
    Case::new((1, 5, 256), 20, Some(9), KvFormat::Bf16).check();
    Case::new((2, 2, 128), 150, None, KvFormat::Bf16).check();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_shape(
        kv_heads in 1usize..4,
        group in 1usize..10,
        head_dim in 1usize..70,
        tokens in 1usize..90,
        window in proptest::option::of(1usize..100),
        format in prop::sample::select(formats_here().collect::<Vec<_>>()),
    ) {
        Case::new((kv_heads, group, head_dim), tokens, window, format).check();
    }
}

/// Two sequences in one call, one of them behind a gap of rows, get the bits they get alone.
#[test]
fn a_batch_changes_no_bits() {
    let isa = Isa::detect();
    let team = Team::new(NonZeroUsize::new(2).unwrap());
    let a = Case::new((2, 3, 32), 40, None, KvFormat::F32);
    let b = Case::new((2, 3, 32), 23, None, KvFormat::F32);
    let (table_a, table_b): (Vec<u32>, Vec<u32>) = ((10..13).collect(), (5..7).collect());
    let seqs = [
        SequenceRows { first_row: 0, num_rows: 40, start: 0, block_table: &table_a },
        SequenceRows { first_row: 42, num_rows: 23, start: 0, block_table: &table_b },
    ];
    let joined = |a: &[f32], b: &[f32]| {
        let gap = vec![f32::NAN; 2 * a.len() / 40];
        [a, &gap, b].concat()
    };
    let mut cache = KvCache::new(1, a.kv);
    cache.write(isa, &team, 0, &seqs, &joined(&a.k, &b.k), &joined(&a.v, &b.v));
    let q = joined(&a.q, &b.q);
    let mut out = vec![7.0; q.len()];
    let mut scratch = AttentionScratch::default();
    attention(isa, &team, a.shape, &cache, 0, &seqs, &q, &mut scratch, &mut out);
    let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
    let row = 6 * 32;
    assert!(bits[..40 * row] == a.run(isa, 1, &[40], &a.straight()));
    assert!(out[40 * row..42 * row].iter().all(|&x| x == 7.0));
    assert!(bits[42 * row..] == b.run(isa, 1, &[23], &b.straight()));
}

/// A value that a row does not see has no part in its output, not even times zero: an overflow in a
/// later token of the same tile must not reach the earlier ones.
#[test]
fn an_infinite_value_is_seen_only_by_later_rows() {
    for format in formats_here() {
        let mut case = Case::new((1, 2, 16), 20, None, format);
        let clean = case.run(Isa::detect(), 1, &[20], &case.straight());
        case.v[11 * 16..12 * 16].fill(f32::INFINITY);
        let out = case.run(Isa::detect(), 1, &[20], &case.straight());
        let row = 2 * 16;
        assert!(out[..11 * row] == clean[..11 * row]);
        assert!(out[11 * row..].iter().all(|&bits| !f32::from_bits(bits).is_finite()));
    }
}

#[test]
fn block_bytes_counts_all_layers_and_padding() {
    let shape = KvShape { num_blocks: 9, num_kv_heads: 3, head_dim: 20, format: KvFormat::F16 };
    // Keys [20][16] and values [16][32] of 2 bytes, 3 heads, 5 layers.
    assert_eq!(KvCache::block_bytes(5, shape), 5 * 3 * (20 * 16 + 16 * 32) * 2);
    // A byte each, and two scales for each of 16 positions.
    let shape = KvShape { format: KvFormat::Int8, ..shape };
    assert_eq!(KvCache::block_bytes(5, shape), 5 * 3 * (20 * 16 + 16 * 32 + 16 * 2 * 4));
    // Keys [32][16] and values [16][32] of 2 bytes.
    let shape = KvShape { format: KvFormat::Bf16, ..shape };
    assert_eq!(KvCache::block_bytes(5, shape), 5 * 3 * (32 * 16 + 16 * 32) * 2);
}

#[test]
#[should_panic(expected = "KV cache size overflows")]
fn a_cache_of_no_sensible_size_is_refused() {
    let head_dim = usize::MAX / 2;
    let shape = KvShape { num_blocks: 9, num_kv_heads: 3, head_dim, format: KvFormat::F16 };
    assert_eq!(KvCache::block_bytes(1, shape), usize::MAX);
    KvCache::new(1, shape);
}

fn one_row(block_table: &[u32], start: usize) -> SequenceRows<'_> {
    SequenceRows { first_row: 0, num_rows: 1, start, block_table }
}

fn write_one(seq: SequenceRows<'_>) {
    let shape = KvShape { num_blocks: 2, num_kv_heads: 1, head_dim: 4, format: KvFormat::F32 };
    let team = Team::new(NonZeroUsize::MIN);
    KvCache::new(1, shape).write(Isa::detect(), &team, 0, &[seq], &[0.0; 4], &[0.0; 4]);
}

#[test]
#[should_panic(expected = "block table names no block")]
fn a_block_that_is_not_there_is_refused() {
    write_one(one_row(&[2], 0));
}

#[test]
#[should_panic(expected = "block table shorter than 2 blocks")]
fn a_short_block_table_is_refused() {
    write_one(one_row(&[0], 16));
}

#[test]
#[should_panic(expected = "rows overlap")]
fn overlapping_rows_are_refused() {
    let case = Case::new((1, 1, 4), 2, None, KvFormat::F32);
    let team = Team::new(NonZeroUsize::MIN);
    let cache = KvCache::new(1, case.kv);
    let seqs = [one_row(&[0], 0), one_row(&[1], 0)];
    let mut out = [0.0; 8];
    let scratch = &mut AttentionScratch::default();
    attention(Isa::detect(), &team, case.shape, &cache, 0, &seqs, &case.q, scratch, &mut out);
}
