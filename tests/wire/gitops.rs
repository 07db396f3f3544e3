//! What kstatus, Argo CD and Flux say of each fixture, by their own code: see `tests/bed/gitops`.
//!
//! The fixtures are objects that the operator wrote (`tests/it/gitops/fixtures.rs`). Invariant: the three never differ on whether
//! an object is done, under way or failed. With `UPDATE_EXPECTED=1` the files `health_test.yaml`, which Argo CD's own test reads,
//! and `argocd-cm.yaml` are written instead of compared; the verdicts of the table below are compared all the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use durable_bed::assets;
use serde::Deserialize;
use serde_json::{Value, json};

const KINDS: [&str; 3] = ["Orchestration", "OrchestrationEvent", "TaskHub"];

/// Fixture, then what kstatus, Argo CD and Flux say of it.
const ORCHESTRATIONS: &[[&str; 4]] = &[
    ["degraded_already_terminated", "Failed", "Degraded", "Failed"],
    ["degraded_conflict", "Failed", "Degraded", "Failed"],
    ["degraded_deadline_exceeded", "Failed", "Degraded", "Failed"],
    ["degraded_failed", "Failed", "Degraded", "Failed"],
    ["degraded_input_invalid", "Failed", "Degraded", "Failed"],
    ["degraded_instance_missing", "Failed", "Degraded", "Failed"],
    ["degraded_rewind_rejected", "Failed", "Degraded", "Failed"],
    ["degraded_terminated_by_other", "Failed", "Degraded", "Failed"],
    ["healthy_completed", "Current", "Healthy", "Current"],
    ["healthy_never_started", "Current", "Healthy", "Current"],
    ["healthy_started", "Current", "Healthy", "Current"],
    ["healthy_terminated", "Current", "Healthy", "Current"],
    ["progressing_deleting", "Terminating", "Progressing", "InProgress"],
    ["progressing_enqueued", "InProgress", "Progressing", "InProgress"],
    ["progressing_input_not_found", "InProgress", "Progressing", "InProgress"],
    ["progressing_instance_not_found", "InProgress", "Progressing", "InProgress"],
    ["progressing_new_generation", "InProgress", "Progressing", "InProgress"],
    ["progressing_no_active_workers", "InProgress", "Progressing", "InProgress"],
    ["progressing_not_created", "InProgress", "Progressing", "InProgress"],
    ["progressing_running", "InProgress", "Progressing", "InProgress"],
    ["progressing_suspended_by_other", "InProgress", "Progressing", "InProgress"],
    ["progressing_task_hub_not_found", "InProgress", "Progressing", "InProgress"],
    ["progressing_task_hub_not_ready", "InProgress", "Progressing", "InProgress"],
    ["progressing_unseen", "InProgress", "Progressing", "InProgress"],
    ["progressing_waiting_for_start_at", "InProgress", "Progressing", "InProgress"],
    ["suspended_suspended", "Current", "Suspended", "Current"],
];

const EVENTS: &[[&str; 4]] = &[
    ["degraded_expired", "Failed", "Degraded", "Failed"],
    ["degraded_instance_finished", "Failed", "Degraded", "Failed"],
    ["degraded_payload_invalid", "Failed", "Degraded", "Failed"],
    ["healthy_sent", "Current", "Healthy", "Current"],
    ["progressing_instance_not_found", "InProgress", "Progressing", "InProgress"],
    ["progressing_unseen", "InProgress", "Progressing", "InProgress"],
    ["progressing_waiting_for_start", "InProgress", "Progressing", "InProgress"],
];

const TASK_HUBS: &[[&str; 4]] = &[
    ["degraded_invalid_connection_string", "Failed", "Degraded", "Failed"],
    ["healthy_connected", "Current", "Healthy", "Current"],
    ["healthy_no_workers", "Current", "Healthy", "Current"],
    ["progressing_deleting", "Terminating", "Progressing", "InProgress"],
    ["progressing_hub_not_found", "InProgress", "Progressing", "InProgress"],
    ["progressing_secret_not_found", "InProgress", "Progressing", "InProgress"],
    ["progressing_unseen", "InProgress", "Progressing", "InProgress"],
];

#[derive(Deserialize, Debug)]
struct Verdict {
    status: String,
    #[serde(default)]
    message: String,
}

/// What each tool says of an object.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Verdicts {
    kstatus: Verdict,
    #[serde(rename = "argoCD")]
    argo_cd: Verdict,
    flux: Verdict,
    flux_default: Verdict,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder_of(kind: &str) -> PathBuf {
    root().join("gitops/argocd/durable-operator.dev").join(kind)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The verdicts on these files.
fn judge(files: &[PathBuf]) -> BTreeMap<PathBuf, Verdicts> {
    let program = assets::go_program("gitops", "gitops", ".").unwrap();
    let output = Command::new(program)
        .arg(root().join("gitops/argocd"))
        .arg(root().join("gitops/flux/kustomization.yaml"))
        .args(files)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Compares, or writes if it is asked to.
fn is_committed(path: &Path, text: &str) {
    if std::env::var_os("UPDATE_EXPECTED").is_some_and(|value| value == "1") {
        std::fs::write(path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, committed, "{} has drifted; if that is wanted, write it anew with UPDATE_EXPECTED=1", path.display());
}

#[test]
fn kstatus_argo_cd_and_flux_agree_on_every_fixture() {
    for (kind, table) in KINDS.into_iter().zip([ORCHESTRATIONS, EVENTS, TASK_HUBS]) {
        let testdata = folder_of(kind).join("testdata");
        let there: BTreeSet<String> =
            std::fs::read_dir(&testdata).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let listed: BTreeSet<String> = table.iter().map(|[name, ..]| format!("{name}.yaml")).collect();
        assert_eq!(there, listed, "the fixtures of {kind}, and the table");

        let files: Vec<PathBuf> = listed.iter().map(|name| testdata.join(name)).collect();
        let judged = judge(&files);
        let mut tests = Vec::new();
        for &[name, kstatus, argo_cd, flux] in table {
            let found = &judged[&testdata.join(format!("{name}.yaml"))];
            let said = [&found.kstatus, &found.argo_cd, &found.flux].map(|verdict| verdict.status.as_str());
            assert_eq!(said, [kstatus, argo_cd, flux], "{kind} {name}: {found:?}");
            assert_eq!(found.flux_default.status, kstatus, "{kind} {name}: Flux without healthCheckExprs");
            let alike = [
                ["Failed", "Degraded", "Failed"],
                ["Current", "Healthy", "Current"],
                ["Current", "Suspended", "Current"],
                ["InProgress", "Progressing", "InProgress"],
                ["Terminating", "Progressing", "InProgress"],
            ];
            assert!(alike.contains(&said), "{kind} {name}: the tools differ: {said:?}");
            assert!(name.starts_with(&argo_cd.to_lowercase()), "{name} is named after what Argo CD says");
            assert!(!found.argo_cd.message.is_empty(), "{kind} {name}");
            let health = json!({"status": argo_cd, "message": found.argo_cd.message});
            tests.push(json!({"healthStatus": health, "inputPath": format!("testdata/{name}.yaml")}));
        }
        is_committed(&folder_of(kind).join("health_test.yaml"), &serde_saphyr::to_string(&json!({"tests": tests})).unwrap());
    }
}

/// Each message of a health check is of the object's own conditions, so that Argo CD shows what to do.
#[test]
fn what_argo_cd_shows_is_what_the_conditions_say() {
    let mut seen = 0;
    for kind in KINDS {
        let tests: Value = serde_saphyr::from_str(&read(&folder_of(kind).join("health_test.yaml"))).unwrap();
        for test in tests["tests"].as_array().unwrap() {
            let fixture: Value = serde_saphyr::from_str(&read(&folder_of(kind).join(test["inputPath"].as_str().unwrap()))).unwrap();
            let message = test["healthStatus"]["message"].as_str().unwrap();
            let conditions = fixture["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_newest = fixture["status"]["observedGeneration"] == fixture["metadata"]["generation"];
            if let Some(ready) = conditions.iter().find(|condition| condition["type"] == "Ready" && is_newest) {
                seen += 1;
                let said = format!("{}: {}", ready["reason"].as_str().unwrap(), ready["message"].as_str().unwrap());
                assert!(message.ends_with(&said), "{kind} {}: {message}", test["inputPath"]);
            }
        }
    }
    assert!(seen >= 30, "only {seen} fixtures have conditions");
}

/// Why the CRDs give the status a default.
#[test]
fn an_object_without_a_status_would_pass_for_done() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for kind in KINDS {
        let unseen: Value = serde_saphyr::from_str(&read(&folder_of(kind).join("testdata/progressing_unseen.yaml"))).unwrap();
        let mut bare = unseen.clone();
        bare.as_object_mut().unwrap().remove("status");
        let file = folder.join(format!("without-status-{kind}.yaml"));
        std::fs::write(&file, bare.to_string()).unwrap();
        let found = judge(std::slice::from_ref(&file)).remove(&file).unwrap();
        assert_eq!([&found.kstatus.status, &found.flux_default.status], ["Current", "Current"], "{kind}: the default is needed no more");
        assert_eq!(found.argo_cd.status, "Progressing", "{kind}");
    }
    for crd in durable_operator::api::v1alpha1::crds() {
        for version in serde_json::to_value(&crd.spec.versions).unwrap().as_array().unwrap() {
            let default = &version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"];
            assert_eq!(default, &json!({"observedGeneration": -1}), "{}", crd.spec.names.kind);
        }
    }
}

#[test]
fn the_config_map_of_argo_cd_holds_the_scripts() {
    let mut text = "# Health checks of the kinds for Argo CD: the texts of durable-operator.dev/*/health.lua, as a patch of its ConfigMap argocd-cm.\ndata:\n"
        .to_owned();
    for kind in KINDS {
        text += &format!("  resource.customizations.health.durable-operator.dev_{kind}: |\n");
        for line in read(&folder_of(kind).join("health.lua")).lines() {
            text += if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") }.as_str();
        }
    }
    let path = root().join("gitops/argocd/argocd-cm.yaml");
    is_committed(&path, &text);
    let parsed: Value = serde_saphyr::from_str(&read(&path)).unwrap();
    for kind in KINDS {
        let script = &parsed["data"][format!("resource.customizations.health.durable-operator.dev_{kind}")];
        assert_eq!(script.as_str(), Some(read(&folder_of(kind).join("health.lua")).as_str()), "{kind}");
    }
}
