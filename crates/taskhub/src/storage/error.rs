//! What can go wrong with a call, in kinds that a caller decides by.
//!
//! Reads the answers of the services and the errors of the SDK. Invariant: no text that
//! leaves this module holds a key, a token, a URL or a response's body; the services repeat
//! signatures and strings to sign in theirs.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use azure_core::error::ErrorKind;
use azure_core::http::headers::{ERROR_CODE, Headers};

use super::NotAdmitted;
use super::token::TokenErrorKind;

/// A failed call: what was tried, what came back, and what to do about it.
///
/// Small to return, because it is one pointer.
#[derive(Clone, thiserror::Error)]
#[error("{0}")]
pub struct StorageError(Box<Details>);

#[derive(Clone)]
struct Details {
    origin: Origin,
    kind: StorageErrorKind,
    failure: Failure,
    failed_operation: Option<usize>,
}

/// What a caller decides by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageErrorKind {
    /// The entity, blob or message is not there.
    NotFound,
    /// The table, queue or container is not there.
    ContainerNotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// A table, queue or container of this name is being deleted; it can be made again in about a minute.
    BeingDeleted,
    /// The thing has changed since it was read, or the pop receipt is no longer the newest.
    PreconditionFailed,
    /// The credential is not the account's, or has expired.
    Authentication,
    /// The credential is good, but does not allow this.
    AccessDenied,
    /// The service asks for fewer requests, or [`Options::admission`](super::Options::admission) held this one back: then it has no status.
    Throttled,
    /// No answer in time.
    Timeout,
    /// No connection: name, network or TLS.
    Unreachable,
    /// The request or the response exceeds a limit.
    TooLarge,
    /// The request cannot be right; repeating it is of no use.
    InvalidInput,
    /// The service failed.
    Server,
    /// The answer is none of a storage service.
    UnexpectedResponse,
}

impl StorageError {
    /// What to decide by.
    pub fn kind(&self) -> StorageErrorKind {
        self.0.kind
    }

    /// The service's error code, such as `EntityAlreadyExists`.
    pub fn code(&self) -> Option<&str> {
        match &self.0.failure {
            Failure::Response { code, .. } => code.as_deref(),
            _ => None,
        }
    }

    /// The HTTP status, if a response came.
    pub fn status(&self) -> Option<u16> {
        match &self.0.failure {
            Failure::Response { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The call's stable name, such as `table.insert`.
    pub fn operation(&self) -> &'static str {
        self.0.origin.operation
    }

    /// Of a transaction: the index of the operation that the service refused.
    pub fn failed_operation(&self) -> Option<usize> {
        self.0.failed_operation
    }

    /// The entity, blob or message is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.kind(), StorageErrorKind::NotFound | StorageErrorKind::ContainerNotFound)
    }

    /// The table, queue or container is not there.
    pub fn is_container_not_found(&self) -> bool {
        self.kind() == StorageErrorKind::ContainerNotFound
    }

    /// There is such a thing already; possibly by the caller's own try, whose answer was lost.
    pub fn is_already_exists(&self) -> bool {
        self.kind() == StorageErrorKind::AlreadyExists
    }

    /// The ETag or pop receipt is no longer the newest.
    pub fn is_precondition_failed(&self) -> bool {
        self.kind() == StorageErrorKind::PreconditionFailed
    }

    /// The service asks for fewer requests.
    pub fn is_throttled(&self) -> bool {
        self.kind() == StorageErrorKind::Throttled
    }

    /// Of a call with a single try: the service has certainly not done what was asked, since it refused, or was never reached. After
    /// anything else it may have done it, and only the answer was lost.
    pub fn was_refused(&self) -> bool {
        match &self.0.failure {
            Failure::Response { status, .. } => ((400..500).contains(status) && *status != 408) || self.is_throttled(),
            Failure::Unreachable(_) | Failure::Invalid(_) | Failure::Token { .. } | Failure::Held => true,
            Failure::TooLarge(_) | Failure::Broken(_) | Failure::TimedOut(_) | Failure::Request(_) | Failure::Unreadable(_) => false,
        }
    }

    /// The credential is wrong, has expired, or does not allow this.
    pub fn is_authentication(&self) -> bool {
        matches!(self.kind(), StorageErrorKind::Authentication | StorageErrorKind::AccessDenied)
    }

    /// The same call may succeed later without any change.
    pub fn is_transient(&self) -> bool {
        matches!(
            self.kind(),
            StorageErrorKind::Throttled
                | StorageErrorKind::Timeout
                | StorageErrorKind::Unreachable
                | StorageErrorKind::Server
                | StorageErrorKind::BeingDeleted
        )
    }

    pub(super) fn with_failed_operation(mut self, index: Option<usize>) -> StorageError {
        self.0.failed_operation = index;
        self
    }
}

impl fmt::Debug for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageError").field("kind", &self.0.kind).field("text", &self.to_string()).finish()
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Origin { operation, target, host } = &self.origin;
        write!(f, "{} {target}: ", phrase(operation))?;
        match &self.failure {
            Failure::Unreachable(cause) => write!(f, "cannot reach {host}: {cause}")?,
            Failure::Broken(cause) => write!(f, "the connection to {host} broke: {cause}")?,
            Failure::TimedOut(limit) => write!(f, "{host} did not answer within {limit:?}")?,
            failure => write!(f, "{failure}")?,
        }
        if let Some(index) = self.failed_operation {
            write!(f, ", by operation {index} of the transaction")?;
        }
        // Who provides tokens says itself what to do.
        match hint(self.kind).filter(|_| !matches!(self.failure, Failure::Token { .. })) {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// `table.insert` as words.
fn phrase(operation: &str) -> String {
    match operation {
        "table.insert" => "insert into".to_owned(),
        "table.query" => "query".to_owned(),
        "table.transaction" => "transaction on".to_owned(),
        "table.get" | "blob.get" => "read from".to_owned(),
        "table.delete" | "blob.delete" | "queue.delete" => "delete from".to_owned(),
        "queue.put" | "blob.put" => "write to".to_owned(),
        "queue.peek" | "queue.receive" => "read from".to_owned(),
        other => other.replace(['.', '_'], " "),
    }
}

fn hint(kind: StorageErrorKind) -> Option<&'static str> {
    match kind {
        StorageErrorKind::Authentication => Some("the account does not accept the key, SAS or token, or it has expired: renew it"),
        StorageErrorKind::AccessDenied => Some(
            "the credential does not allow this: check the permissions of the SAS or the roles of the identity, and the firewall of the account",
        ),
        StorageErrorKind::Unreachable => Some("check the endpoint, DNS and network policies"),
        StorageErrorKind::BeingDeleted => Some("it is still being deleted: this passes within minutes"),
        StorageErrorKind::UnexpectedResponse => Some("the answer is not one of a storage service: check the endpoint"),
        _ => None,
    }
}

/// Which call it was, for the message.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    operation: &'static str,
    target: String,
    host: String,
}

impl Origin {
    pub(super) fn new(operation: &'static str, target: &str, host: &str) -> Origin {
        Origin { operation, target: target.to_owned(), host: host.to_owned() }
    }

    /// Who was asked.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// A request that is not sent, as it could not succeed.
    pub(super) fn invalid(&self, problem: &str) -> StorageError {
        self.failed(Failure::Invalid(problem.to_owned()))
    }

    /// A response that lacks what it must have, or cannot be read.
    pub(super) fn unexpected(&self, problem: &str) -> StorageError {
        self.failed(Failure::Unreadable(problem.to_owned()))
    }

    pub(super) fn failed(&self, failure: Failure) -> StorageError {
        StorageError(Box::new(Details { origin: self.clone(), kind: failure.kind(), failure, failed_operation: None }))
    }

    /// An error of the SDK, which may hold bodies and URLs: only its facts are taken.
    pub(super) fn error(&self, error: azure_core::Error) -> StorageError {
        self.failed(Failure::of_error(&error))
    }
}

/// What a try met.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Failure {
    /// An answer that is no success.
    #[error("{status} {}", code.as_deref().unwrap_or("without an error code"))]
    Response { status: u16, code: Option<String>, unauthenticated: bool },
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It was not sent.
    #[error("{NotAdmitted}")]
    Held,
    #[error("more than {0} bytes")]
    TooLarge(u64),
    #[error("{0}")]
    Invalid(String),
    #[error("cannot send the request: {0}")]
    Request(String),
    #[error("{0}")]
    Unreadable(String),
    #[error("{message}")]
    Token { kind: TokenErrorKind, message: String },
}

impl Failure {
    /// An answer of one of the services; the code in a table's JSON goes before the header.
    pub(super) fn of_response(status: u16, headers: &Headers, body: &[u8]) -> Failure {
        Failure::of_answer(status, headers.get_optional_string(&ERROR_CODE), body)
    }

    /// The same, of an answer inside of a transaction's, with the code of its header.
    pub(super) fn of_answer(status: u16, header: Option<String>, body: &[u8]) -> Failure {
        let (code, message) = odata_error(body);
        let code = code.or(header).and_then(checked_code);
        // The emulator answers a wrong key with the code of a firewall; its text says what it is.
        let text = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
        Failure::Response { status, code, unauthenticated: text.contains("Server failed to authenticate the request") }
    }

    fn of_error(error: &azure_core::Error) -> Failure {
        let mut source = error.source();
        while let Some(current) = source {
            if let Some(failure) = current.downcast_ref::<Failure>() {
                return failure.clone();
            }
            source = current.source();
        }
        match error.kind() {
            ErrorKind::HttpResponse { raw_response: Some(response), .. } => {
                Failure::of_response(u16::from(response.status()), response.headers(), response.body())
            }
            ErrorKind::HttpResponse { status, error_code, .. } => {
                Failure::Response { status: u16::from(*status), code: error_code.clone().and_then(checked_code), unauthenticated: false }
            }
            ErrorKind::DataConversion => Failure::Unreadable("the response cannot be read".to_owned()),
            ErrorKind::Connection | ErrorKind::Io => Failure::Broken("input or output failed".to_owned()),
            _ => Failure::Request("the storage library refused it".to_owned()),
        }
    }

    /// Worth another try.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Failure::Unreachable(_) | Failure::Broken(_) | Failure::TimedOut(_))
    }

    pub(super) fn kind(&self) -> StorageErrorKind {
        match self {
            Failure::Response { status, code, unauthenticated } => classify(*status, code.as_deref(), *unauthenticated),
            Failure::Unreachable(_) | Failure::Broken(_) => StorageErrorKind::Unreachable,
            Failure::TimedOut(_) => StorageErrorKind::Timeout,
            Failure::Held => StorageErrorKind::Throttled,
            Failure::TooLarge(_) => StorageErrorKind::TooLarge,
            Failure::Invalid(_) | Failure::Request(_) => StorageErrorKind::InvalidInput,
            Failure::Unreadable(_) => StorageErrorKind::UnexpectedResponse,
            Failure::Token { kind: TokenErrorKind::Refused, .. } => StorageErrorKind::Authentication,
            Failure::Token { kind: TokenErrorKind::Forbidden, .. } => StorageErrorKind::AccessDenied,
            Failure::Token { kind: TokenErrorKind::Unavailable, .. } => StorageErrorKind::Unreachable,
        }
    }
}

fn classify(status: u16, code: Option<&str>, unauthenticated: bool) -> StorageErrorKind {
    use StorageErrorKind as Kind;
    match (status, code.unwrap_or_default()) {
        (401, _) | (400 | 403, "AuthenticationFailed" | "InvalidAuthenticationInfo") => Kind::Authentication,
        (403, _) if unauthenticated => Kind::Authentication,
        (403, _) => Kind::AccessDenied,
        (404, "TableNotFound" | "QueueNotFound" | "ContainerNotFound") => Kind::ContainerNotFound,
        (404, "ResourceNotFound" | "EntityNotFound" | "BlobNotFound" | "MessageNotFound") => Kind::NotFound,
        (409, code) if code.ends_with("AlreadyExists") => Kind::AlreadyExists,
        (409, code) if code.ends_with("BeingDeleted") => Kind::BeingDeleted,
        (304 | 412, _) | (400, "PopReceiptMismatch") => Kind::PreconditionFailed,
        (408 | 504, _) | (500, "OperationTimedOut") => Kind::Timeout,
        (429, _) | (503, "ServerBusy" | "TableServerBusy") => Kind::Throttled,
        (413, _) | (400, "RequestBodyTooLarge" | "EntityTooLarge" | "PropertyValueTooLarge" | "MessageTooLarge") => Kind::TooLarge,
        (400, _) | (405..=499, "InvalidInput" | "InvalidResourceName" | "NotImplemented") => Kind::InvalidInput,
        (500..=599, _) => Kind::Server,
        _ => Kind::UnexpectedResponse,
    }
}

/// Codes are words; anything else is not the service's and might be anything.
fn checked_code(code: String) -> Option<String> {
    (!code.is_empty() && code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(code)
}

/// Code and message of `{"odata.error":{"code":..,"message":{"value":..}}}`.
pub(super) fn odata_error(body: &[u8]) -> (Option<String>, Option<String>) {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(rename = "odata.error")]
        error: Error,
    }
    #[derive(serde::Deserialize)]
    struct Error {
        code: Option<String>,
        message: Option<Message>,
    }
    #[derive(serde::Deserialize)]
    struct Message {
        value: Option<String>,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(Body { error }) => (error.code, error.message.and_then(|message| message.value)),
        Err(_) => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::StorageErrorKind as Kind;
    use super::*;

    fn kind(status: u16, code: &str) -> Kind {
        classify(status, Some(code).filter(|code| !code.is_empty()), false)
    }

    #[test]
    fn kinds_follow_status_and_code() {
        let cases = [
            (404, "ResourceNotFound", Kind::NotFound),
            (404, "EntityNotFound", Kind::NotFound),
            (404, "BlobNotFound", Kind::NotFound),
            (404, "MessageNotFound", Kind::NotFound),
            (404, "TableNotFound", Kind::ContainerNotFound),
            (404, "QueueNotFound", Kind::ContainerNotFound),
            (404, "ContainerNotFound", Kind::ContainerNotFound),
            (404, "", Kind::UnexpectedResponse),
            (409, "EntityAlreadyExists", Kind::AlreadyExists),
            (409, "BlobAlreadyExists", Kind::AlreadyExists),
            (409, "TableBeingDeleted", Kind::BeingDeleted),
            (409, "QueueBeingDeleted", Kind::BeingDeleted),
            (409, "", Kind::UnexpectedResponse),
            (412, "UpdateConditionNotSatisfied", Kind::PreconditionFailed),
            (400, "PopReceiptMismatch", Kind::PreconditionFailed),
            (401, "NoAuthenticationInformation", Kind::Authentication),
            (403, "AuthenticationFailed", Kind::Authentication),
            (403, "AuthorizationFailure", Kind::AccessDenied),
            (403, "AuthorizationPermissionMismatch", Kind::AccessDenied),
            (429, "", Kind::Throttled),
            (503, "ServerBusy", Kind::Throttled),
            (503, "", Kind::Server),
            (500, "InternalError", Kind::Server),
            (500, "OperationTimedOut", Kind::Timeout),
            (413, "RequestBodyTooLarge", Kind::TooLarge),
            (400, "InvalidInput", Kind::InvalidInput),
            (302, "", Kind::UnexpectedResponse),
            (200, "", Kind::UnexpectedResponse),
        ];
        for (status, code, expected) in cases {
            assert_eq!(kind(status, code), expected, "{status} {code}");
        }
    }

    #[test]
    fn only_an_answer_that_refuses_proves_that_nothing_was_done() {
        let origin = Origin::new("queue.put", "q", "h");
        let response = |status, code: &str| Failure::Response { status, code: Some(code.to_owned()), unauthenticated: false };
        for refused in [response(403, ""), response(404, "QueueNotFound"), response(429, ""), response(503, "ServerBusy")] {
            assert!(origin.failed(refused.clone()).was_refused(), "{refused:?}");
        }
        assert!(origin.failed(Failure::Unreachable(String::new())).was_refused());
        for open in [response(408, ""), response(500, "OperationTimedOut"), response(503, ""), response(502, ""), response(302, "")] {
            assert!(!origin.failed(open.clone()).was_refused(), "{open:?}");
        }
        for open in [Failure::Broken(String::new()), Failure::TimedOut(Duration::ZERO), Failure::Unreadable(String::new())] {
            assert!(!origin.failed(open.clone()).was_refused(), "{open:?}");
        }
    }

    #[test]
    fn the_json_s_code_goes_before_the_header_s_and_must_be_a_word() {
        let mut headers = Headers::new();
        headers.insert(ERROR_CODE, "FromHeader");
        let json = br#"{"odata.error":{"code":"TableNotFound","message":{"lang":"en-US","value":"sig=S3CRET"}}}"#;
        let failure = Failure::of_response(404, &headers, json);
        assert_eq!(failure.kind(), Kind::ContainerNotFound);
        let failure = Failure::of_response(400, &headers, b"<html>S3CRET");
        assert_eq!(failure.to_string(), "400 FromHeader");
        headers.insert(ERROR_CODE, "no word: S3CRET");
        assert_eq!(Failure::of_response(400, &headers, b"").to_string(), "400 without an error code");
    }

    #[test]
    fn the_emulator_s_answer_to_a_wrong_key_is_told_by_its_text() {
        let text = b"<Message>Server failed to authenticate the request. Make sure ...</Message>";
        let mut headers = Headers::new();
        headers.insert(ERROR_CODE, "AuthorizationFailure");
        assert_eq!(Failure::of_response(403, &headers, text).kind(), Kind::Authentication);
        assert_eq!(Failure::of_response(403, &headers, b"not authorized").kind(), Kind::AccessDenied);
    }

    #[test]
    fn the_text_names_the_call_the_answer_and_the_remedy() {
        let origin = Origin::new("table.insert", "OrdersInstances", "h.example");
        let failure = |status, code: &str| Failure::Response { status, code: Some(code.to_owned()), unauthenticated: false };
        assert_eq!(
            origin.failed(failure(403, "AuthenticationFailed")).to_string(),
            "insert into OrdersInstances: 403 AuthenticationFailed (the account does not accept the key, SAS or token, or it has expired: renew it)"
        );
        let error = origin.failed(failure(409, "EntityAlreadyExists")).with_failed_operation(Some(3));
        assert_eq!(error.to_string(), "insert into OrdersInstances: 409 EntityAlreadyExists, by operation 3 of the transaction");
        let error = origin.failed(Failure::TimedOut(Duration::from_secs(10)));
        assert_eq!(error.to_string(), "insert into OrdersInstances: h.example did not answer within 10s");
    }

    #[test]
    fn errors_of_the_sdk_give_their_facts_alone() {
        let inner = azure_core::Error::with_error(ErrorKind::Io, Failure::TooLarge(5), "S3CRET");
        let outer = inner.with_context("https://h/?sig=S3CRET");
        let origin = Origin::new("blob.get", "c", "h");
        assert_eq!(origin.error(outer).kind(), Kind::TooLarge);
        for kind in [ErrorKind::Io, ErrorKind::DataConversion, ErrorKind::Other, ErrorKind::Credential] {
            let error = origin.error(azure_core::Error::with_message(kind, "https://h/?sig=S3CRET"));
            assert!(!format!("{error} {error:?}").contains("S3CRET"), "{error:?}");
        }
    }
}
