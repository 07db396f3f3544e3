//! What `docs/gitops.md` shows is accepted: by an API server that has Argo CD's and Flux's own CRDs besides ours, unknown fields refused.

use std::path::Path;

use durable_bed::assets;
use serde_json::Value;

use crate::support::World;

/// Modules that hold the CRDs, with their hashes as `go.sum` has them, and the files.
const CRDS: [(&str, &str, &str, &str); 3] = [
    ("github.com/argoproj/argo-cd/v3", "v3.5.7", "h1:Xm1BF+I5OgDKUG3SDK49vn2/Y5AMyaNVko+/JT08gj0=", "manifests/crds/application-crd.yaml"),
    (
        "github.com/fluxcd/kustomize-controller",
        "v1.9.6",
        "h1:XB+G3A0mky0j5uVHZWv4oSlS2RvZBoNIUhstIvY0JKE=",
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
    (
        "github.com/fluxcd/source-controller",
        "v1.9.6",
        "h1:nG534/bI6nVpyHra7ONAk6xDB3xPsVT+EOLHZHXPrrc=",
        "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",
    ),
];

/// The YAML documents of the page.
fn shown() -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gitops.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    blocks.flat_map(|block| block.split("---\n").map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_shows_is_accepted_by_the_crds_of_the_tools() {
    let world = World::without_hub("gitops_page").await;
    for (module, version, sum, file) in CRDS {
        let crd = assets::go_module(module, version, sum).unwrap().join(file);
        // Too large for the annotation of a client-side apply.
        world.kubectl(&["apply", "--server-side", "--filename", &crd.to_string_lossy()]);
    }
    for crd in ["applications.argoproj.io", "kustomizations.kustomize.toolkit.fluxcd.io", "gitrepositories.source.toolkit.fluxcd.io"] {
        world.kubectl(&["wait", "--for=condition=Established", &format!("crd/{crd}"), "--timeout=60s"]);
    }
    let apply = |object: &Value| {
        let arguments = ["apply", "--server-side", "--validate=strict", "--namespace", &world.namespace, "--filename=-"];
        world.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object.to_string())).unwrap()
    };
    let mut kinds = Vec::new();
    for document in shown() {
        let mut object: Value = serde_saphyr::from_str(&document).unwrap();
        object["metadata"]["namespace"] = Value::from(world.namespace.as_str());
        let answer = apply(&object);
        assert!(answer.success, "{document}\n{answer:?}");
        kinds.push(object["kind"].as_str().unwrap().to_owned());
        // The same server refuses what it does not know.
        object["spec"]["unknown"] = Value::from(1);
        let refused = apply(&object);
        assert!(!refused.success && refused.errors.contains("unknown"), "{refused:?}");
    }
    assert_eq!(kinds, ["TaskHub", "Orchestration", "Application", "Orchestration", "GitRepository", "Kustomization"]);
}

#[test]
fn the_page_shows_the_files() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gitops.md")).unwrap();
    for file in ["argocd/application.yaml", "flux/kustomization.yaml"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("gitops").join(file)).unwrap();
        assert!(page.contains(&format!("\n{text}```\n")), "docs/gitops.md does not show gitops/{file} as it is");
    }
}
