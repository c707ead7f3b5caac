//! libFuzzer's entry: runs the target that `WHARF_FUZZ_TARGET` names.
//! One binary for all of them, so that the instrumented build is linked once.
#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("WHARF_FUZZ_TARGET").unwrap_or_default();
    match wharf_fuzz::target(&name) {
        Some(target) => target,
        None => {
            eprintln!("WHARF_FUZZ_TARGET={name:?} names no fuzz target");
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
