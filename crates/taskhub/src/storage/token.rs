//! Credentials that are tokens: who provides them is not this crate's business.
//!
//! The interface between the pipeline, which needs a token per request, and whoever gets it from
//! Microsoft Entra ID. No text of a token is in any `Debug`, and none leaves unencrypted
//! ([`Account::from_token_provider`](super::Account::from_token_provider)).

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use super::credential::Secret;

/// Provides tokens for the storage services (scope `https://storage.azure.com/.default`).
///
/// It is asked before every try of every request, many times at once: it keeps its token, renews it ahead of its end, and does so
/// once for all who wait. It bounds its own time; what it takes counts into the total time-out of the call.
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is valid now.
    fn token(&self) -> TokenFuture<'_>;
}

/// What [`TokenProvider::token`] gives.
pub type TokenFuture<'a> = Pin<Box<dyn Future<Output = Result<AccessToken, TokenError>> + Send + 'a>>;

/// A token. `Debug` shows none of it.
#[derive(Clone, Debug)]
pub struct AccessToken(Secret);

impl AccessToken {
    /// The token of this text; none if it cannot be sent in a header.
    pub fn new(text: &str) -> Option<AccessToken> {
        let sendable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        sendable.then(|| AccessToken(Secret::new(text)))
    }

    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0.text())
    }
}

/// Why there is no token, and what to change. The message holds no secret.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TokenError {
    kind: TokenErrorKind,
    message: String,
}

/// What a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenErrorKind {
    /// Whoever issues tokens does not accept the proof of who we are.
    Refused,
    /// A right is missing to ask for one.
    Forbidden,
    /// Nobody answered in time, or not with a token: it may pass.
    Unavailable,
}

impl TokenError {
    /// An error that says what to change.
    pub fn new(kind: TokenErrorKind, message: impl Into<String>) -> TokenError {
        TokenError { kind, message: message.into() }
    }

    /// What to decide by.
    pub fn kind(&self) -> TokenErrorKind {
        self.kind
    }
}

impl fmt::Debug for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenError").field("kind", &self.kind).field("message", &self.message).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sendable_and_is_not_shown() {
        assert!(AccessToken::new("").is_none() && AccessToken::new("a b").is_none() && AccessToken::new("a\r\nx: y").is_none());
        let token = AccessToken::new("S3CRET.x-_~").unwrap();
        assert_eq!(token.header(), "Bearer S3CRET.x-_~");
        assert!(!format!("{token:?}").contains("S3CRET"));
    }
}
