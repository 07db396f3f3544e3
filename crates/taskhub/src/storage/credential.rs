//! Credentials as policies of the HTTP pipeline, applied anew on each try.
//!
//! Signatures follow the Shared Key scheme of the storage services: queues and blobs sign the
//! long string, tables the short one. Knows no operation; the secret leaves this module only
//! as a signature, or as the query of a request.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::hmac::hmac_sha256;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request, Url};
use azure_core::time::{OffsetDateTime, to_rfc7231};

use super::Service;

/// A key or token; `Debug` shows none of it, and there is no `Display`.
#[derive(Clone)]
pub(super) struct Secret(azure_core::credentials::Secret);

impl Secret {
    pub(super) fn new(text: &str) -> Secret {
        Secret(azure_core::credentials::Secret::new(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[derive(Clone, Debug)]
pub(super) enum Credential {
    /// The account's key, Base64.
    SharedKey(Secret),
    /// A shared access signature, as the query that it is, without `?`.
    Sas(Secret),
}

impl Credential {
    pub(super) fn policy(&self, account: &str, service: Service) -> Arc<dyn Policy> {
        match self {
            Credential::SharedKey(key) => Arc::new(SharedKeyPolicy { account: account.to_owned(), service, key: key.clone() }),
            Credential::Sas(sas) => Arc::new(SasPolicy(sas.clone())),
        }
    }
}

#[derive(Debug)]
struct SharedKeyPolicy {
    account: String,
    service: Service,
    key: Secret,
}

#[async_trait]
impl Policy for SharedKeyPolicy {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        // The service refuses dates older than 15 minutes, so each try has its own.
        request.insert_header("x-ms-date", to_rfc7231(&OffsetDateTime::now_utc()));
        let text = match self.service {
            Service::Table => table_string_to_sign(request, &self.account),
            Service::Blob | Service::Queue => string_to_sign(request, &self.account),
        };
        let signature = hmac_sha256(&text, &self.key.0)?;
        request.insert_header("authorization", format!("SharedKey {}:{signature}", self.account));
        forward(context, request, next).await
    }
}

#[derive(Debug)]
struct SasPolicy(Secret);

#[async_trait]
impl Policy for SasPolicy {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        add_sas(request.url_mut(), self.0.0.secret());
        forward(context, request, next).await
    }
}

/// Appends the SAS as it is, once: its signature covers the exact text, and a retry sends the same request again.
fn add_sas(url: &mut Url, sas: &str) {
    let query = match url.query() {
        None | Some("") => sas.to_owned(),
        Some(query) if query.ends_with(sas) => return,
        Some(query) => format!("{query}&{sas}"),
    };
    url.set_query(Some(&query));
}

async fn forward(context: &Context<'_>, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
    let (first, rest) = next
        .split_first()
        .ok_or_else(|| azure_core::Error::with_message(azure_core::error::ErrorKind::Other, "the pipeline ends before the transport"))?;
    first.send(context, request, rest).await
}

/// What queues and blobs sign.
fn string_to_sign(request: &Request, account: &str) -> String {
    let headers = request.headers();
    let header = |name| header(headers, name);
    // The transport adds the header later; zero is signed as empty since version 2015-02-21.
    let length = request.body().len().filter(|length| *length > 0).map(|length| length.to_string()).unwrap_or_default();
    let mut text = [
        request.method().as_str(),
        header("content-encoding"),
        header("content-language"),
        &length,
        header("content-md5"),
        header("content-type"),
        "", // Date: we send x-ms-date
        header("if-modified-since"),
        header("if-match"),
        header("if-none-match"),
        header("if-unmodified-since"),
        header("range"),
    ]
    .join("\n");
    text.push('\n');

    let mut own: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(|(name, _)| name.starts_with("x-ms-")).collect();
    own.sort_unstable();
    for (name, value) in own {
        text.push_str(&format!("{name}:{}\n", value.trim()));
    }

    text.push_str(&format!("/{account}{}", request.url().path()));
    let mut pairs: Vec<(String, String)> =
        request.url().query_pairs().map(|(name, value)| (name.to_lowercase(), value.into_owned())).collect();
    pairs.sort_unstable();
    let mut previous = None;
    for (name, value) in &pairs {
        if previous == Some(name) {
            text.push_str(&format!(",{value}"));
        } else {
            text.push_str(&format!("\n{name}:{value}"));
        }
        previous = Some(name);
    }
    text
}

/// What tables sign: of the query only `comp`, and no headers but these.
fn table_string_to_sign(request: &Request, account: &str) -> String {
    let headers = request.headers();
    let comp = request.url().query_pairs().find(|(name, _)| name == "comp").map(|(_, value)| format!("?comp={value}"));
    format!(
        "{}\n{}\n{}\n{}\n/{account}{}{}",
        request.method().as_str(),
        header(headers, "content-md5"),
        header(headers, "content-type"),
        header(headers, "x-ms-date"),
        request.url().path(),
        comp.unwrap_or_default(),
    )
}

fn header<'a>(headers: &'a Headers, name: &'static str) -> &'a str {
    headers.get_optional_str(&HeaderName::from_static(name)).unwrap_or_default()
}
