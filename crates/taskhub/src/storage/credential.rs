//! Credentials as policies of the HTTP pipeline, applied anew on each try.
//!
//! Signatures follow the Shared Key scheme of the storage services: queues and blobs sign the
//! long string, tables the short one. Knows no operation; the secret leaves this module only
//! as a signature, or as the query of a request.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::hmac::hmac_sha256;
use azure_core::http::headers::{HeaderName, Headers};
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Context, Request, Url};
use azure_core::time::{OffsetDateTime, to_rfc7231};

use super::Service;
use super::error::Failure;
use super::token::{TokenErrorKind, TokenProvider};

/// A key or token; `Debug` shows none of it, and there is no `Display`.
#[derive(Clone)]
pub(super) struct Secret(azure_core::credentials::Secret);

impl Secret {
    pub(super) fn new(text: &str) -> Secret {
        Secret(azure_core::credentials::Secret::new(text.to_owned()))
    }

    pub(super) fn text(&self) -> &str {
        self.0.secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[derive(Clone)]
pub(super) enum Credential {
    /// The account's key, Base64.
    SharedKey(Secret),
    /// A shared access signature, as the query that it is, without `?`.
    Sas(Secret),
    /// Tokens of Microsoft Entra ID.
    Token(Arc<dyn TokenProvider>),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::SharedKey(_) => "SharedKey(..)",
            Credential::Sas(_) => "Sas(..)",
            Credential::Token(_) => "Token(..)",
        })
    }
}

impl Credential {
    pub(super) fn policy(&self, account: &str, service: Service) -> Arc<dyn Policy> {
        match self {
            Credential::SharedKey(key) => Arc::new(SharedKeyPolicy { account: account.to_owned(), service, key: key.clone() }),
            Credential::Sas(sas) => Arc::new(SasPolicy(sas.clone())),
            Credential::Token(provider) => Arc::new(TokenPolicy { service, provider: provider.clone() }),
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

struct TokenPolicy {
    service: Service,
    provider: Arc<dyn TokenProvider>,
}

impl fmt::Debug for TokenPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenPolicy").field("service", &self.service).finish_non_exhaustive()
    }
}

/// The first version of the table service that takes tokens.
const TABLE_VERSION_WITH_TOKENS: &str = "2020-12-06";

#[async_trait]
impl Policy for TokenPolicy {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        let token = self.provider.token().await.map_err(|error| {
            // The kind decides on another try.
            let kind = if error.kind() == TokenErrorKind::Unavailable { ErrorKind::Io } else { ErrorKind::Credential };
            let text = error.to_string();
            azure_core::Error::with_error(kind, Failure::Token { kind: error.kind(), message: text.clone() }, text)
        })?;
        request.insert_header("authorization", token.header());
        if self.service == Service::Table {
            request.insert_header("x-ms-version", TABLE_VERSION_WITH_TOKENS);
        }
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

#[cfg(test)]
mod tests {
    use azure_core::http::Method;

    use super::*;

    fn request(method: Method, url: &str, headers: &[(&'static str, &'static str)], body: &'static str) -> Request {
        let mut request = Request::new(url.parse().unwrap(), method);
        for (name, value) in headers {
            request.insert_header(*name, *value);
        }
        request.set_body(body);
        request
    }

    #[test]
    fn queues_and_blobs_sign_the_long_string() {
        let url = "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20";
        let headers = [("x-ms-version", "2015-02-21"), ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"), ("accept", "x")];
        assert_eq!(
            string_to_sign(&request(Method::Get, url, &headers, ""), "myaccount"),
            "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n/myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20"
        );
    }

    #[test]
    fn path_style_names_the_account_twice_and_values_are_decoded() {
        let url = "http://127.0.0.1:1/acc/q%20x/messages?popreceipt=a%2Bb%3D&B=2&b=1";
        let headers = [("content-type", "application/xml"), ("if-none-match", "*"), ("range", "bytes=0-1")];
        assert_eq!(
            string_to_sign(&request(Method::Put, url, &headers, "four"), "acc"),
            "PUT\n\n\n4\n\napplication/xml\n\n\n\n*\n\nbytes=0-1\n/acc/acc/q%20x/messages\nb:1,2\npopreceipt:a+b="
        );
    }

    #[test]
    fn tables_sign_the_short_string() {
        let headers = [("content-type", "application/json"), ("x-ms-date", "now"), ("x-ms-version", "2019-02-02")];
        let signed = |url| table_string_to_sign(&request(Method::Post, url, &headers, "{}"), "acc");
        assert_eq!(signed("https://acc.table.core.windows.net/Rows()?$filter=a"), "POST\n\napplication/json\nnow\n/acc/Rows()");
        assert_eq!(
            signed("http://127.0.0.1:1/acc/?comp=properties&restype=service"),
            "POST\n\napplication/json\nnow\n/acc/acc/?comp=properties"
        );
    }

    #[test]
    fn a_sas_is_added_once_and_as_it_is() {
        let sas = "sv=1&sig=a%2Bb%3D";
        for (before, after) in [("https://h/p", "https://h/p?sv=1&sig=a%2Bb%3D"), ("https://h/p?a=b", "https://h/p?a=b&sv=1&sig=a%2Bb%3D")]
        {
            let mut url: Url = before.parse().unwrap();
            add_sas(&mut url, sas);
            add_sas(&mut url, sas);
            assert_eq!(url.as_str(), after);
        }
    }

    #[test]
    fn nothing_shows_a_secret() {
        let key = Credential::SharedKey(Secret::new("S3CRET"));
        let sas = Credential::Sas(Secret::new("sig=S3CRET"));
        for credential in [key, sas] {
            let shown = format!("{credential:?} {:?}", credential.policy("acc", Service::Table));
            assert!(!shown.contains("S3CRET"), "{shown}");
        }
    }
}
