//! What every integration test stands on: one API server and one storage emulator per test process, and a world of its
//! own for each test: a namespace, a hub, an operator process that watches that namespace only.

pub mod gate;
pub mod growth;
pub mod probe;
pub mod rights;
pub mod runs;
mod world;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use durable_bed::assets;
use durable_bed::azurite::Azurite;
use durable_bed::control_plane::ControlPlane;

pub use world::{Launcher, OperatorProcess, Server, World};

/// How long anything may take that takes a second on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The servers that all tests of this process share.
pub struct Bed {
    pub control_plane: ControlPlane,
    pub azurite: &'static Azurite,
}

/// The bed; started by whoever asks first, with the CRDs of `crds/` established.
pub fn bed() -> &'static Bed {
    static BED: OnceLock<Bed> = OnceLock::new();
    BED.get_or_init(|| {
        let assets = assets::ensure().unwrap();
        let control_plane = ControlPlane::start_audited(&assets, &rights::new_audit_log()).unwrap();
        let azurite = Azurite::of_process().unwrap();
        install(&control_plane);
        Bed { control_plane, azurite }
    })
}

/// Applies the files of `crds/`, waits until they are established, and gives the operator its rights.
pub fn install(control_plane: &ControlPlane) {
    for arguments in [&["apply", "--filename=crds/"][..], &["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]] {
        let answer = control_plane.kubectl(arguments).unwrap();
        assert!(answer.success, "{answer:?}");
    }
    rights::install(control_plane);
}

/// Asks `look` again and again until it has an answer.
///
/// # Panics
/// With `what` and the last `Err`, if that takes longer than [`PATIENCE`].
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<T, String>) -> T {
    eventually_within(PATIENCE, what, look).await
}

/// [`eventually`], with a limit of its own.
pub async fn eventually_within<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(instead) if begun.elapsed() > limit => panic!("{what}: not within {limit:?}; last seen: {instead}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
