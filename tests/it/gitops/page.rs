//! What `docs/gitops.md` shows is accepted: objects of ours by the API server, those of Argo CD and Flux by their published types.
//! Unknown fields are refused by both.

use std::path::Path;

use durable_bed::assets;
use serde_json::Value;

use crate::support::World;

/// The YAML documents of the page.
fn shown() -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gitops.md")).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    blocks.flat_map(|block| block.split("---\n").map(str::to_owned).collect::<Vec<_>>()).collect()
}

fn is_ours(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().starts_with("durable-operator.dev/")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_page_shows_is_accepted() {
    let world = World::without_hub("gitops_page").await;
    let check = |object: &Value| {
        if !is_ours(object) {
            return assets::check_published_types(std::slice::from_ref(object)).map_err(|error| error.to_string());
        }
        let arguments = ["apply", "--server-side", "--validate=strict", "--namespace", &world.namespace, "--filename=-"];
        let answer = world.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object.to_string())).unwrap();
        if answer.success { Ok(()) } else { Err(answer.errors) }
    };
    let mut kinds = Vec::new();
    for document in shown() {
        let mut object: Value = serde_saphyr::from_str(&document).unwrap();
        kinds.push(object["kind"].as_str().unwrap().to_owned());
        if is_ours(&object) {
            object["metadata"]["namespace"] = Value::from(world.namespace.as_str());
        }
        check(&object).unwrap_or_else(|error| panic!("{document}\n{error}"));
        // The same judge refuses what it does not know.
        object["spec"]["unknown"] = Value::from(1);
        let refused = check(&object).unwrap_err();
        assert!(refused.contains("unknown"), "{refused}");
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
