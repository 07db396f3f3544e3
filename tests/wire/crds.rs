//! The CRDs in `crds/` are those of the Rust types.

use durable_operator::api::{GROUP, v1alpha1};

#[test]
fn the_committed_crds_are_the_generated_ones() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = v1alpha1::crd_files().unwrap();
    for (path, text) in &files {
        let committed = std::fs::read_to_string(root.join(path)).unwrap_or_default();
        assert!(committed == *text, "{path} is not what the types say: run `cargo crds` and commit the result");
    }
    let committed = std::fs::read_dir(root.join("crds")).unwrap().count();
    assert_eq!(committed, files.len(), "crds/ holds files of no kind");
}

#[test]
fn every_kind_is_of_the_group_namespaced_and_in_the_category() {
    for crd in v1alpha1::crds() {
        assert_eq!((crd.spec.group.as_str(), crd.spec.scope.as_str()), (GROUP, "Namespaced"));
        assert_eq!(crd.spec.names.categories.unwrap(), ["durable"]);
        assert!(crd.spec.versions.iter().all(|version| version.subresources.as_ref().is_some_and(|s| s.status.is_some())));
    }
}

/// `kubectl explain` is documentation: a field without a text is a hole in it.
#[test]
fn every_field_has_a_text_for_kubectl_explain() {
    fn holes(schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].as_str().is_none_or(str::is_empty) {
                found.push(path.clone());
            }
            holes(field, &path, found);
            holes(&field["items"], &path, found);
        }
    }
    for crd in v1alpha1::crds() {
        let mut found = Vec::new();
        for version in serde_json::to_value(&crd.spec.versions).unwrap().as_array().unwrap() {
            holes(&version["schema"]["openAPIV3Schema"], &crd.spec.names.kind, &mut found);
        }
        assert!(found.is_empty(), "no description: {found:?}");
    }
}
