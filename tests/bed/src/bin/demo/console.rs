//! `target/demo`: what a second terminal uses, and who may write there.
//!
//! Invariant: one demo at a time owns the folder; a kubectl of a demo that has
//! ended says so instead of showing a refused connection.

use std::fs::{File, TryLockError};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use durable_bed::{BedError, workspace_root};

/// The folder, held by this process.
pub struct Console {
    folder: PathBuf,
    _lock: File,
}

impl Console {
    /// Takes the folder.
    ///
    /// # Errors
    /// If another demo runs, or the folder cannot be written.
    pub fn take() -> Result<Console, BedError> {
        let folder = workspace_root().join("target/demo");
        std::fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(BedError::new("another demo runs in this folder: use it, or stop it with Ctrl-C first"));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        for log in ["operator.log", "worker.log"] {
            let _ = std::fs::remove_file(folder.join(log));
        }
        Ok(Console { folder, _lock: lock })
    }

    /// Where the logs of operator and worker go.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts `kubeconfig` there, and a kubectl that uses it.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn offer(&self, kubeconfig: &Path, kubectl: &Path) -> Result<(), BedError> {
        let ours = self.folder.join("kubeconfig");
        std::fs::copy(kubeconfig, &ours)?;
        // It holds a key of the cluster's administrator.
        std::fs::set_permissions(&ours, PermissionsExt::from_mode(0o600))?;
        let script = format!(
            "#!/bin/sh\n\
             # kubectl for the cluster of `cargo demo`, as long as it runs.\n\
             if ! kill -0 {process} 2>/dev/null; then echo 'the demo does not run: start it with cargo demo' >&2; exit 1; fi\n\
             KUBECONFIG={kubeconfig} KUBECACHEDIR={cache} exec {kubectl} \"$@\"\n",
            process = std::process::id(),
            kubeconfig = quoted(&ours),
            cache = quoted(&self.folder.join("kubectl-cache")),
            kubectl = quoted(kubectl),
        );
        // A new file under its name at once: somebody may run the old one.
        let (unfinished, program) = (self.folder.join(".kubectl.new"), self.folder.join("kubectl"));
        std::fs::write(&unfinished, script)?;
        std::fs::set_permissions(&unfinished, PermissionsExt::from_mode(0o755))?;
        Ok(std::fs::rename(&unfinished, &program)?)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.folder.join("kubeconfig"));
    }
}

/// `path` as one word of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        let path = Path::new("/a b/it's");
        let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quoted(path))]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "/a b/it's");
    }
}
