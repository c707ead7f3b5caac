//! `wharf serve`: the gateway, and `wharf engine` as its child.
//!
//! The model is fetched here, where a person sees the bar; the child gets a path. This process
//! never loads a model: a fault in one cannot take the gateway along.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use wharf_gateway::{EngineCommand, Gateway, GatewayConfig};

use super::{engine, model_source};
use crate::cli::{LogFormat, ServeArgs};
use crate::config::{self, Settings};
use crate::shutdown::{Heed, Shutdown};

/// Runs the command.
pub(crate) async fn run(args: &ServeArgs, settings: &Settings) -> Result<()> {
    let shutdown = Shutdown::listen(Heed::Signals)?;
    // First of all: a port in use should be told before a model is fetched.
    let listener = engine::bind(&args.host, args.port).await?;
    let state_dir = match &args.state_dir {
        Some(folder) => folder.clone(),
        None => model_source::user_folder("XDG_STATE_HOME", ".local/state")
            .context("name one with --state-dir")?,
    };
    let starting = async {
        let model = model_source::fetch(&args.model, &args.hub).await?;
        let draft = engine::fetch_draft(&args.engine, &args.hub).await?;
        let config = GatewayConfig {
            state_dir,
            max_body_bytes: args.engine.max_body_bytes.0,
            drain_timeout: Duration::from_secs(args.engine.drain_timeout),
        };
        let gateway = Gateway::start(config, engine_command(args, settings, &model, draft)?)
            .await
            .context("cannot start the gateway")?;
        Ok::<_, anyhow::Error>(gateway)
    };
    let gateway = tokio::select! {
        gateway = starting => gateway?,
        () = shutdown.clone().begun() => return Ok(()),
    };
    let endpoint = endpoint(args, &listener, &gateway.default_instance().to_string())?;
    let ready = gateway.readiness();
    // Served from now on: who asks too early is told when to ask again.
    wharf_http::raise_file_limit();
    let serving = gateway.serve(listener, shutdown.clone().begun());
    tokio::pin!(serving);
    tokio::select! {
        ready = ready => match ready {
            Ok(()) => {}
            // It did not start because it was told to end while the model was being loaded.
            Err(_) if shutdown.has_begun() => return serving.await.context("the gateway failed"),
            Err(reason) => anyhow::bail!("the engine did not start: {reason}"),
        },
        ended = &mut serving => return ended.context("the gateway failed"),
    }
    let model = args.engine.served_model_name.first().unwrap_or(&args.model);
    let has_key = args.engine.api_key.as_ref().is_some_and(|key| !key.is_empty());
    print!("{}", welcome(&endpoint, model, has_key));
    serving.await.context("the gateway failed")
}

/// How the engine is started: this program again, with every option spelt out. The gateway adds the
/// socket, and that the engine ends with it.
fn engine_command(
    args: &ServeArgs,
    settings: &Settings,
    model: &std::path::Path,
    draft: Option<PathBuf>,
) -> Result<EngineCommand> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let matches = settings.matches.subcommand_matches("serve").context("not `wharf serve`")?;
    // A relative path would depend on where the child is started.
    let model = std::path::absolute(model).context("cannot tell where the model is")?;
    let mut flags: Vec<OsString> = vec!["engine".into()];
    flags.extend(["--model".into(), model.into_os_string()]);
    if let Some(draft) = draft {
        let draft = std::path::absolute(draft).context("cannot tell where the draft model is")?;
        flags.extend(["--draft-model".into(), draft.into_os_string()]);
    }
    if args.engine.served_model_name.is_empty() {
        flags.push(format!("--served-model-name={}", args.model).into());
    }
    if let Some(file) = &settings.file {
        let file: PathBuf = std::path::absolute(file).context("cannot tell where we are")?;
        flags.extend(["--config".into(), file.into_os_string()]);
    }
    let global = &settings.cli.global;
    flags.push(format!("--log-level={}", global.log_level).into());
    flags.push(match global.log_format {
        LogFormat::Text => "--log-format=text".into(),
        LogFormat::Json => "--log-format=json".into(),
    });
    flags.extend(config::engine_flags(matches));
    let flags: Result<Vec<String>, OsString> =
        flags.into_iter().map(OsString::into_string).collect();
    let flags = flags.map_err(|f| anyhow::anyhow!("{} is not valid UTF-8", f.display()))?;
    Ok(EngineCommand { program, args: flags })
}

/// The URL of the default instance.
fn endpoint(args: &ServeArgs, listener: &TcpListener, instance: &str) -> Result<String> {
    let port = listener.local_addr().context("the listener has no address")?.port();
    let host = reachable_host(&args.host);
    Ok(format!("http://{host}:{port}/{instance}/{}/v1", Gateway::MODEL_PORT))
}

/// What a newcomer needs next.
fn welcome(endpoint: &str, model: &str, has_key: bool) -> String {
    let key = if has_key { " \\\n    -H \"Authorization: Bearer $WHARF_API_KEY\"" } else { "" };
    // Temperature 0: a newcomer's first answer should be the model's best, and the same again.
    let body = serde_json::json!({
        "model": model,
        "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
    });
    // Within single quotes, a quote of the model's name must not end them.
    let body = body.to_string().replace('\'', "'\\''");
    format!(
        "Wharf is ready.\n\n  endpoint   {endpoint}\n  model      {model}\n\nTry it:\n\n  \
         curl -s {endpoint}/chat/completions \\\n    -H \"Content-Type: application/json\"{key} \\\n    \
         -d '{body}'\n\nOr talk to it: wharf chat --base-url {endpoint}\nStop with Ctrl-C.\n"
    )
}

/// An address that means "every address" is no address to go to.
fn reachable_host(host: &str) -> String {
    match host {
        "0.0.0.0" | "::" => "127.0.0.1".to_owned(),
        host if host.contains(':') => format!("[{host}]"),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_welcome_is_a_command_to_paste() {
        expect_test::expect![[r#"
            Wharf is ready.

              endpoint   http://127.0.0.1:8000/ID/3900/v1
              model      smollm2

            Try it:

              curl -s http://127.0.0.1:8000/ID/3900/v1/chat/completions \
                -H "Content-Type: application/json" \
                -d '{"model":"smollm2","temperature":0,"messages":[{"role":"user","content":"What is the capital of Japan?"}]}'

            Or talk to it: wharf chat --base-url http://127.0.0.1:8000/ID/3900/v1
            Stop with Ctrl-C.
        "#]]
        .assert_eq(&welcome("http://127.0.0.1:8000/ID/3900/v1", "smollm2", false));
        assert!(welcome("http://h/v1", "m", true).contains("Bearer $WHARF_API_KEY"));
        assert!(welcome("http://h/v1", "it's", false).contains(r"it'\''s"));
    }

    #[test]
    fn every_host_becomes_one_to_go_to() {
        assert_eq!(reachable_host("0.0.0.0"), "127.0.0.1");
        assert_eq!(reachable_host("::1"), "[::1]");
        assert_eq!(reachable_host("wharf.local"), "wharf.local");
    }
}
