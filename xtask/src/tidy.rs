//! `cargo xtask tidy`: the invariants of ARCHITECTURE.md that a program can check.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::tools;

/// What each room may stand on. A room that isn't listed is a mistake: list it here and in
/// ARCHITECTURE.md.
const ARROWS: &[(&str, &[&str])] = &[
    ("wharf-api", &[]),
    ("wharf-http", &[]),
    ("wharf-kernels", &[]),
    ("wharf-grammar", &[]),
    ("wharf-hub", &[]),
    ("wharf-model", &["wharf-kernels"]),
    ("wharf-text", &["wharf-api", "wharf-grammar"]),
    ("wharf-engine", &["wharf-model", "wharf-grammar"]),
    ("wharf-server", &["wharf-api", "wharf-http", "wharf-grammar", "wharf-text", "wharf-engine"]),
    ("wharf-gateway", &["wharf-api", "wharf-http"]),
    ("wharf-mock-engine", &["wharf-api"]),
    (
        "wharf",
        &[
            "wharf-api",
            "wharf-grammar",
            "wharf-http",
            "wharf-model",
            "wharf-text",
            "wharf-engine",
            "wharf-hub",
            "wharf-server",
            "wharf-gateway",
        ],
    ),
    ("wharf-fuzz", &["wharf-api", "wharf-grammar", "wharf-model", "wharf-text"]),
    ("xtask", &[]),
];

/// Crates that must not be reached, however indirectly.
const UNREACHABLE: &[(&str, &[&str])] = &[
    ("wharf-engine", &["hyper", "axum", "reqwest"]),
    ("wharf-gateway", &["wharf-engine", "wharf-model", "wharf-kernels"]),
    ("wharf-kernels", &["tokio", "serde"]),
];

/// Names that say nothing of what a file holds.
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "common", "misc", "manager"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary dependency, else "dev" or "build".
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

pub(crate) fn run() -> Result<()> {
    let metadata = metadata()?;
    let mut faults = Vec::new();
    arrows(&metadata, &mut faults);
    reach(&metadata, &mut faults);
    duplicate_versions(&metadata, &mut faults)?;
    for package in members(&metadata) {
        lint_tables(package, &mut faults)?;
        sources(package, &mut faults)?;
    }
    if faults.is_empty() {
        println!("tidy: {} rooms, no fault", metadata.workspace_members.len());
        return Ok(());
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    bail!("{} faults", faults.len())
}

fn metadata() -> Result<Metadata> {
    let output = tools::cargo()
        .args(["metadata", "--format-version=1", "--locked", "--all-features"])
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata's answer")
}

fn members(metadata: &Metadata) -> impl Iterator<Item = &Package> {
    metadata.packages.iter().filter(|package| metadata.workspace_members.contains(&package.id))
}

/// Direct dependencies between rooms go only the way of the arrows. Tests may look further.
fn arrows(metadata: &Metadata, faults: &mut Vec<String>) {
    let rooms: BTreeSet<&str> = members(metadata).map(|package| package.name.as_str()).collect();
    for package in members(metadata) {
        let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| *room == package.name) else {
            faults.push(format!("{}: not among the rooms of ARCHITECTURE.md", package.name));
            continue;
        };
        let wrong = package.dependencies.iter().filter(|dependency| {
            dependency.kind.as_deref() != Some("dev")
                && rooms.contains(dependency.name.as_str())
                && !allowed.contains(&dependency.name.as_str())
        });
        faults.extend(wrong.map(|d| format!("{} must not depend on {}", package.name, d.name)));
    }
}

/// Nothing that a room must not link is reached through others.
fn reach(metadata: &Metadata, faults: &mut Vec<String>) {
    for (room, forbidden) in UNREACHABLE {
        let linked = linked_by(metadata, |package| package.name == *room);
        let wrong = forbidden.iter().filter(|name| linked.contains_key(**name));
        faults.extend(wrong.map(|name| format!("{room} must not link {name}")));
    }
}

/// What the chosen rooms link or build with, however indirectly: names and their versions.
fn linked_by(
    metadata: &Metadata,
    chosen: impl Fn(&Package) -> bool,
) -> BTreeMap<&str, BTreeSet<&str>> {
    let packages: HashMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let nodes: HashMap<&str, &Node> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut open: Vec<&str> =
        members(metadata).filter(|package| chosen(package)).map(|p| p.id.as_str()).collect();
    let mut seen = BTreeSet::new();
    let mut linked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    while let Some(id) = open.pop() {
        let (Some(node), Some(package)) = (nodes.get(id), packages.get(id)) else { continue };
        if !seen.insert(id) {
            continue;
        }
        linked.entry(&package.name).or_default().insert(&package.version);
        let is_dev = |kind: &DependencyKind| kind.kind.as_deref() == Some("dev");
        let kept = node.deps.iter().filter(|dependency| !dependency.dep_kinds.iter().all(is_dev));
        open.extend(kept.map(|dependency| dependency.pkg.as_str()));
    }
    linked
}

/// One version of each crate, but for those that deny.toml explains. Tests may bring more.
fn duplicate_versions(metadata: &Metadata, faults: &mut Vec<String>) -> Result<()> {
    let deny: toml::Table = fs::read_to_string(tools::root().join("deny.toml"))?.parse()?;
    let explained: BTreeSet<&str> = deny
        .get("bans")
        .and_then(|bans| bans.get("skip"))
        .and_then(toml::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|skip| skip.get("crate").and_then(toml::Value::as_str))
        .collect();
    for (name, versions) in linked_by(metadata, |_| true) {
        // Bindings to systems that we don't build for stand in the lock file alone.
        let foreign = name.starts_with("windows") || name.starts_with("wasi") || name == "r-efi";
        if versions.len() > 1 && !foreign && !explained.contains(name) {
            let versions: Vec<_> = versions.into_iter().collect();
            faults.push(format!("{name}: {} (explain it in deny.toml)", versions.join(" and ")));
        }
    }
    Ok(())
}

/// Every room takes the workspace's lints; the two with unsafe code have a table of their own.
fn lint_tables(package: &Package, faults: &mut Vec<String>) -> Result<()> {
    if ["wharf-kernels", "wharf-model"].contains(&package.name.as_str()) {
        return Ok(());
    }
    let manifest: toml::Table = fs::read_to_string(&package.manifest_path)?.parse()?;
    let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    if inherits != Some(&toml::Value::Boolean(true)) {
        faults.push(format!("{}: `[lints] workspace = true` is missing", package.name));
    }
    Ok(())
}

fn sources(package: &Package, faults: &mut Vec<String>) -> Result<()> {
    let Some(dir) = package.manifest_path.parent() else { return Ok(()) };
    let mut open = vec![dir.join("src")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path)?.filter_map(|entry| Some(entry.ok()?.path())));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            source(package, &path, faults)?;
        }
    }
    Ok(())
}

fn source(package: &Package, path: &Path, faults: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let shown = path.strip_prefix(tools::root()).unwrap_or(path).display();
    if !text.starts_with("//!") {
        faults.push(format!("{shown}: opens without a word on what it is (`//! …`)"));
    }
    if path.file_stem().is_some_and(|stem| EMPTY_NAMES.iter().any(|empty| stem == *empty)) {
        faults.push(format!("{shown}: a name that says nothing"));
    }
    let may_be_unsafe = package.name == "wharf-kernels"
        || package.name == "wharf-model" && path.ends_with("src/mmap.rs");
    let allows = text.contains(concat!("allow(", "unsafe_code)"));
    if allows && !may_be_unsafe {
        faults.push(format!("{shown}: unsafe code belongs in kernels or in model's mmap.rs"));
    }
    Ok(())
}
