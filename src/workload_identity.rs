//! Tokens for storage accounts from the service accounts of tenants (Microsoft Entra Workload ID).
//!
//! Owns the exchange: a token of the *TaskHub's* service account, asked of the API
//! server, is the proof with which Microsoft Entra ID gives out one for the
//! storage services. So Azure sees the tenant's identity, and the operator has
//! none. Invariants: the service account is of the TaskHub's own namespace; its
//! token goes to the cloud's authority, or the one that the operator's flags
//! name, and nowhere else; redirects are not followed; no token, and nothing of
//! an answer but error codes, is in an error or a log; one exchange at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use durable_taskhub::storage::{AccessToken, TokenError, TokenErrorKind, TokenFuture, TokenProvider};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::api::v1alpha1::{Cloud, WorkloadIdentity};

/// What federated credentials expect, by the convention of Microsoft Entra Workload ID.
const AUDIENCE: &str = "api://AzureADTokenExchange";
/// `https://storage.azure.com/.default`, which all clouds have.
const SCOPE: &str = "https%3A%2F%2Fstorage.azure.com%2F.default";
const ASSERTION_TYPE: &str = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
const CLIENT_ID_ANNOTATION: &str = "azure.workload.identity/client-id";
const TENANT_ID_ANNOTATION: &str = "azure.workload.identity/tenant-id";

/// The proof is used at once; this is the shortest life that the API server gives.
const ASSERTION_SECONDS: i64 = 600;
/// Both requests of an exchange together fit into the time-out of a storage call.
const API_TIME_OUT: Duration = Duration::from_secs(5);
const EXCHANGE_TIME_OUT: Duration = Duration::from_secs(8);
const CONNECT_TIME_OUT: Duration = Duration::from_secs(4);
/// Tokens are some 2 KiB.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// A token is renewed this long before its end, or at half of its life if that is later.
const RENEWED_AHEAD: Duration = Duration::from_secs(300);
/// How long a failure is the answer before the authority is asked again.
const FAILURE_KEPT_FOR: Duration = Duration::from_secs(3);
/// How long a token that could not be renewed is used before the next try.
const RENEWED_AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Makes identities. Clones share the connections.
#[derive(Clone)]
pub struct WorkloadIdentities {
    client: Client,
    http: reqwest::Client,
    authority: Option<String>,
}

/// One service account's way to tokens.
pub struct Identity {
    client: Client,
    http: reqwest::Client,
    authority: String,
    namespace: String,
    service_account: String,
    given_client_id: Option<String>,
    given_tenant_id: Option<String>,
    kept: Mutex<Kept>,
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Kept {
    token: Option<Token>,
    client_id: Option<String>,
    failure: Option<(Instant, TokenError)>,
}

#[derive(Clone)]
struct Token {
    token: AccessToken,
    renew_at: Instant,
    ends_at: Instant,
}

/// Who asks for a token.
struct Ids {
    client: String,
    tenant: String,
}

impl WorkloadIdentities {
    /// Asks the API server with `client`. `authority` is asked in place of the cloud's own.
    ///
    /// # Errors
    /// If there is no TLS.
    pub fn new(client: Client, authority: Option<String>) -> Result<WorkloadIdentities, String> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIME_OUT)
            .timeout(EXCHANGE_TIME_OUT);
        if authority.as_deref().is_some_and(|authority| authority.starts_with("http://")) {
            // Only an authority on this machine has no TLS, and no proxy leads to it.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| format!("no HTTP client for token exchanges: {error}"))?;
        Ok(WorkloadIdentities { client, http, authority })
    }

    /// The identity of a TaskHub in `namespace`; asks nobody yet.
    pub fn identity(&self, namespace: &str, identity: &WorkloadIdentity) -> Identity {
        let of_cloud = match identity.cloud {
            Cloud::Public => "https://login.microsoftonline.com",
            Cloud::USGovernment => "https://login.microsoftonline.us",
            Cloud::China => "https://login.partner.microsoftonline.cn",
        };
        Identity {
            client: self.client.clone(),
            http: self.http.clone(),
            authority: self.authority.clone().unwrap_or_else(|| of_cloud.to_owned()),
            namespace: namespace.to_owned(),
            service_account: identity.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            given_client_id: identity.client_id.clone(),
            given_tenant_id: identity.tenant_id.clone(),
            kept: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl Identity {
    /// The client ID, after a token was got: then storage can be asked.
    ///
    /// # Errors
    /// [`TokenError`] says which step failed and what to grant.
    pub async fn client_id(&self) -> Result<String, TokenError> {
        self.valid_token().await?;
        Ok(self.kept().client_id.clone().unwrap_or_default())
    }

    async fn valid_token(&self) -> Result<AccessToken, TokenError> {
        let now = Instant::now();
        let token = self.kept().token.clone().filter(|token| now < token.ends_at);
        match token {
            Some(token) if now < token.renew_at => Ok(token.token),
            // Still good: whoever comes first renews it, the others go on.
            Some(token) => match self.turn.try_lock() {
                Ok(turn) => Ok(self.renew(turn).await.unwrap_or(token.token)),
                Err(_) => Ok(token.token),
            },
            None => self.renew(self.turn.lock().await).await,
        }
    }

    /// Gets a token, unless whoever had the turn before did, or failed just now.
    async fn renew(&self, _turn: tokio::sync::MutexGuard<'_, ()>) -> Result<AccessToken, TokenError> {
        let now = Instant::now();
        {
            let kept = self.kept();
            if let Some(token) = kept.token.as_ref().filter(|token| now < token.renew_at) {
                return Ok(token.token.clone());
            }
            if let Some((_, failure)) = kept.failure.as_ref().filter(|(at, _)| now.duration_since(*at) < FAILURE_KEPT_FOR) {
                return Err(failure.clone());
            }
        }
        let result = self.exchange().await;
        let mut kept = self.kept();
        match result {
            Ok((ids, token)) => {
                let answer = token.token.clone();
                *kept = Kept { token: Some(token), client_id: Some(ids.client), failure: None };
                Ok(answer)
            }
            Err(failure) => {
                tracing::warn!(namespace = self.namespace, service_account = self.service_account, %failure, "no token");
                if let Some(token) = &mut kept.token {
                    token.renew_at = Instant::now() + RENEWED_AGAIN_AFTER;
                }
                kept.failure = Some((Instant::now(), failure.clone()));
                Err(failure)
            }
        }
    }

    async fn exchange(&self) -> Result<(Ids, Token), TokenError> {
        let ids = self.ids().await?;
        let assertion = self.assertion().await?;
        let url = format!("{}/{}/oauth2/v2.0/token", self.authority, ids.tenant);
        // Each value is made of characters that a form takes as they are, or is escaped already.
        let form = format!(
            "grant_type=client_credentials&client_id={}&scope={SCOPE}&client_assertion_type={ASSERTION_TYPE}&client_assertion={assertion}",
            ids.client
        );
        let begun = Instant::now();
        let request = self.http.post(url).header("content-type", "application/x-www-form-urlencoded").body(form);
        // The errors of reqwest hold the URL, and that is all.
        let mut response = request
            .send()
            .await
            .map_err(|error| self.unavailable(if error.is_timeout() { "did not answer in time" } else { "cannot be reached" }))?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| self.unavailable("broke the connection"))? {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(self.unavailable("answered with more than any token has"));
            }
            body.extend_from_slice(&chunk);
        }
        match status {
            200 => {
                let (token, life) = read_token(&body).ok_or_else(|| self.unavailable("answered without a token"))?;
                let ahead = RENEWED_AHEAD.min(life / 2);
                Ok((ids, Token { token, renew_at: begun + (life - ahead), ends_at: begun + life }))
            }
            400..=499 if status != 408 && status != 429 => Err(self.refused(&ids, status, &read_codes(&body))),
            _ => Err(self.unavailable(&format!("answered {status}"))),
        }
    }

    /// Client and tenant: the TaskHub's, else the service account's.
    async fn ids(&self) -> Result<Ids, TokenError> {
        if let (Some(client), Some(tenant)) = (&self.given_client_id, &self.given_tenant_id) {
            return self.checked(client.clone(), tenant.clone());
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = self.ask("get", "serviceaccounts", "reading it", api.get_metadata_opt(&self.service_account)).await?;
        let annotations = found.ok_or_else(|| self.no_service_account())?.metadata.annotations.unwrap_or_default();
        let value = |given: &Option<String>, field: &str, annotation: &str| {
            given.clone().or_else(|| annotations.get(annotation).cloned()).ok_or_else(|| {
                let message = format!(
                    "{} has no annotation {annotation}: add it, or set spec.connection.workloadIdentity.{field}",
                    self.name_of_service_account()
                );
                TokenError::new(TokenErrorKind::Refused, message)
            })
        };
        let client = value(&self.given_client_id, "clientId", CLIENT_ID_ANNOTATION)?;
        let tenant = value(&self.given_tenant_id, "tenantId", TENANT_ID_ANNOTATION)?;
        self.checked(client, tenant)
    }

    /// Both go into a URL or a form: nothing but what IDs are made of.
    fn checked(&self, client: String, tenant: String) -> Result<Ids, TokenError> {
        let is_id = |text: &str| text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        if is_id(&client) && is_id(&tenant) {
            return Ok(Ids { client, tenant });
        }
        let message = format!("client ID and tenant ID of {} must be UUIDs", self.name_of_service_account());
        Err(TokenError::new(TokenErrorKind::Refused, message))
    }

    /// The proof: a token of the service account.
    async fn assertion(&self) -> Result<String, TokenError> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let spec = TokenRequestSpec {
            audiences: Some(vec![AUDIENCE.to_owned()]),
            expiration_seconds: Some(ASSERTION_SECONDS),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let parameters = PostParams::default();
        let asking = api.create_token_request(&self.service_account, &parameters, &request);
        let issued = self.ask("create", "serviceaccounts/token", "asking for its token", asking).await?;
        let token = issued.status.and_then(|status| status.token).unwrap_or_default();
        let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if is_token { Ok(token) } else { Err(TokenError::new(TokenErrorKind::Unavailable, "the API server answered without a token")) }
    }

    /// Awaits a request to the API server, whose right is `verb` on `resource`.
    async fn ask<T>(
        &self,
        verb: &str,
        resource: &str,
        doing: &str,
        asking: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, TokenError> {
        let who = self.name_of_service_account();
        match tokio::time::timeout(API_TIME_OUT, asking).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(answer))) if answer.is_forbidden() => Err(TokenError::new(
                TokenErrorKind::Forbidden,
                format!(
                    "{doing} of {who} is forbidden: grant the operator's service account {verb} on {resource} with resourceNames [{}] by a Role in the namespace {}",
                    self.service_account, self.namespace
                ),
            )),
            Ok(Err(kube::Error::Api(answer))) if answer.is_not_found() => Err(self.no_service_account()),
            Ok(Err(error)) => {
                Err(TokenError::new(TokenErrorKind::Unavailable, format!("{doing} of {who} failed, it is tried again: {error}")))
            }
            Err(_) => Err(TokenError::new(
                TokenErrorKind::Unavailable,
                format!("{doing} of {who}: the API server did not answer within {API_TIME_OUT:?}, it is tried again"),
            )),
        }
    }

    fn no_service_account(&self) -> TokenError {
        let message = format!(
            "{} does not exist: create it, or name another in spec.connection.workloadIdentity.serviceAccountName",
            self.name_of_service_account()
        );
        TokenError::new(TokenErrorKind::Refused, message)
    }

    fn refused(&self, ids: &Ids, status: u16, codes: &str) -> TokenError {
        let message = format!(
            "the exchange of a token of {} at {} was refused ({status}{codes}): the identity {} of tenant {} needs a federated credential with this cluster's issuer, the subject system:serviceaccount:{}:{} and the audience {AUDIENCE}; check client ID and tenant ID",
            self.name_of_service_account(),
            self.authority_host(),
            ids.client,
            ids.tenant,
            self.namespace,
            self.service_account
        );
        TokenError::new(TokenErrorKind::Refused, message)
    }

    fn unavailable(&self, what: &str) -> TokenError {
        let message = format!(
            "the exchange of a token of {} failed: {} {what}: check DNS, proxy and network policies; it is tried again",
            self.name_of_service_account(),
            self.authority_host()
        );
        TokenError::new(TokenErrorKind::Unavailable, message)
    }

    fn name_of_service_account(&self) -> String {
        format!("the service account {} in the namespace {}", self.service_account, self.namespace)
    }

    fn authority_host(&self) -> &str {
        self.authority.split_once("://").map_or(self.authority.as_str(), |(_, host)| host)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenProvider for Identity {
    fn token(&self) -> TokenFuture<'_> {
        Box::pin(self.valid_token())
    }
}

/// The token and its life.
fn read_token(body: &[u8]) -> Option<(AccessToken, Duration)> {
    #[derive(serde::Deserialize)]
    struct Answer {
        access_token: String,
        expires_in: serde_json::Value,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let seconds = answer.expires_in.as_u64().or_else(|| answer.expires_in.as_str()?.parse().ok())?;
    // A day is the longest that the authority gives.
    Some((AccessToken::new(&answer.access_token)?, Duration::from_secs(seconds.min(86_400))))
}

/// The codes of a refusal, such as `, invalid_client, AADSTS700213`. The rest of the answer may repeat what was sent.
fn read_codes(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Option<String>,
        error_description: Option<String>,
    }
    let Ok(Answer { error, error_description }) = serde_json::from_slice(body) else { return String::new() };
    let word = error.filter(|word| word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    let code = error_description.as_deref().and_then(|text| text.split(':').next()).filter(|code| {
        code.strip_prefix("AADSTS")
            .is_some_and(|digits| (1..=12).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()))
    });
    [word.as_deref(), code].into_iter().flatten().map(|code| format!(", {code}")).collect()
}

/// An identity as the provider that an account takes.
pub fn provider(identity: &Arc<Identity>) -> Arc<dyn TokenProvider> {
    identity.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_refusal_only_codes_are_told() {
        let body =
            br#"{"error":"invalid_client","error_description":"AADSTS700213: No matching federated identity record found for S3CRET"}"#;
        assert_eq!(read_codes(body), ", invalid_client, AADSTS700213");
        assert_eq!(read_codes(br#"{"error":"S3CRET!","error_description":"S3CRET: x"}"#), "");
        assert_eq!(read_codes(b"<html>S3CRET"), "");
    }

    #[test]
    fn a_token_has_a_life_as_number_or_text() {
        for text in [r#"{"access_token":"a.b.c","expires_in":3599}"#, r#"{"access_token":"a.b.c","expires_in":"3599","x":1}"#] {
            assert_eq!(read_token(text.as_bytes()).unwrap().1, Duration::from_secs(3599));
        }
        for text in [r#"{"access_token":"","expires_in":1}"#, r#"{"access_token":"a"}"#, r#"{"access_token":"a b","expires_in":1}"#, "null"]
        {
            assert!(read_token(text.as_bytes()).is_none(), "{text}");
        }
    }
}
