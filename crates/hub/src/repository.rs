//! A repository of a hub, whole or one file of it, in the cache.
//!
//! A branch is resolved to a commit once and remembered: a model that is here is used without any
//! network, until somebody asks for a refresh. A directory is gathered as `<commit>.partial` and
//! renamed when its last file is in.

use std::path::{Path, PathBuf};

use crate::cache::{self, Lock};
use crate::client::Client;
use crate::download::{Job, download};
use crate::listing::Listing;
use crate::name::{Part, RepositoryName};
use crate::{HubError, HubOptions, Progress};

/// Largest of the files that are read into memory later (tokenizer.json of a large vocabulary).
const MAX_SMALL_FILE: u64 = 256 << 20;

/// The path of `name`, fetched when it is not in the cache.
pub(crate) async fn fetch(
    name: &RepositoryName,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    if !options.refresh
        && let Some(path) = cached(name, options)?
    {
        return Ok(path);
    }
    if options.offline {
        return cached(name, options)?
            .ok_or_else(|| HubError::Offline { model: name.repo.clone() });
    }
    let _lock = Lock::acquire(&options.cache, &name.repo).await?;
    let client = Client::new(options)?;
    let listing = Listing::fetch(&client, name).await?;
    let files = listing.choose(name)?;
    let folder = cache::repository_folder(&options.cache, &name.repo);
    let path = match files.as_slice() {
        [file] if is_gguf(file) => {
            let place = folder.join("gguf").join(&listing.commit).join(file);
            fetch_file(&client, name, &listing.commit, file, &place, progress).await?;
            place
        }
        files => fetch_directory(&client, name, &listing.commit, files, &folder, progress).await?,
    };
    let target = path.strip_prefix(&folder).unwrap_or(&path).to_string_lossy().into_owned();
    cache::write_atomically(&pointer(&folder, name), target.as_bytes())?;
    Ok(path)
}

/// What an earlier fetch of the same name gave, if it is still there.
pub(crate) fn cached(
    name: &RepositoryName,
    options: &HubOptions,
) -> Result<Option<PathBuf>, HubError> {
    let folder = cache::repository_folder(&options.cache, &name.repo);
    let pointer = pointer(&folder, name);
    match std::fs::read_to_string(&pointer) {
        Ok(target) => {
            let path = folder.join(target.trim());
            Ok(path.exists().then_some(path))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(HubError::io(&pointer)(e)),
    }
}

/// Where it is remembered what a name led to: one small file per (revision, part). No two revisions
/// share one: what stands for a slash stands for nothing else.
fn pointer(folder: &Path, name: &RepositoryName) -> PathBuf {
    let part = match &name.part {
        Part::Directory => String::new(),
        Part::File(file) => format!("@file@{}", file.replace('/', "@")),
        Part::Quantisation(text) => format!("@quantisation@{}", text.to_ascii_lowercase()),
    };
    folder.join("refs").join(format!("{}{part}", escaped(&name.revision)))
}

/// A revision as one path component, from which it could be had back.
fn escaped(revision: &str) -> String {
    revision.replace('%', "%25").replace('/', "%2F").replace('@', "%40")
}

/// All `files` into `<folder>/<commit>`.
async fn fetch_directory(
    client: &Client,
    name: &RepositoryName,
    commit: &str,
    files: &[String],
    folder: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let place = folder.join(commit);
    if place.exists() {
        return Ok(place);
    }
    let partial = cache::with_suffix(&place, ".partial");
    cache::make_folder(&partial)?;
    for file in files {
        fetch_file(client, name, commit, file, &partial.join(file), progress).await?;
    }
    cache::put_in_place(&partial, &place)?;
    Ok(place)
}

/// One file of the repository to `place`.
async fn fetch_file(
    client: &Client,
    name: &RepositoryName,
    commit: &str,
    file: &str,
    place: &Path,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    if let Some(folder) = place.parent() {
        cache::make_folder(folder)?;
    }
    let is_weights = is_gguf(file) || file.ends_with(".safetensors");
    let url = client.url(&format!("{}/resolve/{commit}/{file}", name.repo))?;
    let limit = (!is_weights).then_some(MAX_SMALL_FILE);
    download(client, &Job { url, name: file, place, limit }, progress).await
}

fn is_gguf(file: &str) -> bool {
    file.to_ascii_lowercase().ends_with(".gguf")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn revisions_with_slashes_and_dashes_are_kept_apart() {
        assert_ne!(escaped("a/b"), escaped("a--b"));
        assert_eq!(escaped("main"), "main", "refs of common names are as they were");
    }

    proptest! {
        #[test]
        fn no_two_revisions_share_a_file(one in "[ab/@%2F-]{0,8}", two in "[ab/@%2F-]{0,8}") {
            prop_assert_eq!(escaped(&one) == escaped(&two), one == two);
            prop_assert!(!escaped(&one).contains('/'));
        }
    }
}
