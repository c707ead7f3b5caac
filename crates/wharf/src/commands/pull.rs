//! `wharf pull`: fetches a model and prints where it is. Nothing else goes to standard output, so
//! that scripts can use the path.

use anyhow::Result;

use super::model_source::hub_options;
use crate::cli::PullArgs;
use crate::progress::DownloadBar;

/// Runs the command.
pub(crate) async fn run(args: &PullArgs) -> Result<()> {
    let mut options = hub_options(&args.hub)?;
    options.refresh = true; // who asks by name wants what is newest
    let path = wharf_hub::fetch(&args.model, &options, &DownloadBar::new()).await?;
    println!("{}", path.display());
    Ok(())
}
