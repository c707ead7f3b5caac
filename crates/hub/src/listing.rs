//! What a repository holds, as the hub lists it, and which of it Wharf reads.

use serde::Deserialize;

use crate::HubError;
use crate::client::Client;
use crate::name::{Part, RepositoryName, is_safe_path};

/// Longest listing that is read, in bytes. The longest of the public hub are a few megabytes.
const MAX_LISTING: usize = 16 << 20;
/// Most names repeated in an error.
const MAX_NAMES: usize = 24;
/// What a directory may hold beside the weights.
const SMALL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
];

/// The hub's answer, as far as it is used.
#[derive(Debug, Deserialize)]
struct Answer {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

/// A repository at one commit. Names that could leave a folder are not in it.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The commit the revision points to.
    pub(crate) commit: String,
    /// Paths in the repository.
    files: Vec<String>,
}

impl Listing {
    /// Asks the hub.
    pub(crate) async fn fetch(client: &Client, name: &RepositoryName) -> Result<Self, HubError> {
        let revision = name.revision.replace('/', "%2F");
        let url = client.url(&format!("api/models/{}/revision/{revision}", name.repo))?;
        let body = client.body(&url, MAX_LISTING).await?;
        Self::parse(&body).map_err(|reason| HubError::BadAnswer { url: url.into(), reason })
    }

    /// Reads the hub's JSON.
    fn parse(body: &[u8]) -> Result<Self, String> {
        let answer: Answer =
            serde_json::from_slice(body).map_err(|e| format!("not the listing of a model: {e}"))?;
        let commit = answer.sha.ok_or("the listing names no commit")?;
        if !(7..=64).contains(&commit.len()) || !commit.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("the listing's commit is not a hash".to_owned());
        }
        let (files, strange): (Vec<_>, Vec<_>) = answer
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .partition(|file| is_safe_path(file));
        // Dot files such as .gitattributes are in every repository.
        if let Some(file) = strange.iter().find(|file| !is_dot_file(file)) {
            return Err(format!(
                "the listing names {file:?}, which no repository of good will has"
            ));
        }
        Ok(Self { commit, files })
    }

    /// The files to fetch for `part`, small ones first.
    pub(crate) fn choose(&self, name: &RepositoryName) -> Result<Vec<String>, HubError> {
        let nothing = |reason| HubError::NothingToServe { repo: name.repo.clone(), reason };
        match &name.part {
            Part::Directory => self.directory().map_err(nothing),
            Part::File(file) if self.files.contains(file) => Ok(vec![file.clone()]),
            Part::File(file) => {
                Err(nothing(format!("there is no {file}; {}", self.gguf_names(&name.repo))))
            }
            Part::Quantisation(text) => {
                let text = text.to_ascii_lowercase();
                let mut found = self.ggufs().filter(|f| f.to_ascii_lowercase().contains(&text));
                match (found.next(), found.next()) {
                    (Some(file), None) => Ok(vec![file.to_owned()]),
                    (Some(_), Some(_)) => Err(nothing(format!(
                        "several files have {text} in their name; {}",
                        self.gguf_names(&name.repo)
                    ))),
                    (None, _) => Err(nothing(format!(
                        "no GGUF file has {text} in its name; {}",
                        self.gguf_names(&name.repo)
                    ))),
                }
            }
        }
    }

    /// The files of a Hugging Face directory, all at the top of the repository.
    fn directory(&self) -> Result<Vec<String>, String> {
        let has = |file: &str| self.files.iter().any(|f| f == file);
        let top = |suffix: &str| {
            let suffix = suffix.to_owned();
            self.files.iter().filter(move |f| !f.contains('/') && f.ends_with(&suffix))
        };
        let mut weights: Vec<&String> = top(".safetensors").collect();
        // Some repositories hold the weights twice: under the usual name, and under the maker's own.
        if weights.iter().any(|f| f.starts_with("model")) {
            weights.retain(|f| f.starts_with("model"));
        }
        if has("model.safetensors") {
            weights.retain(|f| *f == "model.safetensors");
        }
        if !has("config.json") || weights.is_empty() {
            let ggufs: Vec<&str> = self.ggufs().collect();
            return match ggufs.as_slice() {
                [] => Err("it has neither config.json with *.safetensors nor a GGUF file".into()),
                [one] => Ok(vec![(*one).to_owned()]),
                _ => Err(format!("it holds GGUF files only: {}", self.gguf_names("org/repo"))),
            };
        }
        let mut files: Vec<String> =
            SMALL_FILES.iter().filter(|f| has(f)).map(|f| (*f).to_owned()).collect();
        if !has("model.safetensors") {
            files.extend(top(".safetensors.index.json").cloned());
        }
        files.extend(weights.into_iter().cloned());
        Ok(files)
    }

    /// GGUF files with a model in them (`mmproj` files hold a vision tower).
    fn ggufs(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(|file| {
            let lower = file.to_ascii_lowercase();
            lower.ends_with(".gguf") && !lower.contains("mmproj")
        })
    }

    /// Which GGUF files there are, and how to name one.
    fn gguf_names(&self, repo: &str) -> String {
        let names: Vec<&str> = self.ggufs().take(MAX_NAMES).collect();
        match names.as_slice() {
            [] => "the repository holds no GGUF file".to_owned(),
            [first, ..] => {
                format!("choose one of {} (as {repo}/{first})", names.join(", "))
            }
        }
    }
}

/// `.gitattributes`, `.github/x.yml`: harmless, and never fetched.
fn is_dot_file(path: &str) -> bool {
    let bare: Vec<&str> = path.split('/').map(|s| s.trim_start_matches('.')).collect();
    is_safe_path(&bare.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn listing(files: &[&str]) -> Listing {
        Listing { commit: "abcdef0".into(), files: files.iter().map(|&f| f.into()).collect() }
    }

    fn choose(files: &[&str], part: Part) -> Result<Vec<String>, String> {
        let name = RepositoryName { repo: "o/r".into(), revision: "main".into(), part };
        listing(files).choose(&name).map_err(|e| e.to_string())
    }

    #[test]
    fn a_directory_is_the_files_wharf_reads() {
        let files = choose(
            &[
                "README.md",
                "config.json",
                "model.safetensors",
                "onnx/model.onnx",
                "tokenizer.json",
                "pytorch_model.bin",
                "consolidated.safetensors",
                "original/x.safetensors",
            ],
            Part::Directory,
        );
        assert_eq!(files.unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        let files = choose(
            &[
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "config.json",
                "model.safetensors.index.json",
            ],
            Part::Directory,
        );
        assert_eq!(files.unwrap().len(), 4);
    }

    #[test]
    fn a_repository_of_ggufs_asks_which() {
        let error = choose(&["a-Q4_0.gguf", "a-Q8_0.gguf"], Part::Directory).unwrap_err();
        assert!(error.contains("a-Q4_0.gguf, a-Q8_0.gguf"), "{error}");
        let one = choose(&["a.gguf", "mmproj-a.gguf", "README.md"], Part::Directory);
        assert_eq!(one.unwrap(), ["a.gguf"]);
        let some = choose(&["a-Q4_0.gguf", "a-Q8_0.gguf"], Part::Quantisation("q8_0".into()));
        assert_eq!(some.unwrap(), ["a-Q8_0.gguf"]);
        assert!(choose(&["a-Q4_0.gguf"], Part::Quantisation("Q5".into())).is_err());
        assert!(choose(&["a-Q4_0.gguf"], Part::File("b.gguf".into())).is_err());
        assert!(choose(&["README.md"], Part::Directory).is_err());
    }

    #[test]
    fn hostile_listings_are_refused() {
        for file in ["../x", "/etc/passwd", "a/../../x", "a\\b", "", "a//b", "x\u{0}", "..", "c:x"]
        {
            let body = serde_json::json!({"sha": "abcdef0", "siblings": [{"rfilename": file}]});
            assert!(Listing::parse(body.to_string().as_bytes()).is_err(), "{file:?} was taken");
        }
        for sha in ["", "main", "../../x", "0123456z"] {
            let body = serde_json::json!({"sha": sha, "siblings": []});
            assert!(Listing::parse(body.to_string().as_bytes()).is_err(), "{sha:?} was taken");
        }
        let body = br#"{"sha": "abcdef0", "siblings": [{"rfilename": ".gitattributes"}]}"#;
        assert_eq!(Listing::parse(body).unwrap().files.len(), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_listing_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Listing::parse(&body);
        }

        #[test]
        fn listed_files_stay_in_their_folder(files in proptest::collection::vec("[a./\\\\]{0,12}", 0..4)) {
            let siblings: Vec<_> =
                files.iter().map(|f| serde_json::json!({"rfilename": f})).collect();
            let body = serde_json::json!({"sha": "abcdef0", "siblings": siblings}).to_string();
            if let Ok(listing) = Listing::parse(body.as_bytes()) {
                for file in &listing.files {
                    prop_assert!(std::path::Path::new(file)
                        .components()
                        .all(|c| matches!(c, std::path::Component::Normal(_))));
                }
            }
        }
    }
}
