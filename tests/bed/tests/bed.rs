//! The bed itself: each part does what the tests of the project rely on.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::{Duration, Instant};

use durable_bed::azurite::Azurite;
use durable_bed::control_plane::{ControlPlane, install_tls_provider};
use durable_bed::guard::{Process, Signal};
use durable_bed::proxy::Fault;
use durable_bed::{assets, binaries, workspace_root};
use durable_taskhub::storage::{Account, Options, Storage};

const LIMIT: Duration = Duration::from_secs(20);
const NO_ENVIRONMENT: [(&str, &str); 0] = [];

#[test]
fn programs_that_are_there_are_found_at_once() {
    assets::ensure().unwrap();
    let begun = Instant::now();
    assets::ensure().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[test]
fn a_control_plane_serves_users_by_their_rights_and_survives_a_restart() {
    let mut control_plane = ControlPlane::start(&assets::ensure().unwrap()).unwrap();
    control_plane.start_controllers().unwrap();
    let object = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "value"}}"#;
    let answer = control_plane.kubectl_with_input(&["apply", "--filename=-"], object).unwrap();
    assert_eq!(answer.output, "configmap/a created\n", "{answer:?}");

    let reader = control_plane.kubeconfig_for("reader", &["readers"]).unwrap();
    let as_reader = || control_plane.kubectl(&["--kubeconfig", reader.to_str().unwrap(), "get", "configmaps"]).unwrap();
    assert!(as_reader().errors.contains("Forbidden"), "RBAC is on");
    control_plane.kubectl(&["create", "clusterrolebinding", "readers", "--clusterrole=view", "--group=readers"]).unwrap();
    let begun = Instant::now();
    while !as_reader().output.contains("kube-root-ca.crt") {
        assert!(begun.elapsed() < LIMIT, "the right does not come, or the controllers do not run: {:?}", as_reader());
    }

    control_plane.interrupt_api_server();
    assert!(!control_plane.kubectl(&["get", "configmap", "a"]).unwrap().success);
    control_plane.resume_api_server().unwrap();
    let answer = control_plane.kubectl(&["get", "configmap", "a", "--output=jsonpath={.data.key}"]).unwrap();
    assert_eq!(answer.output, "value", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_records_what_passes_and_breaks_what_it_shall() {
    install_tls_provider();
    let mut azurite = Azurite::start(&assets::ensure().unwrap()).unwrap();
    let proxy = azurite.proxy().unwrap();
    let options = Options { max_retries: 0, ..Options::default() };
    let storage = Storage::new(Account::from_connection_string(&proxy.connection_string()).unwrap(), options).unwrap();
    let queue = storage.queue("proxied");
    assert!(queue.create_if_missing().await.unwrap(), "the signature passes untouched");
    queue.put("text", Duration::ZERO).await.unwrap();
    let requests = proxy.requests();
    let seen: Vec<_> = requests.iter().map(|request| (request.method.as_str(), request.path.as_str(), request.status)).collect();
    assert_eq!(seen, [("PUT", "/devstoreaccount1/proxied", Some(201)), ("POST", "/devstoreaccount1/proxied/messages", Some(201))]);
    assert!(requests[1].query.contains("messagettl=-1") && requests[1].is_write());

    proxy.clear();
    let mut faults =
        [Fault::Answer(503, "ServerBusy"), Fault::CutBefore, Fault::CutAfter, Fault::Delay(Duration::from_millis(100))].into_iter();
    proxy.rule(move |_| faults.next().unwrap_or(Fault::Pass));
    assert!(queue.put("answered", Duration::ZERO).await.unwrap_err().is_throttled());
    queue.put("cut before", Duration::ZERO).await.unwrap_err();
    queue.put("cut after", Duration::ZERO).await.unwrap_err();
    let begun = Instant::now();
    queue.put("delayed", Duration::ZERO).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(100));
    let texts: Vec<String> = queue.peek(32).await.unwrap().into_iter().map(|message| message.text).collect();
    assert_eq!(texts, ["text", "cut after", "delayed"], "what was cut before or answered by the proxy has not arrived");

    azurite.interrupt();
    queue.put("nobody", Duration::ZERO).await.unwrap_err();
    azurite.resume().unwrap();
    assert_eq!(queue.peek(32).await.unwrap().len(), 3, "the data are still there");
}

#[test]
fn the_end_of_a_process_is_seen_as_it_was() {
    let folder = workspace_root().join("target/bed/ends");
    std::fs::create_dir_all(&folder).unwrap();
    let shell = |name: &str, script: &str| Process::start(name, &folder, Path::new("/bin/sh"), ["-c", script], NO_ENVIRONMENT).unwrap();
    assert_eq!(shell("code", "exit 3").wait(LIMIT).unwrap().code(), Some(3));
    assert_eq!(shell("abort", "kill -ABRT $$").wait(LIMIT).unwrap().code(), Some(134));
    let mut sleeper = shell("sleeper", "exec sleep 60");
    sleeper.signal(Signal::Kill);
    assert_eq!(sleeper.wait(LIMIT).unwrap().code(), Some(137));
    let mut early = shell("early", "echo no such flag; exit 2");
    let error = early.until(LIMIT, || false).unwrap_err().to_string();
    assert!(error.contains("exit status: 2") && error.contains("no such flag"), "{error}");
}

#[test]
fn a_killed_process_leaves_no_server() {
    assets::ensure().unwrap();
    let folder = workspace_root().join("target/bed/killed");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    let mut up = Process::start("up", &folder, Path::new(env!("CARGO_BIN_EXE_bed")), ["up"], NO_ENVIRONMENT).unwrap();
    let log = up.log().to_owned();
    up.until(Duration::from_secs(90), || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("STORAGE"))).unwrap();
    let owner = up.pid();
    let servers: Vec<u32> = std::fs::read_dir(workspace_root().join("target/bed"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{owner}-")))
        .flat_map(|folder| std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()))
        .filter(|file| file.extension().is_some_and(|extension| extension == "pid"))
        .map(|file| std::fs::read_to_string(file).unwrap().trim().parse().unwrap())
        .collect();
    assert_eq!(servers.len(), 3, "etcd, API server, emulator");
    assert!(servers.iter().all(|server| runs(*server)));
    up.signal(Signal::Kill);
    let begun = Instant::now();
    while servers.iter().any(|server| runs(*server)) {
        assert!(begun.elapsed() < LIMIT, "some of {servers:?} still run");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A zombie does not run: its parent may come late, or never in a container without an init process.
fn runs(process: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{process}/stat")).ok();
    state.and_then(|text| text.rsplit(')').next().map(|rest| !rest.trim_start().starts_with('Z'))).unwrap_or(false)
}

#[test]
fn the_operator_with_crash_points_is_a_program_of_its_own() {
    let plain = binaries::operator().unwrap();
    let crashing = binaries::operator_with_crash_points().unwrap();
    assert_ne!(plain, crashing);
    assert!(plain.is_file() && crashing.is_file());
}
