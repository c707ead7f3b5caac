//! Names of models, as people type them.
//!
//! Parsed before anything touches the network or the disk, so that a name can never become a path
//! outside the cache or a URL of another shape.

use crate::HubError;

/// The name of the model that is served when none is given.
pub const DEFAULT_MODEL: &str = "smollm2";

/// What a name that is not a local path stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// [`DEFAULT_MODEL`].
    Default,
    /// Something of a hub.
    Repository(RepositoryName),
}

/// `org/repo[/file.gguf][:quantisation][@revision]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    /// `org/repo`
    pub repo: String,
    /// Branch, tag or commit; `main` when not given.
    pub revision: String,
    /// Which part of the repository.
    pub part: Part,
}

/// Which part of a repository is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// config.json, tokenizer, safetensors.
    Directory,
    /// One GGUF file, by its path in the repository.
    File(String),
    /// The GGUF file whose name holds this text (`Q4_K_M`), whatever the case.
    Quantisation(String),
}

/// Where the default model also is, as a directory of files.
pub(crate) fn default_repository() -> RepositoryName {
    RepositoryName {
        repo: "HuggingFaceTB/SmolLM2-135M-Instruct".to_owned(),
        revision: "main".to_owned(),
        part: Part::Directory,
    }
}

impl ModelName {
    /// Parses a name that is not an existing path.
    ///
    /// # Errors
    /// [`HubError::BadName`] for anything else, with what would be right.
    pub fn parse(model: &str) -> Result<Self, HubError> {
        let bad = |reason: &str| HubError::BadName { model: shorten(model), reason: reason.into() };
        if model == DEFAULT_MODEL {
            return Ok(Self::Default);
        }
        if model.starts_with(['/', '.', '~']) || model.contains('\\') {
            return Err(bad("there is no such file or directory"));
        }
        let (path, revision) = match model.rsplit_once('@') {
            Some((path, revision)) => (path, revision),
            None => (model, "main"),
        };
        let (path, quantisation) = match path.rsplit_once(':') {
            Some((path, quantisation)) => (path, Some(quantisation)),
            None => (path, None),
        };
        let mut segments = path.splitn(3, '/');
        let (Some(org), Some(repo)) = (segments.next(), segments.next()) else {
            return Err(bad(
                "no such file, and not a known model name: give `smollm2`, a path, or `org/repo`",
            ));
        };
        let file = segments.next();
        // `--` stands for `/` in the cache, as it does in Hugging Face's.
        if !is_plain(org) || !is_plain(repo) || org.contains("--") || repo.contains("--") {
            return Err(bad("a repository is `org/repo`, of letters, digits, `-`, `_` and `.`"));
        }
        if !revision.split('/').all(is_plain) {
            return Err(bad("the revision after `@` is a branch, a tag or a commit"));
        }
        let part = match (file, quantisation) {
            (None, None) => Part::Directory,
            (None, Some(q)) if is_plain(q) => Part::Quantisation(q.to_owned()),
            (Some(f), None) if is_safe_path(f) && f.to_ascii_lowercase().ends_with(".gguf") => {
                Part::File(f.to_owned())
            }
            (Some(_), None) => return Err(bad("no such file; of a hub, `org/repo/file.gguf`")),
            (_, Some(_)) => return Err(bad("after `:` comes a quantisation, such as `Q4_K_M`")),
        };
        let (repo, revision) = (format!("{org}/{repo}"), revision.to_owned());
        Ok(Self::Repository(RepositoryName { repo, revision, part }))
    }
}

/// One path segment that means itself everywhere: in a URL, in a file name, to a person.
fn is_plain(segment: &str) -> bool {
    !segment.is_empty()
        && segment.len() <= 128
        && !segment.starts_with('.')
        && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Whether a path from a hub stays inside the folder it is joined to, on every system.
pub(crate) fn is_safe_path(path: &str) -> bool {
    path.len() <= 512
        && path.split('/').all(|segment| {
            !segment.is_empty()
                && segment.len() <= 200
                && !segment.starts_with('.')
                && !segment.ends_with([' ', '.'])
                && !segment.contains(['\\', ':', '%', '?', '#', '*', '"', '<', '>', '|'])
                && !segment.chars().any(char::is_control)
        })
}

/// A name fit for an error message.
fn shorten(name: &str) -> String {
    name.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn repository(model: &str) -> RepositoryName {
        match ModelName::parse(model).unwrap() {
            ModelName::Repository(name) => name,
            ModelName::Default => panic!("{model} is the default model"),
        }
    }

    #[test]
    fn each_form_is_understood() {
        assert_eq!(ModelName::parse("smollm2").unwrap(), ModelName::Default);
        let name = repository("Qwen/Qwen3-0.6B");
        assert_eq!((name.repo.as_str(), name.revision.as_str()), ("Qwen/Qwen3-0.6B", "main"));
        assert_eq!(name.part, Part::Directory);
        assert_eq!(repository("a/b@refs/pr/1").revision, "refs/pr/1");
        let name = repository("a/b/sub/x.GGUF@v1.0");
        assert_eq!(name.part, Part::File("sub/x.GGUF".into()));
        assert_eq!(name.revision, "v1.0");
        assert_eq!(repository("a/b:Q4_K_M").part, Part::Quantisation("Q4_K_M".into()));
    }

    #[test]
    fn hostile_and_mistyped_names_are_refused() {
        for name in [
            "",
            "smollm3",
            "/etc/passwd",
            "./x",
            "../a/b",
            "a/..",
            "../..",
            "a/b/../c.gguf",
            "a//b",
            "a--b/c",
            "a/b/x.bin",
            "a/b@",
            "a/b@../x",
            "a/b:",
            "a/b:../x",
            "a/b/c.gguf:Q4",
            "a b/c",
            "a/b?x",
            "a/b#x",
            "a\\b/c",
            ".a/b",
            "a/b/\u{0}.gguf",
            "http://x/y",
        ] {
            assert!(ModelName::parse(name).is_err(), "{name:?} was taken");
        }
    }

    proptest! {
        /// Whatever is typed, no parsed name leaves the folder it is joined to.
        #[test]
        fn parsed_names_stay_inside_the_cache(model in "[a-z./@:\\\\ \\PC]{0,40}") {
            if let Ok(ModelName::Repository(name)) = ModelName::parse(&model) {
                let file = match &name.part { Part::File(f) => f.as_str(), _ => "x" };
                let joined = format!("{}/{}/{file}", name.repo, name.revision);
                for component in std::path::Path::new(&joined).components() {
                    prop_assert!(matches!(component, std::path::Component::Normal(_)));
                }
            }
        }
    }
}
