//! When to stop: SIGTERM or Ctrl-C stops cleanly, a second one at once.
//!
//! Knows nobody. Whoever works in the background holds a [`Shutdown`] and ends
//! when it says so.

use tokio::sync::watch;

/// Exit code of a stop that did not wait for the work under way: 128 + SIGTERM.
const EXIT_AT_ONCE: i32 = 143;

/// Tells when to stop. Clones tell the same.
#[derive(Clone)]
pub struct Shutdown {
    begun: watch::Receiver<bool>,
}

/// Begins the shutdown; dropping it begins it too.
pub struct Trigger {
    begun: watch::Sender<bool>,
}

/// A shutdown and what begins it.
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger { begun: sender }, Shutdown { begun: receiver })
}

impl Trigger {
    /// Begins the shutdown.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }
}

impl Shutdown {
    /// Resolves when the shutdown has begun.
    pub async fn begun(mut self) {
        // An error means that the trigger is gone, which is the same.
        let _ = self.begun.wait_for(|begun| *begun).await;
    }
}

/// Begins the shutdown at the first signal, and ends the process at the second. Never returns.
pub async fn on_signals(trigger: &Trigger) -> std::io::Result<std::convert::Infallible> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut next = async || tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
    tracing::info!(signal = next().await, "stopping; a second signal stops at once");
    trigger.begin();
    tracing::warn!(signal = next().await, "stopping at once");
    std::process::exit(EXIT_AT_ONCE);
}
