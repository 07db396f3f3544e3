//! Every recorded scenario that a worker takes part in, and those that it does not (`the_list_is_complete`).

use durable_bed::recording::Recording;

use crate::comparison::Order;
use crate::player::play;
use crate::support::{recording, recording_by};

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
