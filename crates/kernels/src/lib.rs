//! CPU kernels on slices: matmul, attention, normalisation, rotary embedding, activation,
//! quantised formats, and the thread team that runs them.
//!
//! One folder per operation that is worth vector code: a plain reference, the tests' oracle, and one
//! fast version, written once over the vector operations of `isa` and compiled for every
//! instruction set; the set is chosen at run time. The others (`rope`, `quant`) are plain Rust, one
//! version each. Nothing here knows a model, and nothing allocates in a hot loop.
//!
//! Every kernel keeps *row independence*: a row of the output is computed by the same sequence of
//! floating-point operations whatever other rows are in the call. The sequence is also the same on
//! every instruction set, so that all of them give the same bits; products of bfloat16 on AMX alone have
//! the hardware's.

pub mod activation;
mod affinity;
pub mod attention;
mod bfloat;
mod buffer;
pub mod delta_rule;
mod exp;
pub mod isa;
pub mod matmul;
pub mod norm;
pub mod quant;
pub mod rope;
pub mod short_conv;
pub mod softmax;
mod sync;
pub mod team;

pub use buffer::resize_in_huge_pages;
