//! `wharf engine` and `wharf serve` as a user runs them, on a tiny random checkpoint: its words are
//! nonsense, but everything else is the real thing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{PATIENCE, Wharf, checkpoint, output, signal_process};
use serde_json::{Value, json};

const MODEL: &str = "llama-gqa";

/// A request and its answer: status and body. Status 0 is no answer.
fn request(url: &str, body: Option<&Value>) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let request = match body {
            Some(body) => client.post(url).json(body),
            None => client.get(url),
        };
        match request.send().await {
            Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
            Err(_) => (0, String::new()),
        }
    })
}

/// Asks until `accept` likes the answer.
fn ask_until(url: &str, body: Option<&Value>, accept: impl Fn(u16, &str) -> bool) -> String {
    let began = Instant::now();
    loop {
        let (status, text) = request(url, body);
        if accept(status, &text) {
            return text;
        }
        assert!(began.elapsed() < PATIENCE, "{url} still answers {status} {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn chat(model: &str, max_tokens: u32) -> Value {
    json!({
        "model": model, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": true,
        "messages": [{"role": "user", "content": "Hello"}],
    })
}

/// The text of a chat answer.
fn content(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn engine() -> Command {
    let mut command = Wharf::command();
    command.args(["engine", "--port", "0", "--threads", "1", "--model"]).arg(checkpoint(MODEL));
    command
}

fn serve(state: &Path) -> Command {
    let mut command = Wharf::command();
    command.args(["serve", "--port", "0", "--threads", "1", "--served-model-name", "tiny"]);
    command.arg("--state-dir").arg(state).arg("--model").arg(checkpoint(MODEL));
    command
}

/// The URL printed after `word`.
fn url_after(text: &str, word: &str) -> String {
    let rest = text.split_once(word).unwrap().1.trim_start();
    rest.split_whitespace().next().unwrap().to_owned()
}

/// The process that `parent` started.
fn child_of(parent: u32) -> Option<u32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    let of_main = std::fs::read_to_string(file).unwrap_or_default();
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?;
    let of_all =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let all: Vec<String> = std::iter::once(of_main).chain(of_all).collect();
    all.iter().flat_map(|text| text.split_whitespace()).next()?.parse().ok()
}

#[test]
fn an_engine_alone_is_a_complete_server() {
    let mut engine = Wharf::start(&mut engine());
    let url = url_after(&engine.wait_for("/v1"), " at ");
    let name = checkpoint(MODEL).display().to_string();
    let (status, models) = request(&format!("{url}/models"), None);
    assert!(status == 200 && models.contains(MODEL), "{models}");
    let (status, answer) = request(&format!("{url}/chat/completions"), Some(&chat(&name, 8)));
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 8);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let (status, answer) = request(&format!("{url}/chat/completions"), Some(&chat("other", 8)));
    assert!(status == 404 && answer.contains("model_not_found"), "{answer}");
    engine.signal("TERM");
    assert!(engine.wait().success(), "{}", engine.err());
}

#[test]
fn an_engine_with_a_key_asks_for_it() {
    let mut engine = Wharf::start(engine().env("WHARF_API_KEY", "secret"));
    let url = url_after(&engine.wait_for("/v1"), " at ");
    assert_eq!(request(&format!("{url}/models"), None).0, 401);
    let mut question = Wharf::command();
    question.args(["chat", "--base-url", &url, "--max-tokens", "4", "Hello"]);
    assert!(!output(&mut question).0.success());
    let (status, _, err) = output(question.env("WHARF_API_KEY", "secret"));
    assert!(status.success(), "{err}");
}

#[test]
fn an_engine_listens_on_a_socket_of_its_owner_and_ends_with_its_parent() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("engine.sock");
    // What a killed engine leaves behind must not be in the way.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let mut command = Wharf::command();
    command.args(["engine", "--exit-on-stdin-eof", "--uds"]).arg(&socket);
    command.arg("--model").arg(checkpoint(MODEL));
    let mut engine = Wharf::start(command.stdin(Stdio::piped()));
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(began.elapsed() < PATIENCE, "{}", engine.err());
        std::thread::sleep(Duration::from_millis(20));
    }
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    engine.signal("INT"); // the parent's business
    std::thread::sleep(Duration::from_millis(200));
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok(), "Ctrl-C ended it");
    engine.close_stdin();
    assert!(engine.wait().success(), "{}", engine.err());
}

#[test]
fn an_engine_guesses_with_a_draft_model_and_answers_the_same() {
    let answers = [None, Some("llama-gqa"), Some("llama-head-dim")].map(|draft| {
        let mut command = engine();
        if let Some(draft) = draft {
            command.arg("--draft-model").arg(checkpoint(draft));
        }
        let mut engine = Wharf::start(&mut command);
        let url = url_after(&engine.wait_for("/v1"), " at ");
        let mut body = chat(&checkpoint(MODEL).display().to_string(), 100);
        let greedy = content(&request(&format!("{url}/chat/completions"), Some(&body)).1);
        (body["temperature"], body["seed"]) = (json!(1), json!(7));
        let drawn = content(&request(&format!("{url}/chat/completions"), Some(&body)).1);
        let metrics = request(&url.replace("/v1", "/metrics"), None).1;
        let passes = metrics.lines().find_map(|line| {
            line.strip_prefix("wharf:draft_model_passes_total ")?.parse::<u64>().ok()
        });
        assert_eq!(passes > Some(0), draft.is_some(), "{metrics}");
        (greedy, drawn)
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[test]
fn serve_hands_the_draft_model_on() {
    let state = tempfile::tempdir().unwrap();
    let mut command = serve(state.path());
    command.arg("--draft-model").arg(checkpoint("llama-head-dim"));
    let mut wharf = Wharf::start(command.args(["--log-level", "info"]));
    wharf.wait_for("Stop with Ctrl-C");
    let child = child_of(wharf.pid()).expect("no engine");
    let line = std::fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap();
    let named: Vec<&str> = line.split('\0').filter(|flag| flag.contains("draft")).collect();
    assert_eq!(named.len(), 1, "{named:?}");
}

#[test]
fn pinned_threads_stay_on_a_cpu() {
    let mut command = Wharf::command();
    command.args(["engine", "--port", "0", "--threads", "2", "--pin-threads", "--model"]);
    if std::thread::available_parallelism().unwrap().get() < 2 {
        println!("skipped: this machine has one CPU");
        return;
    }
    let mut engine = Wharf::start(command.arg(checkpoint(MODEL)));
    engine.wait_for("/v1");
    let tasks = std::fs::read_dir(format!("/proc/{}/task", engine.pid())).unwrap();
    let read = |folder: &Path, file| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
    let folders = tasks.map(|task| task.unwrap().path());
    let worker = folders.filter(|folder| read(folder, "comm").trim() == "wharf-compute-1");
    let allowed: Vec<String> = worker
        .filter_map(|folder| {
            let status = read(&folder, "status");
            let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            Some(line.trim().to_owned())
        })
        .collect();
    assert!(allowed.len() == 1 && allowed[0].parse::<usize>().is_ok(), "{allowed:?}");
}

#[test]
fn wrong_settings_of_an_engine_are_errors() {
    let foreign = with_two_tokens_swapped(&checkpoint("llama-head-dim"));
    let foreign_path = foreign.path().display().to_string();
    let recurrent = checkpoint("qwen35").display().to_string();
    for (flags, expected) in [
        (["--max-model-len", "99999999"], "longer than"),
        (["--kv-cache-memory", "1"], "--kv-cache-memory"),
        (["--chat-template", "/no/such.jinja"], "/no/such.jinja"),
        (["--max-num-seqs", "0"], "--max-num-seqs"),
        (["--draft-model", "/no/such"], "/no/such"),
        (["--draft-model", &foreign_path], "vocabulary"),
        (["--draft-model", &recurrent], "recurrent layers"),
        (["--speculative-method", "draft"], "--draft-model"),
    ] {
        let (status, _, err) = output(engine().args(flags));
        assert!(!status.success() && err.contains(expected), "{err:?} lacks {expected:?}");
    }
    let mut command = Wharf::command();
    command.args(["engine", "--threads", "100000", "--pin-threads", "--model"]);
    let (status, _, err) = output(command.arg(checkpoint(MODEL)));
    assert!(!status.success() && err.contains("cores: see --threads"), "{err}");
    for flags in [["--draft-model", &foreign_path], ["--speculative-method", "ngram"]] {
        let mut command = Wharf::command();
        command.args(["engine", "--port", "0", "--model", &recurrent]).args(flags);
        let (status, _, err) = output(&mut command);
        assert!(!status.success() && err.contains("recurrent layers"), "{err}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF and then nonsense").unwrap();
    let mut command = Wharf::command();
    command.args(["engine", "--port", "0", "--model"]).arg(&file);
    let (status, _, err) = output(&mut command);
    assert!(!status.success() && err.contains("broken.gguf"), "{err}");
}

/// A copy of `checkpoint`, whose vocabulary calls two tokens by each other's id.
fn with_two_tokens_swapped(checkpoint: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(checkpoint).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let path = folder.path().join("tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let (one, other) = (vocabulary["!"].clone(), vocabulary["#"].clone());
    vocabulary.insert("!".to_owned(), other);
    vocabulary.insert("#".to_owned(), one);
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    folder
}

#[test]
fn serve_prints_a_curl_line_that_works_and_keeps_its_id() {
    let state = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut wharf = Wharf::start(&mut serve(state.path()));
        let out = wharf.wait_for("Stop with Ctrl-C");
        let endpoint = url_after(&out, "endpoint");
        ids.push(endpoint.split('/').nth(3).unwrap().to_owned());
        assert!(endpoint.ends_with("/3900/v1"), "{endpoint}");
        let curl = out.split_once("Try it:").unwrap().1.split_once("Or talk").unwrap().0.trim();
        let (status, answer, err) = output(Command::new("sh").args(["-c", curl]));
        assert!(status.success(), "{err}");
        assert!(answer.contains("chat.completion"), "{answer}");
        let direct = request(&format!("{endpoint}/chat/completions"), Some(&chat("tiny", 8)));
        let base = endpoint.split(&ids[0]).next().unwrap();
        let default = request(&format!("{base}v1/chat/completions"), Some(&chat("tiny", 8)));
        assert_eq!((direct.0, default.0), (200, 200), "{direct:?} {default:?}");
        assert_eq!(content(&direct.1), content(&default.1));
        wharf.signal("INT");
        assert!(wharf.wait().success(), "{}", wharf.err());
    }
    assert_eq!(ids[0], ids[1], "the instance's id changed");
}

#[test]
fn a_signal_while_the_model_is_loaded_is_an_orderly_end() {
    for signal in ["INT", "TERM"] {
        let state = tempfile::tempdir().unwrap();
        let mut wharf = Wharf::start(&mut serve(state.path()));
        let began = Instant::now();
        let child = loop {
            if let Some(child) = child_of(wharf.pid()) {
                break child;
            }
            assert!(began.elapsed() < PATIENCE, "no engine: {}", wharf.err());
            std::thread::sleep(Duration::from_millis(1));
        };
        // The tiny model loads too fast: its engine is held until the signal is there.
        signal_process(child, "STOP");
        wharf.signal(signal);
        std::thread::sleep(Duration::from_millis(200));
        // It may have been killed by now.
        let _ = output(Command::new("kill").args(["-CONT", &child.to_string()]));
        assert!(wharf.wait().success(), "{}", wharf.err());
        assert!(!wharf.err().contains("did not start"), "{}", wharf.err());
    }
}

#[test]
fn a_killed_engine_is_started_again() {
    let state = tempfile::tempdir().unwrap();
    let mut wharf = Wharf::start(&mut serve(state.path()));
    let endpoint = url_after(&wharf.wait_for("Stop with Ctrl-C"), "endpoint");
    let url = format!("{endpoint}/chat/completions");
    let before = content(&request(&url, Some(&chat("tiny", 8))).1);
    let child = child_of(wharf.pid()).expect("no engine");
    signal_process(child, "KILL");
    let after = ask_until(&url, Some(&chat("tiny", 8)), |status, text| {
        assert!(matches!(status, 200 | 502 | 503), "{status} {text}");
        status == 200
    });
    assert_eq!(before, content(&after));
    assert_ne!(child_of(wharf.pid()), Some(child));
}

#[test]
fn an_engine_does_not_outlive_its_gateway() {
    let state = tempfile::tempdir().unwrap();
    let mut wharf = Wharf::start(&mut serve(state.path()));
    wharf.wait_for("Stop with Ctrl-C");
    let child = child_of(wharf.pid()).expect("no engine");
    wharf.signal("KILL");
    wharf.wait();
    let began = Instant::now();
    while std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty()) {
        assert!(began.elapsed() < PATIENCE, "the engine goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn answers_under_way_are_finished_after_sigterm() {
    let state = tempfile::tempdir().unwrap();
    let mut wharf = Wharf::start(&mut serve(state.path()));
    let endpoint = url_after(&wharf.wait_for("Stop with Ctrl-C"), "endpoint");
    let url = format!("{endpoint}/chat/completions");
    // Enough work for a while, also on a fast machine.
    let mut body = chat("tiny", 200);
    body["temperature"] = json!(1);
    body["n"] = json!(4);
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let (url, body) = (url.clone(), body.clone());
            std::thread::spawn(move || (request(&url, Some(&body)), Instant::now()))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(150));
    wharf.signal("TERM");
    let signalled = Instant::now();
    let answers: Vec<_> = asking.into_iter().map(|thread| thread.join().unwrap()).collect();
    for ((status, answer), _) in &answers {
        assert_eq!(*status, 200, "{answer}");
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], 800);
    }
    assert!(answers.iter().any(|(_, ended)| *ended > signalled), "none was under way");
    assert!(wharf.wait().success(), "{}", wharf.err());
}

#[test]
fn an_engine_that_cannot_start_ends_serve_with_its_reason() {
    let state = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF and then nonsense").unwrap();
    let mut command = Wharf::command();
    command
        .args(["serve", "--port", "0", "--state-dir"])
        .arg(state.path())
        .arg("--model")
        .arg(&file);
    let (status, _, err) = output(&mut command);
    assert!(!status.success() && err.contains("broken.gguf"), "{err}");
}
