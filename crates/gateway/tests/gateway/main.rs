//! The gateway over real sockets, with the mock engine as a real child process.
//!
//! The engine is this very executable, run again: nothing has to be built or found beside it, so
//! the tests work under every test runner.
#![expect(clippy::unwrap_used, reason = "a test's way to fail")]

mod cancellation;
mod lifecycle;
mod relay;
mod rig;
mod routes;

use std::process::ExitCode;

/// Not a test: the engine that the rig launches. Alone it does nothing.
#[test]
#[ignore = "run by the other tests, as their engine"]
fn engine_process() -> ExitCode {
    match std::env::var(rig::ENGINE_ARGUMENTS) {
        Ok(arguments) => wharf_mock_engine::run(arguments.split('\n').map(str::to_owned)),
        Err(_) => ExitCode::SUCCESS,
    }
}

/// Not a test: a gateway in a process of its own, to be killed.
#[test]
#[ignore = "run by another test, as a gateway to kill"]
fn gateway_process() {
    if let Ok(state_dir) = std::env::var(rig::GATEWAY_STATE) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let config = rig::config(state_dir.into());
            let gateway = wharf_gateway::Gateway::start(config, rig::engine(&[])).await.unwrap();
            std::future::pending::<()>().await;
            drop(gateway);
        });
    }
}
