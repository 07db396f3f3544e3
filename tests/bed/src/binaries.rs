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
    once(&BUILT, || build("--bin", "durable-worker", &[], None))
}

/// The operator.
///
/// # Errors
/// If it does not build.
pub fn operator() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&BUILT, || build("--bin", "durable-operator", &[], None))
}

/// The operator with optimisation, for figures.
///
/// # Errors
/// If it does not build.
pub fn operator_optimised() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&BUILT, || build("--bin", "durable-operator", &["--release"], None))
}

/// The sample worker with optimisation, so that it takes less of the machine from what is measured.
///
/// # Errors
/// If it does not build.
pub fn worker_optimised() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    once(&BUILT, || build("--bin", "durable-worker", &["--release"], None))
}

/// The operator with the feature `crash-points`: its own file, the same dependencies.
///
/// # Errors
/// If it does not build.
pub fn operator_with_crash_points() -> Result<PathBuf, BedError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let target = workspace_root().join("target/crash-points");
    once(&BUILT, || build("--bin", "durable-operator", &["--features", "durable-operator/crash-points"], Some(&target)))
}

/// An example of the task hub library.
///
/// # Errors
/// If there is none of that name, or it does not build.
pub fn example(name: &str) -> Result<PathBuf, BedError> {
    build("--example", name, &[], None)
}

fn once(built: &OnceLock<Result<PathBuf, String>>, build: impl FnOnce() -> Result<PathBuf, BedError>) -> Result<PathBuf, BedError> {
    built.get_or_init(|| build().map_err(|error| error.to_string())).clone().map_err(BedError::new)
}

fn build(kind: &str, name: &str, arguments: &[&str], target: Option<&Path>) -> Result<PathBuf, BedError> {
    let what = format!("building {name}");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace_root())
        .args(["build", "--quiet", kind, name, "--message-format=json-render-diagnostics"])
        .args(arguments);
    for variable in std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(is_of_the_running_program)) {
        command.env_remove(variable);
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
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_ours = message.pointer("/target/name")?.as_str()? == name;
        message.get("executable")?.as_str().filter(|_| is_ours).map(PathBuf::from)
    });
    programs.next_back().ok_or_else(|| BedError::new(format!("{what}: cargo named no program")))
}

/// True for what `cargo run` and `cargo test` tell a program about itself. The build script of `ring` asks to run again when one of
/// them changes: with them, each build from inside of a test or the demo would compile all that stands on it, and the next build at
/// the command line would do so again.
fn is_of_the_running_program(variable: &str) -> bool {
    const PREFIXES: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    const NAMES: [&str; 3] = ["CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    PREFIXES.iter().any(|prefix| variable.starts_with(prefix)) || NAMES.contains(&variable)
}
