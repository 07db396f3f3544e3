//! Every recorded scenario of the extension's client and worker, but for those in [`NOT_PLAYED`].

use std::path::Path;

use durable_bed::recording::Recording;
use durable_taskhub::TaskHub;

use crate::comparison::Order;
use crate::player::{play, play_queued};
use crate::support::{PATIENCE, recording, recording_by};

/// Recordings that are not played here, each with the reason.
const NOT_PLAYED: &[(&str, &str)] = &[
    ("entity", "this worker runs no entities"),
    ("raise_event_payloads", "the client refuses all of its commands: no worker, and nothing in the hub"),
    ("terminate_pending", "a race of the engine, see `terminate_pending` below, which plays the other client's recording"),
    ("big_inputs_queued", "no worker took part: `large_inputs_of_all_sizes_reach_the_orchestrator` goes on where it ends"),
];

/// Played by the module `recorded`, also as the 1.x line writes and with our client.
const PLAYED_ELSEWHERE: &[&str] = &[
    "start_echo_array",
    "start_echo_date",
    "start_echo_null",
    "start_echo_number",
    "start_echo_object",
    "start_echo_string",
    "start_fail",
    "start_hello",
    "start_unknown_name",
    "timer",
];

/// Plays it; the number of equal snapshots, and what the recording has beyond them, must be as listed.
async fn conforms(recording: &Recording, order: Order, compared: usize, left: &[&str]) {
    let played = play(recording, order).await;
    assert_eq!((played.compared, played.left.iter().map(String::as_str).collect::<Vec<_>>()), (compared, left.to_vec()));
}

macro_rules! scenarios {
    ($($name:ident: $order:ident, $compared:literal snapshots, left $left:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                conforms(&recording(stringify!($name)), Order::$order, $compared, &$left).await;
            }
        )*

        const PLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

scenarios! {
    approval_timeout: Exact, 1 snapshots, left [];
    big_event: Exact, 3 snapshots, left [];
    big_input: Exact, 2 snapshots, left [];
    counter_continue_as_new: Exact, 2 snapshots, left [];
    duplicate_start: Exact, 4 snapshots, left [];
    instance_ids: Exact, 2 snapshots, left ["status"; 26];
    purge: Exact, 1 snapshots, left ["purge"; 3];
    purge_filter: Exact, 1 snapshots, left ["purgeFilter"];
    raise_event: Exact, 3 snapshots, left [];
    raise_event_before_start: Exact, 2 snapshots, left [];
    raise_event_missing_instance: Exact, 2 snapshots, left [];
    restart: Exact, 3 snapshots, left ["restart", "restart"];
    rewind_completed: Exact, 1 snapshots, left ["rewind", "rewind"];
    rewind_fail_once: Exact, 3 snapshots, left [];
    rewind_flaky: Exact, 3 snapshots, left [];
    rewind_parent_child: Exact, 3 snapshots, left [];
    start_big_output: Exact, 2 snapshots, left ["status"];
    start_cascade: Racing, 2 snapshots, left ["status"];
    start_chain: Exact, 2 snapshots, left ["status"];
    start_custom_status: Exact, 2 snapshots, left ["status"];
    start_fail_in_activity: Exact, 2 snapshots, left ["status"];
    start_fail_nested: Exact, 2 snapshots, left ["status"];
    start_fanout: Racing, 2 snapshots, left ["status"];
    suspend_pending: Exact, 3 snapshots, left [];
    suspend_resume: Exact, 6 snapshots, left [];
    terminate_parent: Exact, 2 snapshots, left [];
    terminate_running: Exact, 3 snapshots, left ["terminate"];
}

/// Start and terminate in one batch, as the framework's client wrote them. The extension's recording of the same commands
/// is an exception: there the engine took them up apart, the terminate saw no history while the instance ran to its end,
/// and the row says `Terminated` over a history that completed (engine-experiments.md 5.8). Nothing can bring that about
/// but the same race.
#[tokio::test]
async fn terminate_pending() {
    conforms(&recording_by("dtfx", "terminate_pending"), Order::Exact, 2, &[]).await;
}

/// Each of the recorded sizes, from 1 to 200 KiB, inline, as a blob of the row and as a blob of the message, comes back as
/// the output (engine-experiments.md 6.1, 6.2).
#[tokio::test]
async fn large_inputs_of_all_sizes_reach_the_orchestrator() {
    let recording = recording("big_inputs_queued");
    let hub = play_queued(&recording).await;
    let worker = hub.worker();
    let client = TaskHub::connect(hub.storage.clone(), hub.name.clone(), None).await.unwrap();
    for command in recording.commands("start") {
        let id = command["id"].as_str().unwrap();
        hub.wait_for(id, &["Completed"], PATIENCE).await;
        let instance = client.get(id).await.unwrap().unwrap();
        for payload in [&instance.input, &instance.output] {
            let text = client.fetch(payload.as_ref().unwrap(), 1 << 20).await.unwrap();
            let expected = command["input"].to_string();
            assert!(text == expected, "{id}: {} bytes", text.len());
        }
    }
    worker.stop().await;
}

/// No recording is forgotten.
#[test]
fn each_recording_is_played_or_listed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hub");
    let mut recorded: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_prefix("ext__durable__")?.strip_suffix(".json.gz")?.to_owned()))
        .collect();
    let mut listed = [PLAYED, PLAYED_ELSEWHERE].concat();
    listed.extend(NOT_PLAYED.iter().map(|(name, _)| *name));
    recorded.sort();
    listed.sort_unstable();
    assert_eq!(recorded, listed);
}

/// Tags and a version, which only the framework's client sends.
#[tokio::test]
async fn tags() {
    conforms(&recording_by("dtfx", "tags"), Order::Exact, 2, &[]).await;
}
