//! The charts, as helm renders them.
//!
//! Knows helm and the repository's `charts/`, and no test. Everything runs in the repository's root.

use std::ffi::OsStr;
use std::process::Command;

use serde_json::Value;

use crate::control_plane::Answer;
use crate::{BedError, assets, during, workspace_root};

/// Runs helm, which is built where it is not cached.
///
/// # Errors
/// If it cannot be had or run; what it says is in the answer.
pub fn helm<A: AsRef<OsStr>>(arguments: &[A]) -> Result<Answer, BedError> {
    let mut command = Command::new(assets::helm()?);
    command.args(arguments).current_dir(workspace_root());
    // What the user's own helm knows and caches is not looked at.
    let home = workspace_root().join("target/helm");
    for variable in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(variable, &home);
    }
    let output = during("running helm", command.output())?;
    Ok(Answer {
        success: output.status.success(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The objects of a release `durable-operator` in the namespace `namespace` of `chart`, a folder or an archive, with the `values`:
/// flags of `helm template`.
///
/// # Errors
/// What helm says.
pub fn rendered<A: AsRef<OsStr>>(chart: &OsStr, namespace: &str, values: &[A]) -> Result<Vec<Value>, BedError> {
    let mut arguments = ["template", "durable-operator", "--namespace", namespace].map(OsStr::new).to_vec();
    arguments.push(chart);
    arguments.extend(values.iter().map(AsRef::as_ref));
    let answer = helm(&arguments)?;
    if !answer.success {
        return Err(BedError::new(format!("helm {arguments:?}: {}", answer.errors)));
    }
    let documents = answer.output.split("\n---\n").map(|document| document.trim_start_matches("---\n"));
    let has_content = |document: &&str| document.lines().any(|line| !line.is_empty() && !line.starts_with('#'));
    documents.filter(has_content).map(|document| during("reading what helm rendered", serde_saphyr::from_str(document))).collect()
}
