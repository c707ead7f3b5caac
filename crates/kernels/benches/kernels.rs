//! Speed of the kernels on the shapes of a small model: `cargo bench -p wharf-kernels [level] [threads]`.
//! With the word `peak`, only the best GFLOP/s of each format, for `cargo xtask bench engine`.
//!
//! Prints GB/s of packed weights and GFLOP/s, the best of several runs. Nothing is asserted: compare
//! figures of one machine and one run only.

use std::{
    hint::black_box,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use wharf_kernels::{
    attention::{
        AttentionScratch, AttentionShape, KvCache, KvFormat, KvShape, SequenceRows, attention,
    },
    delta_rule::{
        DeltaInputs, DeltaShape, HeadOrder, RecurrentStates, SlotRows, StateShape, delta_rule,
    },
    isa::{Isa, Level},
    matmul::{Activations, PackedMatrix, matmul},
    quant::Format,
    team::Team,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let level = arguments.iter().find_map(|a| a.parse::<Level>().ok());
    let Some(isa) = level.map_or_else(|| Some(Isa::detect()), Isa::at) else {
        println!("this CPU has only: {:?}", Isa::available().map(Isa::level).collect::<Vec<_>>());
        return;
    };
    let threads = arguments.iter().find_map(|a| a.parse().ok());
    let threads = threads.or_else(|| std::thread::available_parallelism().ok());
    let team = Team::new(threads.unwrap_or(NonZeroUsize::MIN));
    if arguments.iter().any(|argument| argument == "peak") {
        peaks(isa, &team);
        return;
    }
    println!("{}, {} threads", isa.level(), team.threads());
    empty_regions(&team);
    matrices(isa, &team);
    attend(isa, &team);
    recur(isa, &team);
}

/// The shortest of the runs in about a fifth of a second.
fn best(mut run: impl FnMut()) -> Duration {
    run();
    let start = Instant::now();
    let mut best = Duration::MAX;
    while start.elapsed() < Duration::from_millis(200) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    best
}

fn empty_regions(team: &Team) {
    for per_thread in [1, 8] {
        let tasks = per_thread * team.threads();
        let time = best(|| (0..100).for_each(|_| team.run(tasks, &|_, _| ())));
        println!("a region of {tasks} tasks that do nothing: {:?}", time / 100);
    }
}

fn matrices(isa: Isa, team: &Team) {
    println!("An asterisk: x is rounded, where the level has a kernel for that.");
    println!("{:16} {:>5} {:>5} {:>10} {:>8} {:>8}", "matrix", "", "m", "time", "GB/s", "GFLOP/s");
    let formats = [
        (Format::Q4_1, Activations::F32),
        (Format::Q4_1, Activations::Rounded),
        (Format::Q4K, Activations::F32),
        (Format::Q4K, Activations::Rounded),
        (Format::Q8_0, Activations::F32),
        (Format::Q8_0, Activations::Rounded),
        (Format::Bf16, Activations::F32),
        (Format::Bf16, Activations::Rounded),
        (Format::F32, Activations::F32),
    ];
    for (rows, cols) in [(576, 576), (1536, 576), (576, 1536), (49152, 576), (256, 4096)] {
        for (format, activations) in formats {
            let Some(row_bytes) = format.row_bytes(cols) else { continue };
            let src = vec![0x11u8; rows * row_bytes];
            let start = Instant::now();
            let Ok(w) = PackedMatrix::pack(team, format, rows, cols, &src, &|r| r) else {
                continue;
            };
            let packing = start.elapsed();
            let w = w.with_activations(activations);
            for m in [1, 2, 4, 8, 16, 128, 512] {
                if rows * m > 8 << 20 {
                    continue;
                }
                let x = vec![0.01; m * cols];
                let mut y = vec![0.0; m * rows];
                let time = best(|| matmul(isa, team, &x, m, &w, black_box(&mut y)));
                let bytes = w.bytes() as f64 / time.as_secs_f64() * 1e-9;
                let flops = (2 * rows * cols * m) as f64 / time.as_secs_f64() * 1e-9;
                let name = format!("{rows}x{cols}");
                let what = match activations {
                    Activations::F32 => format!("{format:?}"),
                    Activations::Rounded => format!("{format:?}*"),
                };
                println!("{name:16} {what:6} {m:5} {time:>10.1?} {bytes:8.1} {flops:8.1}");
            }
            println!("{:16} packing {packing:.1?}", "");
        }
    }
}

/// What multiplying can reach: many rows, matrices of a model of a billion weights.
fn peaks(isa: Isa, team: &Team) {
    const M: usize = 512;
    let formats = [Format::Bf16, Format::Q8_0, Format::Q4_0, Format::Q4_1];
    for format in formats {
        let mut peak = 0.0_f64;
        for (rows, cols) in [(1024, 1024), (3072, 1024), (1024, 3072), (2048, 2048)] {
            let Some(row_bytes) = format.row_bytes(cols) else { continue };
            let src = vec![0x11u8; rows * row_bytes];
            for activations in [Activations::F32, Activations::Rounded] {
                let Ok(w) = PackedMatrix::pack(team, format, rows, cols, &src, &|r| r) else {
                    continue;
                };
                let w = w.with_activations(activations);
                let x = vec![0.01; M * cols];
                let mut y = vec![0.0; M * rows];
                let time = best(|| matmul(isa, team, &x, M, &w, black_box(&mut y)));
                peak = peak.max((2 * rows * cols * M) as f64 / time.as_secs_f64() * 1e-9);
            }
        }
        println!("peak {format:?} {peak:.1}");
    }
}

fn attend(isa: Isa, team: &Team) {
    println!("{:32} {:>10} {:>8}", "attention (9 heads of 64, 3 KV)", "time", "GFLOP/s");
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        let shape = KvShape { num_blocks: 128, num_kv_heads: 3, head_dim: 64, format };
        let cache = KvCache::new(1, shape);
        let of = AttentionShape {
            num_heads: 9,
            scale: 0.125,
            soft_cap: None,
            window: None,
            sinks: None,
        };
        let block_table: Vec<u32> = (0..128).collect();
        for (start, num_rows) in [(127, 1), (2047, 1), (0, 512), (1536, 512)] {
            let seqs = [SequenceRows { first_row: 0, num_rows, start, block_table: &block_table }];
            let q = vec![0.01; num_rows * 9 * 64];
            let mut out = q.clone();
            let mut scratch = AttentionScratch::default();
            let time = best(|| {
                attention(isa, team, of, &cache, 0, &seqs, &q, &mut scratch, black_box(&mut out));
            });
            let seen: usize = (start + 1..=start + num_rows).sum();
            let flops = (4 * 9 * 64 * seen) as f64 / time.as_secs_f64() * 1e-9;
            let name = format!("{num_rows} rows at {start}, {format:?}");
            println!("{name:32} {time:>10.1?} {flops:8.1}");
        }
    }
}

/// The delta rule with the heads of Qwen3-Next: 2 MiB of state for each sequence and layer.
fn recur(isa: Isa, team: &Team) {
    let shape = DeltaShape {
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        order: HeadOrder::Grouped,
    };
    let DeltaShape { value_heads, key_dim, value_dim, .. } = shape;
    let channels = shape.channels();
    let of = StateShape { history: 3, channels, value_heads, key_dim, value_dim };
    println!("{:32} {:>10} {:>8} {:>8}", "delta rule (32 heads of 128)", "time", "GB/s", "GFLOP/s");
    for (sequences, num_rows) in [(1, 1), (8, 1), (1, 64), (1, 512), (8, 64)] {
        let rows = sequences * num_rows;
        let mut states = RecurrentStates::new(1, sequences, of);
        let slots = (0..sequences).map(|slot| {
            let first_row = slot * num_rows;
            SlotRows { first_row, num_rows, slot }
        });
        let slots: Vec<_> = slots.collect();
        // Small enough for sums, large enough for nothing to be subnormal.
        let qkv = vec![0.05; rows * channels];
        let (decay, beta) = (vec![0.9; rows * value_heads], vec![0.5; rows * value_heads]);
        let inputs = DeltaInputs { qkv: &qkv, decay: &decay, beta: &beta };
        let mut out = vec![0.0; rows * value_heads * value_dim];
        let time = best(|| {
            delta_rule(isa, team, shape, &mut states, 0, &slots, inputs, black_box(&mut out));
        });
        let state = value_heads * key_dim * value_dim;
        // Read and written once: columns stay in the cache while a sequence's rows go by.
        let bytes = (2 * sequences * state * size_of::<f32>()) as f64 / time.as_secs_f64() * 1e-9;
        // Decay, known, decay, update, sum.
        let flops = (8 * rows * state) as f64 / time.as_secs_f64() * 1e-9;
        let name = format!("{sequences} x {num_rows} rows");
        println!("{name:32} {time:>10.1?} {bytes:8.1} {flops:8.1}");
    }
    let mut states = RecurrentStates::new(4, 2, of);
    states.clear(team, 0);
    let time = best(|| states.copy(team, 0, 1));
    let bytes = RecurrentStates::slot_bytes(4, of) as f64 / time.as_secs_f64() * 1e-9;
    println!("{:32} {time:>10.1?} {bytes:8.1}", "a state of 4 layers copied");
}
