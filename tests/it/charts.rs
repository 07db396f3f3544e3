//! What the API server says of the charts: it accepts every rendering, and people get the rights that `docs/install.md` promises.
//!
//! What needs no server is in `tests/wire/charts.rs`; whether it all works is for `.ci/node` to show.

use std::ffi::OsStr;

use durable_bed::assets;
use durable_bed::charts::rendered;
use durable_bed::control_plane::ControlPlane;
use serde_json::{Value, json};

use crate::support::{Server, World, bed, eventually, install};

const OPERATOR: &str = "charts/durable-operator";

fn list(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Kinds that this API server does not have; their published types are what judges them.
fn is_foreign(object: &Value) -> bool {
    object["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com/")
}

/// On a control plane of its own, with the controllers that give a namespace its service account and gather roles.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rendering_is_accepted_and_people_get_their_rights() {
    let mut control_plane = ControlPlane::start(&assets::ensure().unwrap()).unwrap();
    install(&control_plane);
    control_plane.start_controllers().unwrap();
    let world = World::on("charts", Server::own(control_plane), Server::Shared(bed().azurite));
    every_rendering_is_accepted(&world).await;
    people_get_their_rights_from_the_clusters_own_roles(&world).await;
}

async fn every_rendering_is_accepted(world: &World) {
    const DRY_RUN: [&str; 6] = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-"];
    for namespace in ["shop", "billing"] {
        world.kubectl(&["create", "namespace", namespace]);
    }
    // A pod needs one, and it is made a moment after its namespace.
    eventually("the namespace has its service account", async || {
        let answer =
            world.control_plane.with(|plane| plane.kubectl(&["get", "serviceaccount", "default", "-n", &world.namespace])).unwrap();
        if answer.success { Ok(()) } else { Err(answer.errors) }
    })
    .await;
    let dry_run = |objects: &[Value]| world.control_plane.with(|plane| plane.kubectl_with_input(&DRY_RUN, &list(objects))).unwrap();
    let mut files = 0;
    for chart in [OPERATOR, "charts/durable-operator-crds"] {
        for file in std::fs::read_dir(durable_bed::workspace_root().join(chart).join("ci")).unwrap() {
            files += 1;
            let file = file.unwrap().path();
            let objects = rendered(OsStr::new(chart), &world.namespace, &[OsStr::new("--values"), file.as_os_str()]).unwrap();
            let ours: Vec<Value> = objects.into_iter().filter(|object| !is_foreign(object)).collect();
            let answer = dry_run(&ours);
            assert!(answer.success, "{}: {}", file.display(), answer.errors);
            assert_eq!(answer.output.lines().count(), ours.len(), "{}", answer.output);
        }
    }
    assert!(files >= 6, "{files} files of values");
    // It would have said so.
    let mut objects = rendered::<&str>(OsStr::new(OPERATOR), &world.namespace, &[]).unwrap();
    let deployment = objects.iter_mut().find(|object| object["kind"] == "Deployment").unwrap();
    deployment["spec"]["replica"] = json!(2);
    let answer = dry_run(&objects);
    assert!(!answer.success && answer.errors.contains("unknown field") && answer.errors.contains("replica"), "{answer:?}");
}

/// By the cluster's own roles, into which the controller of the API server gathers the chart's.
async fn people_get_their_rights_from_the_clusters_own_roles(world: &World) {
    let mut objects = rendered::<&str>(OsStr::new(OPERATOR), &world.namespace, &[]).unwrap();
    objects.retain(|object| {
        let labels = object["metadata"]["labels"].as_object().unwrap();
        labels.keys().any(|label| label.starts_with("rbac.authorization.k8s.io/aggregate-to-"))
    });
    assert_eq!(objects.len(), 3);
    for role in ["view", "edit", "admin"] {
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role, "namespace": world.namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("{role}er")}]
        }));
    }
    let answer = world.control_plane.with(|plane| plane.kubectl_with_input(&["apply", "--filename=-"], &list(&objects))).unwrap();
    assert!(answer.success, "{answer:?}");

    let may = |user: &str, verb: &str, resource: &str| {
        let (resource, part) = resource.split_once('/').unwrap_or((resource, ""));
        let part = format!("--subresource={part}");
        let question = ["auth", "can-i", verb, resource, &part, "--as", user, "--namespace", &world.namespace];
        world.control_plane.with(|plane| plane.kubectl(&question)).unwrap().output.trim() == "yes"
    };
    const ORCHESTRATIONS: &str = "orchestrations.durable-operator.dev";
    const EVENTS: &str = "orchestrationevents.durable-operator.dev";
    const HUBS: &str = "taskhubs.durable-operator.dev";
    eventually("the roles are gathered", async || if may("adminer", "create", HUBS) { Ok(()) } else { Err("not yet".to_owned()) }).await;
    for (verb, resource, who) in [
        ("list", ORCHESTRATIONS, "view edit admin"),
        ("watch", EVENTS, "view edit admin"),
        ("get", HUBS, "view edit admin"),
        ("create", ORCHESTRATIONS, "edit admin"),
        ("patch", ORCHESTRATIONS, "edit admin"),
        ("delete", ORCHESTRATIONS, "edit admin"),
        ("create", EVENTS, "edit admin"),
        ("create", HUBS, "admin"),
        ("patch", HUBS, "admin"),
        ("delete", HUBS, "admin"),
        // What the operator says is nobody else's to say.
        ("update", "orchestrations.durable-operator.dev/status", ""),
        ("patch", "taskhubs.durable-operator.dev/status", ""),
    ] {
        let found: Vec<&str> = ["view", "edit", "admin"].into_iter().filter(|role| may(&format!("{role}er"), verb, resource)).collect();
        assert_eq!(found.join(" "), who, "{verb} {resource}");
    }
}
