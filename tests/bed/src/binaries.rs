//! The project's own programs, as far as `cargo test` does not build them for the test that needs them.
//!
//! Built with the packages and features that `cargo test` selects (no `-p`), so
//! that no dependency is compiled a second time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{BedError, during, workspace_root};

/// The sample worker.
///
/// # Errors
/// If it does not build.
pub fn worker() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&BUILT, || build("durable-worker", &[], None))
}

/// The operator.
///
/// # Errors
/// If it does not build.
pub fn operator() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&BUILT, || build("durable-operator", &[], None))
}

/// The operator with the feature `crash-points`: its own file, the same dependencies.
///
/// # Errors
/// If it does not build.
pub fn operator_with_crash_points() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let target = workspace_root().join("target/crash-points");
    once(&BUILT, || build("durable-operator", &["--features", "durable-operator/crash-points"], Some(&target)))
}

/// How the variables begin that cargo sets for the package that it runs.
const OF_ONE_PACKAGE: [&str; 5] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_NAME", "CARGO_BIN_", "CARGO_PRIMARY_PACKAGE"];

fn once(built: &OnceLock<Result<PathBuf, String>>, build: impl FnOnce() -> Result<PathBuf, BedError>) -> Result<PathBuf, BedError> {
    built.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(BedError::new)
}

fn build(name: &str, arguments: &[&str], target: Option<&Path>) -> Result<PathBuf, BedError> {
    let what = format!("building {name}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace_root())
        .args(["build", "--quiet", "--bin", name, "--message-format=json-render-diagnostics"])
        .args(arguments);
    // What cargo says to the test about its own package would be news to build scripts that look at it (ring's does), and
    // each `cargo test` would compile what depends on them twice: for itself, and for the programs here.
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(|variable| OF_ONE_PACKAGE.iter().any(|prefix| variable.starts_with(prefix))) {
            command.env_remove(variable);
        }
    }
    if let Some(target) = target {
        // Only the finished program goes elsewhere; what it is made from stays in the shared folder.
        let shared = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace_root().join("target"), PathBuf::from);
        command.env("CARGO_BUILD_BUILD_DIR", shared).arg("--target-dir").arg(target);
    }
    let output = during(&what, command.stdin(Stdio::null()).stderr(Stdio::piped()).output())?;
    if !output.status.success() {
        return Err(BedError::new(format!("{what}: {}", String::from_utf8_lossy(&output.stderr))));
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours = message.pointer("/target/name")?.as_str()? == name;
        message.get("executable")?.as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    programs.last().ok_or_else(|| BedError::new(format!("{what}: cargo named no program")))
}
