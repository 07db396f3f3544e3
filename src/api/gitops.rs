//! The marks of GitOps tools on objects: who would create an object again that is deleted here.
//!
//! Names only; the tools themselves are unknown to us.

use kube::api::ObjectMeta;

const ARGO_CD_TRACKING: &str = "argocd.argoproj.io/tracking-id";
const ARGO_CD_HOOK: &str = "argocd.argoproj.io/hook";
const FLUX_KUSTOMIZE: &str = "kustomize.toolkit.fluxcd.io/name";
const FLUX_HELM: &str = "helm.toolkit.fluxcd.io/name";

/// The annotations that are looked at.
pub const ANNOTATIONS: [&str; 2] = [ARGO_CD_TRACKING, ARGO_CD_HOOK];

/// The labels that are looked at.
pub const LABELS: [&str; 2] = [FLUX_KUSTOMIZE, FLUX_HELM];

/// The tool that keeps the object in existence, if one does. A hook of Argo CD is made anew at each sync anyway.
pub fn kept_by(meta: &ObjectMeta) -> Option<&'static str> {
    let annotation = |name: &str| meta.annotations.as_ref().is_some_and(|all| all.contains_key(name));
    let label = |name: &str| meta.labels.as_ref().is_some_and(|all| all.contains_key(name));
    if annotation(ARGO_CD_TRACKING) && !annotation(ARGO_CD_HOOK) {
        return Some("Argo CD");
    }
    (label(FLUX_KUSTOMIZE) || label(FLUX_HELM)).then_some("Flux")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn who_would_create_an_object_again() {
        let meta = |annotations: &[&str], labels: &[&str]| {
            let map = |names: &[&str]| Some(names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect::<BTreeMap<_, _>>());
            ObjectMeta { annotations: map(annotations), labels: map(labels), ..ObjectMeta::default() }
        };
        assert_eq!(kept_by(&meta(&[ARGO_CD_TRACKING], &[])), Some("Argo CD"));
        assert_eq!(kept_by(&meta(&[ARGO_CD_TRACKING, ARGO_CD_HOOK], &[])), None);
        assert_eq!(kept_by(&meta(&[], &[FLUX_KUSTOMIZE])), Some("Flux"));
        assert_eq!(kept_by(&meta(&[], &[FLUX_HELM])), Some("Flux"));
        assert_eq!(kept_by(&meta(&["x"], &["y"])), None);
        assert_eq!(kept_by(&ObjectMeta::default()), None);
    }
}
