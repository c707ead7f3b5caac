//! From flags to a model on disk: folders by the XDG conventions, and the options of `wharf-hub`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use wharf_hub::HubOptions;

use crate::cli::HubArgs;
use crate::progress::DownloadBar;

/// The path of `model`, fetched with a progress bar when it is not here.
pub(crate) async fn fetch(model: &str, args: &HubArgs) -> Result<PathBuf> {
    Ok(wharf_hub::fetch(model, &hub_options(args)?, &DownloadBar::new()).await?)
}

/// Where and how to fetch.
pub(crate) fn hub_options(args: &HubArgs) -> Result<HubOptions> {
    let cache = match &args.cache_dir {
        Some(folder) => folder.clone(),
        None => user_folder("XDG_CACHE_HOME", ".cache").context("name one with --cache-dir")?,
    };
    Ok(HubOptions {
        hf_endpoint: args.hf_endpoint.clone(),
        hf_token: args.hf_token.clone(),
        python: args.python.clone(),
        offline: args.offline,
        ..HubOptions::new(cache)
    })
}

/// Wharf's folder below `$variable`, or below `~/<fallback>`.
pub(crate) fn user_folder(variable: &str, fallback: &str) -> Result<PathBuf> {
    // The XDG specification has relative paths ignored.
    let from_variable = std::env::var_os(variable).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = match from_variable {
        Some(base) => base,
        None => std::env::home_dir()
            .filter(|home| !home.as_os_str().is_empty())
            .with_context(|| format!("neither {variable} nor HOME is set"))?
            .join(fallback),
    };
    Ok(base.join("wharf"))
}
