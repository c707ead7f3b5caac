//! `wharf chat` and `wharf bench` against a simulated engine.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::program::{Wharf, output};
use serde_json::Value;
use wharf_mock_engine::{MockConfig, MockEngine};

/// A simulated engine on a port of its own; it ends with the test.
struct Server {
    url: String,
    engine: MockEngine,
    _runtime: tokio::runtime::Runtime,
}

fn server(config: MockConfig) -> Server {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let engine = MockEngine::new(config);
    let serving = engine.clone();
    runtime.spawn(async move { serving.serve(listener, std::future::pending()).await });
    Server { url, engine, _runtime: runtime }
}

#[test]
fn a_question_on_the_command_line_is_answered_and_that_is_all() {
    let server = server(MockConfig::default());
    let mut command = Wharf::command();
    command.args(["chat", "--base-url", &server.url, "Hello"]);
    let (status, first, err) = output(&mut command);
    assert!(status.success(), "{err}");
    assert!(first.trim().len() > 10, "{first:?}");
    let (_, second, _) = output(&mut command);
    assert_eq!(first, second);
}

#[test]
fn a_pipe_is_a_question() {
    let server = server(MockConfig::default());
    let mut command = Wharf::command();
    command.args(["chat", "--base-url", &server.url]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Hello\n").unwrap();
    let piped = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let (_, typed, _) = output(Wharf::command().args(["chat", "--base-url", &server.url, "Hello"]));
    assert_eq!(piped, typed);
}

#[test]
fn a_reader_that_has_enough_ends_the_chat_quietly() {
    let config = MockConfig { decode_rate: 500.0, reply_tokens: 1000, ..MockConfig::default() };
    let server = server(config);
    let mut command = Wharf::command();
    command.args(["chat", "--base-url", &server.url, "Go on and on"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap(); // and closes it
    let ended = child.wait_with_output().unwrap();
    let err = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success() && !err.contains("panicked"), "{err}");
}

#[test]
fn ctrl_c_before_the_prompt_is_there_ends_the_chat() {
    let server = server(MockConfig::default());
    let mut command = Wharf::command();
    command.args(["chat", "--base-url", &server.url, "--model", "mock", "-"]);
    let mut chat = Wharf::start(command.stdin(Stdio::piped()));
    std::thread::sleep(std::time::Duration::from_millis(500)); // standard input stays open
    chat.signal("INT");
    assert!(!chat.wait().success());
}

#[test]
fn ctrl_c_stops_an_answer_and_the_server_with_it() {
    let config = MockConfig { decode_rate: 50.0, reply_tokens: 100_000, ..MockConfig::default() };
    let server = server(config);
    let mut chat =
        Wharf::start(Wharf::command().args(["chat", "--base-url", &server.url, "Go on and on"]));
    let began = std::time::Instant::now();
    while server.engine.stats().running == 0 {
        assert!(began.elapsed() < crate::program::PATIENCE, "{}", chat.err());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    chat.signal("INT");
    assert!(!chat.wait().success());
    while server.engine.stats().running != 0 {
        assert!(began.elapsed() < crate::program::PATIENCE, "the server goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn no_server_is_told() {
    for arguments in [
        &["chat", "--base-url", "http://127.0.0.1:1/v1", "Hi"][..],
        &["bench", "--base-url", "http://127.0.0.1:1/v1"],
    ] {
        let (status, _, err) = output(Wharf::command().args(arguments));
        assert!(!status.success() && err.contains("wharf serve"), "{err}");
    }
}

fn bench(server: &Server, flags: &[&str]) -> Value {
    let mut command = Wharf::command();
    command.args(["bench", "--base-url", &server.url, "--json", "-"]).args(flags);
    let (status, out, err) = output(&mut command);
    assert!(status.success(), "{err}");
    assert!(err.contains("time to first token"), "{err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_closed_loop_counts_what_it_sent() {
    let server = server(MockConfig::default());
    let report =
        bench(&server, &["--concurrency", "4", "--requests", "10", "--output-tokens", "7"]);
    assert_eq!(report["succeeded"], 10);
    assert_eq!(report["failed"], 0);
    assert_eq!(report["concurrency"], 4);
    assert_eq!(report["output_tokens"], 70);
    assert_eq!(report["token_counts_from"], "usage");
    for figure in [
        "time_to_first_token_ms",
        "inter_token_latency_ms",
        "time_per_output_token_ms",
        "end_to_end_ms",
    ] {
        for part in ["mean", "p50", "p90", "p99", "max"] {
            assert!(report[figure][part].as_f64().unwrap() >= 0.0, "{figure} {part}");
        }
    }
    assert!(report["output_tokens_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn an_open_loop_does_not_wait_for_answers() {
    // Answers take half a second each; twenty at forty a second must overlap.
    let config = MockConfig { decode_rate: 20.0, ..MockConfig::default() };
    let server = server(config);
    let flags = ["--rate", "40", "--requests", "20", "--output-tokens", "10", "--warmup", "0"];
    let report = bench(&server, &flags);
    assert_eq!(report["succeeded"], 20);
    assert_eq!(report["rate"], 40.0);
    let end_to_end = report["end_to_end_ms"]["mean"].as_f64().unwrap();
    let duration = report["duration_s"].as_f64().unwrap() * 1e3;
    assert!(duration < 20.0 * end_to_end / 2.0, "{duration} ms for 20 answers of {end_to_end} ms");
}

#[test]
fn refusals_are_counted_by_kind() {
    // No request of 200 tokens fits this cache.
    let server = server(MockConfig { kv_tokens: 64, ..MockConfig::default() });
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let mut command = Wharf::command();
    command.args(["bench", "--base-url", &server.url, "--requests", "3", "--warmup", "0"]);
    command.arg("--json").arg(&json);
    let (status, out, err) = output(&mut command);
    assert!(!status.success() && err.contains("no request was answered"), "{err}");
    assert!(out.contains("http 400"), "{out}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(report["errors"]["http 400"], 3);
}
