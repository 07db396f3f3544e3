//! Who may import whom. A dependency that is not listed here is a decision, not a detail: add it with a reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Module of `src/`, and the modules of ours that it may import.
const ALLOWED: [(&str, &[&str]); 18] = [
    ("api", &[]),
    ("changes", &[]),
    ("crash_points", &[]),
    ("shutdown", &[]),
    ("metrics", &[]),
    // What is exported is counted.
    ("traces", &["metrics"]),
    // Traces stand beside the log.
    ("telemetry", &["traces"]),
    ("refusal", &[]),
    ("config", &["telemetry"]),
    // The log filter is changed there.
    ("admin", &["metrics", "shutdown", "telemetry"]),
    ("lease", &["metrics", "refusal"]),
    // The allow-list of endpoints is configuration.
    ("connection", &["api", "config"]),
    // Who may use a hub is said by its spec.
    ("hubs", &["api", "changes", "connection", "metrics"]),
    ("workload_identity", &["api"]),
    ("poller", &["changes", "crash_points", "hubs", "metrics"]),
    // The gate of a first list is the admin server's; the rest is what a reconcile needs.
    (
        "controllers",
        &[
            "admin",
            "api",
            "config",
            "connection",
            "crash_points",
            "hubs",
            "lease",
            "metrics",
            "poller",
            "refusal",
            "shutdown",
            // What the start message says of the trace.
            "traces",
            "workload_identity",
        ],
    ),
    (
        "operator",
        &[
            "admin",
            "api",
            "config",
            "controllers",
            "hubs",
            "lease",
            "metrics",
            "poller",
            "refusal",
            "shutdown",
            "telemetry",
            "traces",
            "workload_identity",
        ],
    ),
    // The modules of `src/controllers/` may import each other, but the pure ones do no IO: see below.
    ("lib", &[]),
];

/// Files that decide, and what they may not name: anything that waits, asks a server or reads a clock.
const PURE: [&str; 19] = [
    "controllers/orchestration/decide.rs",
    "controllers/orchestration/describe.rs",
    "controllers/orchestration/identity.rs",
    "controllers/orchestration/notice.rs",
    "controllers/orchestration/says.rs",
    "controllers/orchestration/schedule.rs",
    "controllers/orchestration/teardown.rs",
    "controllers/orchestration_event/decide.rs",
    "controllers/orchestration_event/describe.rs",
    "controllers/orchestration_event/target.rs",
    "controllers/task_hub/describe.rs",
    "hubs/limiter/turns.rs",
    "lease/record.rs",
    "poller/pool.rs",
    "poller/scan.rs",
    "poller/schedule.rs",
    "api/conditions.rs",
    "hubs/access.rs",
    "hubs/tally.rs",
];

#[test]
fn modules_import_only_what_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources("src") {
        let Some(module) = module_of(&file) else { continue };
        let may = allowed.get(module.as_str()).unwrap_or_else(|| panic!("{module} is not listed: say what it may import"));
        for imported in imports(&text) {
            if imported != module && !may.contains(&imported.as_str()) {
                wrong.push(format!("{}: {module} imports {imported}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_decides_does_no_io_and_reads_no_clock() {
    for file in PURE {
        let text = std::fs::read_to_string(root().join("src").join(file)).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for forbidden in
            ["async ", ".await", "Time::now()", "Instant::now()", "SystemTime", "Timestamp::now()", "kube::Client", "std::fs", "std::env"]
        {
            assert!(!code.contains(forbidden), "{file} has {forbidden}");
        }
    }
}

#[test]
fn the_client_library_knows_no_kubernetes_and_its_storage_no_hubs() {
    for (file, text) in sources("crates/taskhub/src") {
        let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let of_tests = file.ends_with("tests.rs");
        for forbidden in ["kube::", "k8s_openapi", "durable_operator"] {
            assert!(of_tests || !code.contains(forbidden), "{} has {forbidden}", file.display());
        }
        if file.components().any(|part| part.as_os_str() == "storage") {
            for imported in imports(&text) {
                assert!(["storage", "time", "Time"].contains(&imported.as_str()), "{} imports {imported}", file.display());
            }
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    assert!(!found.is_empty());
    found.into_iter().map(|path| (path.strip_prefix(root()).unwrap().to_owned(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// `hubs` of `src/hubs/secrets.rs` and of `src/hubs.rs`; none for programs.
fn module_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix("src").unwrap();
    let first = below.iter().next().unwrap().to_str().unwrap();
    let module = first.trim_end_matches(".rs");
    (!["bin", "main"].contains(&module)).then(|| module.to_owned())
}

/// The first words behind `crate::`, wherever it stands but in comments.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .flat_map(|rest| {
            let grouped = rest.strip_prefix('{').map(|group| group.split('}').next().unwrap_or_default().split(',').collect::<Vec<_>>());
            grouped.unwrap_or_else(|| vec![rest])
        })
        .map(|path| path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty())
        .collect()
}
