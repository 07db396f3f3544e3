//! The folders that the servers run in: `target/bed/<process>-<number>`.
//!
//! They hold the servers' logs and stay after the run, for whoever looks into
//! a failure. The next run removes those of processes that are gone.

use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{BedError, during, workspace_root};

/// A new folder for `purpose`.
pub fn new(purpose: &str) -> Result<PathBuf, BedError> {
    static CLEAN_UP: Once = Once::new();
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let base = workspace_root().join("target/bed");
    CLEAN_UP.call_once(|| remove_left_overs(&base));
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = base.join(format!("{}-{number}-{purpose}", std::process::id()));
    during(format!("making the folder {}", folder.display()), std::fs::create_dir_all(&folder))?;
    Ok(folder)
}

/// Folders of processes that are gone. What cannot be removed stays: it is only in the way of the disk.
fn remove_left_overs(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.split('-').next()).and_then(|process| process.parse::<u32>().ok());
        if process.is_some_and(|process| !is_alive(process)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn is_alive(process: u32) -> bool {
    std::process::Command::new("sh").args(["-c", &format!("kill -0 {process} 2>/dev/null")]).status().is_ok_and(|status| status.success())
}
