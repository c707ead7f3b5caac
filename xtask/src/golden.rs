//! `cargo xtask golden`: tiny random checkpoints and what Hugging Face transformers makes of them.
//!
//! The results are committed; the parity tests of `crates/model` hold the forward pass to them.

use std::process::Command;

use anyhow::Result;

use crate::tools;

pub(crate) fn run() -> Result<()> {
    let dir = tools::root().join("xtask/golden");
    let python = tools::python_venv("golden", &dir.join("requirements.txt"))?;
    let out = tools::root().join("crates/model/tests/golden");
    tools::run(Command::new(python).arg(dir.join("generate.py")).arg("--out").arg(out))
}
