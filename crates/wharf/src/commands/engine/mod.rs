//! `wharf engine`: one model, loaded and served. The only place where the model, the text, the
//! engine and the server meet; each knows nothing of the others' making.

mod draft;
mod formats;
mod kv_cache;
mod memory;

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::{TcpListener, UnixListener};
use wharf_engine::{DraftModel, Engine, EngineConfig};
use wharf_model::{GenerationDefaults, ModelInfo};
use wharf_server::{Listener, SamplingDefaults, ServedModel, ServerConfig};
use wharf_text::template::ChatTemplate;
use wharf_text::tokenizer::Tokenizer;

use super::{loading, model_source};
use crate::cli::{EngineArgs, EngineOptions, SchedulingPolicy, SpeculativeMethod};
use crate::shutdown::{Heed, Shutdown};
pub(crate) use draft::fetch as fetch_draft;

/// Tokens that end an assistant's turn. Files often name one end-of-sequence token only, while the
/// template ends turns with another; without it, the model would go on to play the user.
const TURN_ENDS: [&str; 5] = ["<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|eom_id|>"];

/// Runs the command.
pub(crate) async fn run(args: &EngineArgs) -> Result<()> {
    let began = Instant::now();
    let heed = if args.exit_on_stdin_eof { Heed::SignalsAndStdin } else { Heed::Signals };
    let shutdown = Shutdown::listen(heed)?;
    // First of all: a port in use should be told before a model is fetched.
    let listener = listen(args).await?;
    let serving = async {
        let path = model_source::fetch(&args.model, &args.hub).await?;
        let draft = fetch_draft(&args.engine, &args.hub).await?;
        let (name, options) = (args.model.clone(), args.engine.clone());
        // On a thread of its own, so that a signal in the middle of it is heeded.
        let loading =
            tokio::task::spawn_blocking(move || load(&path, draft.as_deref(), &name, &options));
        let served = loading.await.context("loading the model failed")??;
        tracing::info!("{} is ready after {:?}", served.names[0], began.elapsed());
        announce(args, &listener, &served.names[0]);
        Ok::<_, anyhow::Error>(served)
    };
    let served = tokio::select! {
        served = serving => served?,
        () = shutdown.clone().begun() => return Ok(()),
    };
    let config = server_config(&args.engine);
    wharf_http::raise_file_limit();
    wharf_server::serve(listener, served, config, shutdown.begun())
        .await
        .context("the server failed")
}

/// Opens the socket that requests will come by.
async fn listen(args: &EngineArgs) -> Result<Listener> {
    let Some(path) = &args.uds else {
        return Ok(Listener::Tcp(bind(&args.host, args.port).await?));
    };
    // A socket that a killed engine left would make binding fail. Anything else is not ours to take.
    if let Ok(metadata) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !metadata.file_type().is_socket() {
            bail!("{} is there already, and is no socket", path.display());
        }
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            bail!("{} is in use by another process", path.display());
        }
        std::fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, owner_only).with_context(|| path.display().to_string())?;
    Ok(Listener::Unix(listener))
}

/// Binds a port; says what to do when it cannot be had.
pub(crate) async fn bind(host: &str, port: u16) -> Result<TcpListener> {
    TcpListener::bind((host, port)).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "port {port} on {host} is in use by another program: stop it, or choose another port \
             with --port {} (--port 0 takes any free one)",
            port.checked_add(1).unwrap_or(8000)
        ),
        std::io::ErrorKind::PermissionDenied => anyhow::anyhow!(
            "port {port} on {host} is not allowed to you: ports below 1024 are the system's; choose \
             another with --port"
        ),
        _ => anyhow::Error::new(e).context(format!(
            "cannot listen on {host}:{port}: --host must be an address of this machine"
        )),
    })
}

/// Loads the model, and the one that guesses for it, and starts their engine.
fn load(
    path: &Path,
    draft: Option<&Path>,
    given_name: &str,
    options: &EngineOptions,
) -> Result<ServedModel> {
    let max_model_len = options.max_model_len.map(NonZeroUsize::get);
    let format = loading::kv_format(&options.compute)?; // before the weights, in case it is refused
    let mut model = loading::model(path, &options.compute, max_model_len)?;
    let tokenizer = loading::tokenizer(&model.info().tokenizer)?;
    let template = template_text(model.info(), options)?;
    let eos_token_ids = end_tokens(model.info(), template.as_deref(), tokenizer.as_ref());
    let reasoning_format =
        formats::reasoning(options.reasoning_parser.as_deref(), template.as_deref())?;
    let source = template.clone();
    let template = template
        .map(|text| ChatTemplate::new(&text, tokenizer.bos_token(), tokenizer.eos_token()))
        .transpose()?;
    // A template that knows no tools says nothing of how its model writes calls.
    let source = source.filter(|_| template.as_ref().is_some_and(ChatTemplate::knows_tools));
    let tool_format = formats::tools(options.tool_call_parser.as_deref(), source.as_deref())?;
    if template.is_none() {
        tracing::warn!(
            "the model has no chat template: /v1/chat/completions will refuse; name one with --chat-template"
        );
    }

    draft::check_recurrent(options, model.info().state_bytes)?;
    let draft = draft.map(|path| draft::load(path, &options.compute, &model, tokenizer.as_ref()));
    let mut draft = draft.transpose()?;
    let draft_block_bytes = draft.as_ref().map_or(0, |draft| draft.kv_block_bytes(format));
    let block_bytes = model.kv_block_bytes(format) + draft_block_bytes;
    let plan = kv_cache::plan(&kv_cache::Request {
        trained_len: model.info().max_model_len,
        block_bytes,
        state_bytes: model.info().state_bytes,
        available: memory::available(),
        options,
    })?;
    let megabytes = plan.num_blocks.saturating_mul(block_bytes) / 1_000_000;
    tracing::info!("{plan:?}, {megabytes} MB for keys and values");
    model.allocate(plan.num_blocks, format, plan.num_slots());
    if let Some(draft) = &mut draft {
        let megabytes = plan.num_blocks.saturating_mul(draft_block_bytes) / 1_000_000;
        tracing::info!("of them {megabytes} MB are the draft model's");
        draft.allocate_kv(plan.num_blocks, format);
    }

    let defaults = sampling_defaults(&model.info().generation);
    let draft = draft.map(|draft| DraftModel {
        max_model_len: draft.info().max_model_len,
        runner: Box::new(draft),
    });
    let engine = Engine::start_with_draft(
        Box::new(model),
        draft,
        EngineConfig {
            max_batched_tokens: options.max_num_batched_tokens.get(),
            max_running: plan.max_running,
            max_waiting: options.max_num_queued_reqs.get(),
            max_model_len: plan.max_model_len,
            num_blocks: plan.num_blocks,
            prefix_caching: !options.no_prefix_caching,
            num_state_snapshots: plan.num_state_snapshots,
            num_speculative_tokens: match options.speculative_method {
                SpeculativeMethod::Off => 0,
                _ => options.num_speculative_tokens.get(),
            },
            ngram_lookup: matches!(
                options.speculative_method,
                SpeculativeMethod::Auto | SpeculativeMethod::Ngram
            ),
            eos_token_ids,
        },
    )
    .context("cannot start the engine's thread")?;
    let names = match options.served_model_name.as_slice() {
        [] => vec![given_name.to_owned()],
        names => names.to_vec(),
    };
    Ok(ServedModel {
        names,
        tokenizer,
        template,
        tool_format,
        reasoning_format,
        defaults,
        max_model_len: plan.max_model_len,
        engine,
    })
}

/// The Jinja text of the chat template: the user's, or the model's.
fn template_text(info: &ModelInfo, options: &EngineOptions) -> Result<Option<String>> {
    match &options.chat_template {
        Some(file) => std::fs::read_to_string(file)
            .map(Some)
            .with_context(|| format!("cannot read --chat-template {}", file.display())),
        None => Ok(info.chat_template.clone()),
    }
}

/// Ids that end an answer: the model's own, the tokenizer's, and the end of a turn that the
/// template writes.
fn end_tokens(info: &ModelInfo, template: Option<&str>, tokenizer: &dyn Tokenizer) -> Vec<u32> {
    let mut ids = info.eos_token_ids.clone();
    let written = TURN_ENDS.iter().filter(|end| template.is_some_and(|t| t.contains(**end)));
    for text in written.copied().chain(tokenizer.eos_token()) {
        if let Some(id) = tokenizer.token_to_id(text)
            && !ids.contains(&id)
        {
            tracing::info!("{text} ({id}) ends answers too");
            ids.push(id);
        }
    }
    ids
}

/// generation_config.json, for requests that are silent.
fn sampling_defaults(from: &GenerationDefaults) -> SamplingDefaults {
    SamplingDefaults {
        temperature: from.temperature,
        top_p: from.top_p,
        top_k: from.top_k,
        min_p: from.min_p,
        repetition_penalty: from.repetition_penalty,
        max_tokens: from.max_new_tokens.map(|n| n as usize),
    }
}

fn server_config(options: &EngineOptions) -> ServerConfig {
    ServerConfig {
        api_key: options.api_key.clone().filter(|key| !key.is_empty()),
        max_body_bytes: options.max_body_bytes.0,
        sse_keep_alive: Duration::from_secs(options.sse_keep_alive),
        drain_timeout: Duration::from_secs(options.drain_timeout),
        priority_scheduling: options.scheduling_policy == SchedulingPolicy::Priority,
        cors_origins: options.cors_origin.clone(),
    }
}

/// Tells a person where the server is. A parent that started us knows, and has a pipe for a mouth.
fn announce(args: &EngineArgs, listener: &Listener, name: &str) {
    if args.exit_on_stdin_eof {
        return;
    }
    match listener {
        Listener::Tcp(listener) => {
            if let Ok(address) = listener.local_addr() {
                println!("{name} at http://{address}/v1 (stop with Ctrl-C)");
            }
        }
        Listener::Unix(_) => {
            if let Some(path) = &args.uds {
                println!("{name} on the socket {} (stop with Ctrl-C)", path.display());
            }
        }
    }
}
