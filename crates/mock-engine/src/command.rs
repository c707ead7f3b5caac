//! The command line of the `mock-engine` binary, in the library so that a test executable can play
//! the engine by running itself.

use std::{io::Read as _, path::PathBuf, process::ExitCode, time::Duration};

use crate::{MockConfig, MockEngine};

const USAGE: &str = "\
usage: mock-engine (--port PORT | --uds PATH) [options]
  --model NAME            name of the model (mock)
  --prefill-rate T        prompt tokens per second, 0 = no delay (0)
  --decode-rate T         tokens per second of each stream, 0 = no delay (0)
  --slots N               requests that run at once (64)
  --kv-tokens N           tokens of the simulated KV cache (1048576)
  --reply-tokens N        tokens of an answer that max_tokens does not cut (16)
  --start-delay-ms MS     wait before listening (0)
  --fail-start MESSAGE    print MESSAGE on stderr and exit with status 1 instead of listening
  --exit-on-stdin-eof     exit when standard input ends: when the parent process is gone";

#[derive(Debug, PartialEq)]
enum Address {
    Port(u16),
    Uds(PathBuf),
}

#[derive(Debug, PartialEq)]
struct Arguments {
    address: Address,
    config: MockConfig,
    start_delay: Duration,
    fail_start: Option<String>,
    exit_on_stdin_eof: bool,
}

/// Runs the `mock-engine` command with these arguments (without the program's name) until it is
/// told to end: SIGTERM lets running requests finish.
pub fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("mock-engine: {message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(message) = &arguments.fail_start {
        eprintln!("{message}");
        return ExitCode::FAILURE;
    }
    if arguments.exit_on_stdin_eof {
        std::thread::spawn(|| {
            // An error on standard input means the same as its end: nobody holds the other side.
            let mut sink = [0; 64];
            while matches!(std::io::stdin().read(&mut sink), Ok(count) if count > 0) {}
            std::process::exit(0)
        });
    }
    match tokio::runtime::Runtime::new().and_then(|runtime| runtime.block_on(listen(arguments))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mock-engine: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn listen(arguments: Arguments) -> std::io::Result<()> {
    tokio::time::sleep(arguments.start_delay).await;
    let engine = MockEngine::new(arguments.config);
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let shutdown = async move {
        term.recv().await;
    };
    match arguments.address {
        Address::Port(port) => {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
            eprintln!("mock-engine: listening on http://{}", listener.local_addr()?);
            engine.serve(listener, shutdown).await
        }
        Address::Uds(path) => {
            let listener = tokio::net::UnixListener::bind(&path)?;
            eprintln!("mock-engine: listening on {}", path.display());
            engine.serve(listener, shutdown).await
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = arguments.into_iter();
    let mut address = None;
    let mut config = MockConfig::default();
    let (mut start_delay, mut fail_start, mut exit_on_stdin_eof) = (Duration::ZERO, None, false);
    while let Some(flag) = arguments.next() {
        if flag == "--exit-on-stdin-eof" {
            exit_on_stdin_eof = true;
            continue;
        }
        let Some(value) = arguments.next() else {
            return Err(format!("`{flag}` is unknown or lacks its value"));
        };
        match flag.as_str() {
            "--port" => address = Some(Address::Port(number(&flag, &value)?)),
            "--uds" => address = Some(Address::Uds(value.into())),
            "--model" => config.model = value,
            "--prefill-rate" => config.prefill_rate = rate(&flag, &value)?,
            "--decode-rate" => config.decode_rate = rate(&flag, &value)?,
            "--slots" => config.slots = number::<u32>(&flag, &value)?.clamp(1, 1 << 20) as usize,
            "--kv-tokens" => config.kv_tokens = number(&flag, &value)?,
            "--reply-tokens" => config.reply_tokens = number(&flag, &value)?,
            "--start-delay-ms" => start_delay = Duration::from_millis(number(&flag, &value)?),
            "--fail-start" => fail_start = Some(value),
            _ => return Err(format!("unknown flag `{flag}`")),
        }
    }
    let address = address.ok_or("where to listen: --port or --uds")?;
    Ok(Arguments { address, config, start_delay, fail_start, exit_on_stdin_eof })
}

fn number<T: std::str::FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag} wants a number, not `{value}`"))
}

fn rate(flag: &str, value: &str) -> Result<f64, String> {
    match value.parse::<f64>() {
        Ok(rate) if rate == 0.0 || (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err(format!("{flag} wants tokens per second, 0 or 0.001 to 1e9, not `{value}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn reads_a_command_line() {
        let arguments =
            parsed("--uds /run/m.sock --decode-rate 50 --slots 4 --exit-on-stdin-eof").unwrap();
        assert_eq!(arguments.address, Address::Uds("/run/m.sock".into()));
        assert_eq!((arguments.config.decode_rate, arguments.config.slots), (50.0, 4));
        assert!(arguments.exit_on_stdin_eof);
    }

    #[test]
    fn refuses_wrong_command_lines() {
        for line in [
            "--model x",
            "--port",
            "--port 70000",
            "--port 1 --decode-rate NaN",
            "--port 1 --decode-rate -1",
            "--port 1 --nonsense 1",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
