//! The bed: real servers for tests and the demo.
//!
//! API server, etcd, controllers, storage emulator and the project's own
//! binaries, each as a process with free ports and a folder of its own. A part
//! that is missing is built or is an error, never skipped. Invariant: whatever
//! is started here ends with the process that started it, also if that one is
//! killed.

pub mod assets;
pub mod azurite;
pub mod binaries;
mod certificates;
pub mod charts;
pub mod control_plane;
pub mod folder;
pub mod guard;
pub mod proxy;
pub mod recording;

use std::path::PathBuf;

/// Why a part of the bed did not come up.
#[derive(Debug)]
pub struct BedError {
    what: String,
}

impl BedError {
    /// `what` went wrong, and what to do about it.
    pub fn new(what: impl Into<String>) -> BedError {
        BedError { what: what.into() }
    }
}

impl std::fmt::Display for BedError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for BedError {}

impl From<std::io::Error> for BedError {
    fn from(error: std::io::Error) -> BedError {
        BedError::new(error.to_string())
    }
}

/// Adds what was tried to an error.
pub(crate) fn during<T, E: std::fmt::Display>(what: impl std::fmt::Display, result: Result<T, E>) -> Result<T, BedError> {
    result.map_err(|error| BedError::new(format!("{what}: {error}")))
}

/// The repository's root.
pub fn workspace_root() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    root.pop();
    root
}

/// Runs `work` on a thread with a runtime of its own, so that it can be called from inside of another one.
pub(crate) fn blocking<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> Result<T, BedError> {
    std::thread::scope(|scope| {
        let handle = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok::<T, std::io::Error>(runtime.block_on(work()))
        });
        match handle.join() {
            Ok(result) => Ok(result?),
            Err(_) => Err(BedError::new("a thread of the bed panicked")),
        }
    })
}
