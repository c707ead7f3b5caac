//! The `mock-engine` binary: see the library.

fn main() -> std::process::ExitCode {
    wharf_mock_engine::run(std::env::args().skip(1))
}
