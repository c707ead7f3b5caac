//! `wharf chat`: a conversation in the terminal. Any OpenAI-compatible endpoint will do.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::cli::ChatArgs;
use crate::openai::{Client, RequestError, StreamEvent};

/// Largest prompt taken from a pipe, in bytes.
const MAX_PIPED: u64 = 16 << 20;

/// What the user did while we waited.
enum Input {
    Line(String),
    /// Ctrl-D.
    End,
    /// Ctrl-C.
    Interrupt,
}

/// How an answer ended.
enum Answer {
    Whole(String),
    /// By Ctrl-C: as far as it came.
    Stopped(String),
    /// Standard output was closed, as `head` does when it has enough.
    Unread,
}

/// Runs the command.
pub(crate) async fn run(args: &ChatArgs) -> Result<()> {
    let client = Client::new(&args.base_url, args.api_key.clone(), None)?;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => client.first_model().await?,
    };
    let mut messages = Vec::new();
    if let Some(system) = &args.system {
        messages.push(json!({"role": "system", "content": system}));
    }
    // From here on Ctrl-C is ours, also where we were started with it ignored (in a script's `&`).
    let mut interrupt = signal(SignalKind::interrupt())?;
    let prompt = tokio::select! {
        prompt = one_shot_prompt(args) => prompt?,
        _ = interrupt.recv() => anyhow::bail!("stopped"),
    };
    if let Some(prompt) = prompt {
        messages.push(json!({"role": "user", "content": prompt}));
        match answer(&client, &request(args, &model, &messages), &mut interrupt).await? {
            Answer::Whole(_) | Answer::Unread => return Ok(()),
            Answer::Stopped(_) => anyhow::bail!("stopped"),
        }
    }
    eprintln!("Talking to {model} at {}. Ctrl-C stops an answer, Ctrl-D leaves.\n", args.base_url);
    converse(args, &client, &model, messages, &mut interrupt).await
}

/// Turn after turn, until Ctrl-D.
async fn converse(
    args: &ChatArgs,
    client: &Client,
    model: &str,
    mut messages: Vec<Value>,
    interrupt: &mut Signal,
) -> Result<()> {
    let mut lines = read_lines();
    let mut interrupted = false;
    loop {
        eprint!("> ");
        match next_input(&mut lines, interrupt).await {
            Input::End => {
                eprintln!();
                return Ok(());
            }
            Input::Interrupt if interrupted => {
                eprintln!();
                return Ok(());
            }
            Input::Interrupt => {
                interrupted = true;
                eprintln!("\n(Ctrl-D, or Ctrl-C once more, leaves.)");
                continue;
            }
            Input::Line(line) if line.trim().is_empty() => continue,
            Input::Line(line) => messages.push(json!({"role": "user", "content": line})),
        }
        interrupted = false;
        match answer(client, &request(args, model, &messages), interrupt).await {
            Ok(Answer::Whole(text) | Answer::Stopped(text)) => {
                messages.push(json!({"role": "assistant", "content": text}));
            }
            Ok(Answer::Unread) => return Ok(()),
            Err(error) => {
                // The turn did not happen: what was said can be said again.
                messages.pop();
                eprintln!("{error}");
            }
        }
        eprintln!();
    }
}

/// The prompt of a conversation of one turn, if it is one.
async fn one_shot_prompt(args: &ChatArgs) -> Result<Option<String>> {
    let piped = match args.prompt.as_deref() {
        Some("-") => true,
        Some(prompt) => return Ok(Some(prompt.to_owned())),
        None => !std::io::stdin().is_terminal(),
    };
    if !piped {
        return Ok(None);
    }
    // On a thread of its own: such a read cannot be cancelled, but left behind.
    let (send, receive) = oneshot::channel();
    let read = move || {
        let mut text = String::new();
        let read = std::io::stdin().take(MAX_PIPED).read_to_string(&mut text);
        // Nobody listens after Ctrl-C.
        let _ = send.send(read.map(|_| text));
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read)?;
    let text = receive.await?.context("cannot read the prompt from standard input")?;
    anyhow::ensure!(!text.trim().is_empty(), "standard input holds no prompt");
    Ok(Some(text.trim_end().to_owned()))
}

/// The request for the next answer.
fn request(args: &ChatArgs, model: &str, messages: &[Value]) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    body.insert("messages".into(), messages.into());
    body.insert("stream".into(), true.into());
    let settings = [
        ("temperature", args.temperature.map(Value::from)),
        ("top_p", args.top_p.map(Value::from)),
        ("max_tokens", args.max_tokens.map(Value::from)),
        ("seed", args.seed.map(Value::from)),
    ];
    body.extend(settings.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Value::Object(body)
}

/// Prints an answer as it arrives.
async fn answer(
    client: &Client,
    body: &Value,
    interrupt: &mut Signal,
) -> Result<Answer, RequestError> {
    let mut text = String::new();
    let streaming = stream_to_stdout(client, body, &mut text);
    let stopped = tokio::select! {
        outcome = streaming => {
            if outcome?.is_break() {
                return Ok(Answer::Unread);
            }
            false
        }
        _ = interrupt.recv() => true, // dropping the stream tells the server
    };
    if write_out("\n").is_break() {
        return Ok(Answer::Unread);
    }
    Ok(if stopped { Answer::Stopped(text) } else { Answer::Whole(text) })
}

async fn stream_to_stdout(
    client: &Client,
    body: &Value,
    text: &mut String,
) -> Result<ControlFlow<()>, RequestError> {
    let mut stream = client.stream(body).await?;
    while let Some(event) = stream.next().await? {
        match event {
            StreamEvent::Text(piece) => {
                if write_out(&printable(&piece)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                text.push_str(&piece);
            }
            StreamEvent::Finish(reason) if reason == "length" => {
                eprint!(" [cut off at the longest answer allowed]");
            }
            StreamEvent::Finish(_) | StreamEvent::Usage(_) => {}
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Writes to standard output at once; `Break` when nobody reads it any more.
fn write_out(text: &str) -> ControlFlow<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Without control characters: a model's words must not command the terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

/// Lines of standard input, read on a thread of their own: such a read cannot be cancelled.
fn read_lines() -> mpsc::UnboundedReceiver<String> {
    let (send, receive) = mpsc::unbounded_channel();
    let read = move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                return; // the conversation is over
            }
        }
    };
    if let Err(e) = std::thread::Builder::new().name("stdin".into()).spawn(read) {
        tracing::error!("cannot read standard input: {e}");
    }
    receive
}

async fn next_input(lines: &mut mpsc::UnboundedReceiver<String>, interrupt: &mut Signal) -> Input {
    tokio::select! {
        line = lines.recv() => line.map_or(Input::End, Input::Line),
        _ = interrupt.recv() => Input::Interrupt,
    }
}
