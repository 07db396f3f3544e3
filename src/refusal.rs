//! What an error of the API server means to the person who runs the operator. Knows nobody, and does nothing.
//!
//! Texts come from the API server: they name users, kinds and namespaces, and no
//! secret. They are cut, since anything may stand between.

use std::error::Error;

use kube::runtime::watcher;

/// Where the rights that the operator needs are listed.
const RIGHTS: &str = "docs/install.md";

/// The longest text, in characters.
const LONGEST: usize = 400;

/// What went wrong, and what to do about it where that is known.
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => of_status(status),
        other => cut(&chain(other)),
    }
}

/// The same, of a watch.
pub fn explain_watch(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            explain(error)
        }
        watcher::Error::WatchError(status) => of_status(status),
        watcher::Error::NoResourceVersion => error.to_string(),
    }
}

fn of_status(status: &kube::core::Status) -> String {
    if status.is_forbidden() {
        return format!("forbidden: {}; give the service account the rights of {RIGHTS}", cut(&status.message));
    }
    if status.code == 401 {
        return format!("the API server does not know who the operator is: {}", cut(&status.message));
    }
    cut(&status.message)
}

/// The error and its causes: those of a connection say only together what is wrong.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_says_which_and_what_to_do() {
        let text = r#"orchestrations.durable-operator.dev is forbidden: User "u" cannot list resource "orchestrations""#;
        let status = kube::core::Status { code: 403, reason: "Forbidden".to_owned(), message: text.to_owned(), ..Default::default() };
        let error = watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)));
        assert_eq!(explain_watch(&error), format!("forbidden: {text}; give the service account the rights of {RIGHTS}"));
    }

    #[test]
    fn causes_are_named_once() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let error = kube::Error::ReadEvents(refused);
        assert_eq!(explain(&error), "Error reading events stream: connection refused");
    }
}
