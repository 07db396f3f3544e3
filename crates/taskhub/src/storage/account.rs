//! Accounts: connection strings, signatures and tokens. Which account, at which endpoints, with which credential.
//!
//! Knows the syntax alone; contacts nothing. No error and no `Debug` output repeats any part
//! of the input's values, because a broken connection string is mostly a whole secret.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Service;
use super::credential::{Credential, Secret};
use super::pipeline::is_loopback;
use super::token::TokenProvider;

/// The storage emulator's account and key, published by its makers.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The suffix of the public cloud's storage services.
pub const PUBLIC_SUFFIX: &str = "core.windows.net";

/// Endpoints that differ from what the account's name and the cloud's suffix give: private ones, or an emulator's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointOverrides {
    /// Of the blob service.
    pub blob: Option<String>,
    /// Of the queue service.
    pub queue: Option<String>,
    /// Of the table service.
    pub table: Option<String>,
}

/// Why there is no account of these parts, and what to change. Holds no part of a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The name cannot be an account's.
    #[error("the name of the storage account is not valid: it has 3 to 24 lower-case letters and digits")]
    InvalidName,
    /// The text is no shared access signature.
    #[error("it must hold the name=value pairs of a shared access signature, 'sig' among them, and no blanks")]
    InvalidSas,
    /// An endpoint cannot be used.
    #[error("the {service} endpoint {problem}")]
    InvalidEndpoint {
        /// The service.
        service: &'static str,
        /// What is wrong, and what to change.
        problem: &'static str,
    },
    /// A token would travel unencrypted.
    #[error("the {service} endpoint must begin with https://: a token is never sent unencrypted, except to this machine")]
    TokenOverHttp {
        /// The service.
        service: &'static str,
    },
}

/// A storage account: its name, its endpoints and a credential. `Debug` shows name and endpoints only.
#[derive(Clone)]
pub struct Account {
    name: String,
    endpoints: [Endpoint; 3],
    credential: Credential,
}

#[derive(Clone)]
struct Endpoint {
    url: Url,
    /// `url` without its trailing slash.
    text: String,
    host: String,
}

/// What is wrong with a connection string, and what to change. Holds no part of its values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionStringError {
    /// Nothing but blanks.
    #[error("the connection string is empty: copy it from the storage account's access keys")]
    Empty,
    /// A part between two semicolons has no `=`.
    #[error("part {0} of the connection string is not of the form Key=Value: check for a missing or an extra semicolon")]
    NotKeyValue(usize),
    /// A setting occurs twice.
    #[error("the connection string has {0} twice: remove one")]
    Duplicate(&'static str),
    /// A setting is there, but empty.
    #[error("{0} in the connection string is empty: fill it in or remove it")]
    EmptyValue(&'static str),
    /// No account name, and none to be derived.
    #[error("the connection string has no AccountName: add it")]
    MissingAccountName,
    /// The name cannot be an account's.
    #[error("AccountName in the connection string is not valid: storage accounts have 3 to 24 lower-case letters and digits")]
    InvalidAccountName,
    /// Neither key nor SAS.
    #[error("the connection string has no credential: add AccountKey or SharedAccessSignature")]
    MissingCredential,
    /// The key is no Base64.
    #[error("AccountKey in the connection string is not valid Base64: copy it again, with the trailing '='")]
    InvalidAccountKey,
    /// The SAS has no signature.
    #[error("SharedAccessSignature in the connection string is not a SAS: it must hold name=value pairs, 'sig' among them")]
    InvalidSharedAccessSignature,
    /// `DefaultEndpointsProtocol` is neither of the two.
    #[error("DefaultEndpointsProtocol in the connection string must be http or https")]
    InvalidProtocol,
    /// `EndpointSuffix` is no domain.
    #[error("EndpointSuffix in the connection string is not a domain name such as core.windows.net")]
    InvalidEndpointSuffix,
    /// An explicit endpoint cannot be used.
    #[error("{setting} in the connection string {problem}")]
    InvalidEndpoint {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong, and what to change.
        problem: &'static str,
    },
    /// An endpoint is missing, and there is no account name to build it from.
    #[error("the connection string has no {0} and no AccountName to derive it from: add one of them")]
    MissingEndpoint(&'static str),
    /// `UseDevelopmentStorage` is neither of the two.
    #[error("UseDevelopmentStorage in the connection string must be true or false")]
    InvalidUseDevelopmentStorage,
    /// The proxy of an emulator that no longer exists.
    #[error(
        "DevelopmentStorageProxyUri is not supported: write AccountName, AccountKey, BlobEndpoint, QueueEndpoint and TableEndpoint instead"
    )]
    DevelopmentStorageProxy,
}

impl Account {
    /// Reads a connection string: an account key, a SAS (which wins over a key) or `UseDevelopmentStorage=true`.
    ///
    /// Names of settings are compared without case, unknown ones are ignored.
    ///
    /// # Errors
    /// [`ConnectionStringError`], which says what to change and repeats no value.
    pub fn from_connection_string(text: &str) -> Result<Account, ConnectionStringError> {
        let settings = Settings::parse(text)?;
        match settings.get("UseDevelopmentStorage")? {
            Some(value) if value.eq_ignore_ascii_case("true") => return Account::emulator(&settings),
            Some(value) if !value.eq_ignore_ascii_case("false") => return Err(ConnectionStringError::InvalidUseDevelopmentStorage),
            _ => {}
        }
        let credential = settings.credential()?;
        let explicit = [settings.endpoint(Service::Blob)?, settings.endpoint(Service::Queue)?, settings.endpoint(Service::Table)?];
        let given_name = settings.get("AccountName")?;
        let name = match (given_name, &credential) {
            (Some(name), _) => checked_name(name)?,
            (None, Credential::SharedKey(_)) => return Err(ConnectionStringError::MissingAccountName),
            (None, Credential::Sas(_) | Credential::Token(_)) => {
                let endpoint = explicit.iter().flatten().next().ok_or(ConnectionStringError::MissingAccountName)?;
                endpoint.account_name().ok_or(ConnectionStringError::MissingAccountName)?
            }
        };
        let derived = given_name.map(|_| name.as_str());
        let [blob, queue, table] = explicit;
        let endpoints = [
            settings.endpoint_or_default(Service::Blob, blob, derived)?,
            settings.endpoint_or_default(Service::Queue, queue, derived)?,
            settings.endpoint_or_default(Service::Table, table, derived)?,
        ];
        Ok(Account { name, endpoints, credential })
    }

    /// The account `name`, opened by a shared access signature: the query that it is, with or without `?`.
    ///
    /// Endpoints are `https://<name>.<service>.<suffix>` unless `overrides` say otherwise.
    ///
    /// # Errors
    /// [`AccountError`], which repeats no part of the signature.
    pub fn from_sas(name: &str, sas: &str, suffix: &str, overrides: &EndpointOverrides) -> Result<Account, AccountError> {
        let sas = checked_sas(sas).ok_or(AccountError::InvalidSas)?;
        Account::of_name(name, suffix, Credential::Sas(Secret::new(sas)))?.with_endpoints(overrides)
    }

    /// The account `name`, opened by tokens. They are sent over https alone; over http only to this machine.
    ///
    /// # Errors
    /// [`AccountError`].
    pub fn from_token_provider(
        name: &str,
        provider: Arc<dyn TokenProvider>,
        suffix: &str,
        overrides: &EndpointOverrides,
    ) -> Result<Account, AccountError> {
        Account::of_name(name, suffix, Credential::Token(provider))?.with_endpoints(overrides)
    }

    /// The same account at other endpoints.
    ///
    /// # Errors
    /// [`AccountError`] if one of them cannot be used.
    pub fn with_endpoints(mut self, overrides: &EndpointOverrides) -> Result<Account, AccountError> {
        let given = [&overrides.blob, &overrides.queue, &overrides.table];
        for ((endpoint, given), service) in self.endpoints.iter_mut().zip(given).zip([Service::Blob, Service::Queue, Service::Table]) {
            if let Some(text) = given {
                *endpoint = Endpoint::of(text).map_err(|problem| AccountError::InvalidEndpoint { service: service.as_str(), problem })?;
            }
        }
        for service in [Service::Blob, Service::Queue, Service::Table] {
            let url = self.url(service);
            if matches!(self.credential, Credential::Token(_)) && url.scheme() != "https" && !is_loopback(url) {
                return Err(AccountError::TokenOverHttp { service: service.as_str() });
            }
        }
        Ok(self)
    }

    fn of_name(name: &str, suffix: &str, credential: Credential) -> Result<Account, AccountError> {
        let name = checked_name(name).map_err(|_| AccountError::InvalidName)?;
        let endpoint = |service: Service| {
            Endpoint::of(&format!("https://{name}.{}.{suffix}", service.as_str()))
                .map_err(|problem| AccountError::InvalidEndpoint { service: service.as_str(), problem })
        };
        let endpoints = [endpoint(Service::Blob)?, endpoint(Service::Queue)?, endpoint(Service::Table)?];
        Ok(Account { name, endpoints, credential })
    }

    fn emulator(settings: &Settings<'_>) -> Result<Account, ConnectionStringError> {
        if settings.get("DevelopmentStorageProxyUri")?.is_some() {
            return Err(ConnectionStringError::DevelopmentStorageProxy);
        }
        let endpoint =
            |service: Service, port: u16| Endpoint::parse(setting_of(service), &format!("http://127.0.0.1:{port}/{EMULATOR_ACCOUNT}"));
        Ok(Account {
            name: EMULATOR_ACCOUNT.to_owned(),
            endpoints: [endpoint(Service::Blob, 10000)?, endpoint(Service::Queue, 10001)?, endpoint(Service::Table, 10002)?],
            credential: Credential::SharedKey(Secret::new(EMULATOR_KEY)),
        })
    }

    /// The account's name; with path-style endpoints the path's segment, such as `devstoreaccount1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The endpoint of a service, without a trailing slash.
    pub fn endpoint(&self, service: Service) -> &str {
        &self.of(service).text
    }

    /// The host of a service's endpoint, without port, for allow-lists.
    pub fn host(&self, service: Service) -> &str {
        &self.of(service).host
    }

    /// True if requests to the service are encrypted.
    pub fn is_encrypted(&self, service: Service) -> bool {
        self.url(service).scheme() == "https"
    }

    /// How requests are signed: `SharedKey`, `Sas` or `Token`.
    pub fn method(&self) -> &'static str {
        match self.credential {
            Credential::SharedKey(_) => "SharedKey",
            Credential::Sas(_) => "Sas",
            Credential::Token(_) => "Token",
        }
    }

    pub(super) fn url(&self, service: Service) -> &Url {
        &self.of(service).url
    }

    pub(super) fn credential(&self) -> &Credential {
        &self.credential
    }

    fn of(&self, service: Service) -> &Endpoint {
        let [blob, queue, table] = &self.endpoints;
        match service {
            Service::Blob => blob,
            Service::Queue => queue,
            Service::Table => table,
        }
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("blob", &self.endpoint(Service::Blob))
            .field("queue", &self.endpoint(Service::Queue))
            .field("table", &self.endpoint(Service::Table))
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    fn parse(setting: &'static str, text: &str) -> Result<Endpoint, ConnectionStringError> {
        Endpoint::of(text).map_err(|problem| ConnectionStringError::InvalidEndpoint { setting, problem })
    }

    /// The endpoint of this text, or what is wrong with it.
    fn of(text: &str) -> Result<Endpoint, &'static str> {
        let url = Url::parse(text).map_err(|_| "is not a URL: it must look like https://host or http://host:port/account")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("must begin with http:// or https://");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user name or password: use AccountKey or SharedAccessSignature");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not have a query: move it to SharedAccessSignature");
        }
        let host = url.host_str().map(str::to_owned).ok_or("has no host")?;
        let text = url.as_str().trim_end_matches('/').to_owned();
        Ok(Endpoint { url, text, host })
    }

    /// Path style: the only segment of the path. Host style: the first label of the host.
    fn account_name(&self) -> Option<String> {
        let segment = self.url.path_segments().and_then(|mut segments| segments.find(|segment| !segment.is_empty()));
        let name = match (segment, self.url.domain()) {
            (Some(segment), _) => segment,
            (None, Some(domain)) => domain.split('.').next()?,
            (None, None) => return None,
        };
        checked_name(name).ok()
    }
}

/// The settings that this module reads, in their own spelling.
const KNOWN: [&str; 10] = [
    "AccountName",
    "AccountKey",
    "SharedAccessSignature",
    "DefaultEndpointsProtocol",
    "EndpointSuffix",
    "BlobEndpoint",
    "QueueEndpoint",
    "TableEndpoint",
    "UseDevelopmentStorage",
    "DevelopmentStorageProxyUri",
];

struct Settings<'a>(HashMap<&'static str, &'a str>);

impl<'a> Settings<'a> {
    fn parse(text: &'a str) -> Result<Settings<'a>, ConnectionStringError> {
        let mut settings = HashMap::new();
        let mut parts = 0;
        for (index, part) in text.split(';').map(str::trim).enumerate().filter(|(_, part)| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or(ConnectionStringError::NotKeyValue(index + 1))?;
            parts += 1;
            if let Some(known) = KNOWN.into_iter().find(|known| known.eq_ignore_ascii_case(key.trim()))
                && settings.insert(known, value.trim()).is_some()
            {
                return Err(ConnectionStringError::Duplicate(known));
            }
        }
        if parts == 0 { Err(ConnectionStringError::Empty) } else { Ok(Settings(settings)) }
    }

    fn get(&self, setting: &'static str) -> Result<Option<&'a str>, ConnectionStringError> {
        match self.0.get(setting) {
            Some(&"") => Err(ConnectionStringError::EmptyValue(setting)),
            value => Ok(value.copied()),
        }
    }

    fn credential(&self) -> Result<Credential, ConnectionStringError> {
        if let Some(sas) = self.get("SharedAccessSignature")? {
            let sas = checked_sas(sas).ok_or(ConnectionStringError::InvalidSharedAccessSignature)?;
            return Ok(Credential::Sas(Secret::new(sas)));
        }
        let key = self.get("AccountKey")?.ok_or(ConnectionStringError::MissingCredential)?;
        STANDARD.decode(key).map_err(|_| ConnectionStringError::InvalidAccountKey)?;
        Ok(Credential::SharedKey(Secret::new(key)))
    }

    fn endpoint(&self, service: Service) -> Result<Option<Endpoint>, ConnectionStringError> {
        let setting = setting_of(service);
        self.get(setting)?.map(|text| Endpoint::parse(setting, text)).transpose()
    }

    fn endpoint_or_default(
        &self,
        service: Service,
        explicit: Option<Endpoint>,
        account: Option<&str>,
    ) -> Result<Endpoint, ConnectionStringError> {
        if let Some(endpoint) = explicit {
            return Ok(endpoint);
        }
        let setting = setting_of(service);
        let account = account.ok_or(ConnectionStringError::MissingEndpoint(setting))?;
        let protocol = match self.get("DefaultEndpointsProtocol")? {
            None => "https",
            Some(value) if value.eq_ignore_ascii_case("https") => "https",
            Some(value) if value.eq_ignore_ascii_case("http") => "http",
            Some(_) => return Err(ConnectionStringError::InvalidProtocol),
        };
        let suffix = self.get("EndpointSuffix")?.unwrap_or(PUBLIC_SUFFIX);
        let label = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !suffix.split('.').all(label) {
            return Err(ConnectionStringError::InvalidEndpointSuffix);
        }
        Endpoint::parse(setting, &format!("{protocol}://{account}.{}.{suffix}", service.as_str()))
    }
}

/// A signature without its `?`; none if it is none.
fn checked_sas(text: &str) -> Option<&str> {
    let sas = text.trim().trim_start_matches('?');
    let signed = sas.split('&').any(|pair| pair.strip_prefix("sig=").is_some_and(|signature| !signature.is_empty()));
    let printable = sas.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    (signed && printable).then_some(sas)
}

/// The name goes into host names and signatures: nothing but the characters that accounts have.
fn checked_name(name: &str) -> Result<String, ConnectionStringError> {
    let valid = (3..=24).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if valid { Ok(name.to_owned()) } else { Err(ConnectionStringError::InvalidAccountName) }
}

fn setting_of(service: Service) -> &'static str {
    match service {
        Service::Blob => "BlobEndpoint",
        Service::Queue => "QueueEndpoint",
        Service::Table => "TableEndpoint",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Account, ConnectionStringError> {
        Account::from_connection_string(text)
    }

    fn endpoints(account: &Account) -> [&str; 3] {
        [Service::Blob, Service::Queue, Service::Table].map(|service| account.endpoint(service))
    }

    #[test]
    fn the_portal_s_form_gives_host_style_endpoints() {
        let account = parse("DefaultEndpointsProtocol=https;AccountName=orders1;AccountKey=a2V5;EndpointSuffix=core.windows.net").unwrap();
        assert_eq!(account.name(), "orders1");
        assert_eq!(
            endpoints(&account),
            ["https://orders1.blob.core.windows.net", "https://orders1.queue.core.windows.net", "https://orders1.table.core.windows.net"]
        );
        assert_eq!(account.host(Service::Queue), "orders1.queue.core.windows.net");
    }

    #[test]
    fn keys_have_no_case_and_unknown_ones_are_ignored() {
        let text =
            " accountname = orders1 ;ACCOUNTKEY=a2V5==;FileEndpoint=https://x;defaultendpointsprotocol=HTTP;endpointsuffix=local.test;; ";
        assert_eq!(parse(text).unwrap_err(), ConnectionStringError::InvalidAccountKey);
        let account = parse(&text.replace("a2V5==", "a2V5")).unwrap();
        assert_eq!(account.endpoint(Service::Table), "http://orders1.table.local.test");
    }

    #[test]
    fn the_emulator_s_short_form_is_known() {
        let account = parse("UseDevelopmentStorage=true").unwrap();
        assert_eq!(account.name(), "devstoreaccount1");
        let ports = [10000, 10001, 10002].map(|port| format!("http://127.0.0.1:{port}/devstoreaccount1"));
        assert_eq!(endpoints(&account).map(str::to_owned), ports);
        assert_eq!(account.host(Service::Blob), "127.0.0.1");
        let proxied = parse("UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://host").unwrap_err();
        assert_eq!(proxied, ConnectionStringError::DevelopmentStorageProxy);
    }

    #[test]
    fn a_sas_wins_and_names_its_account_by_the_endpoint() {
        let sas = "SharedAccessSignature=?sv=2022-11-02&sig=abc%3D";
        let hosts = "BlobEndpoint=https://orders1.blob.core.windows.net/;QueueEndpoint=https://orders1.queue.core.windows.net/;TableEndpoint=https://orders1.table.core.windows.net/";
        let account = parse(&format!("{hosts};AccountKey=a2V5;{sas}")).unwrap();
        assert!(matches!(account.credential(), Credential::Sas(_)));
        assert_eq!(account.name(), "orders1");
        assert_eq!(account.endpoint(Service::Blob), "https://orders1.blob.core.windows.net");

        let path = "http://127.0.0.1:1/acc1";
        let account = parse(&format!("BlobEndpoint={path};QueueEndpoint={path};TableEndpoint={path}/;{sas}")).unwrap();
        assert_eq!((account.name(), account.endpoint(Service::Table)), ("acc1", path));

        let partly = parse(&format!("BlobEndpoint=https://orders1.blob.core.windows.net/;{sas}")).unwrap_err();
        assert_eq!(partly, ConnectionStringError::MissingEndpoint("QueueEndpoint"));
    }

    #[test]
    fn errors_say_what_to_change_and_repeat_nothing() {
        const SECRET: &str = "S3CRET";
        let cases = [
            ("", "is empty"),
            (" ; ", "is empty"),
            ("AccountName=orders1;S3CRET", "part 2"),
            ("AccountName=orders1;AccountKey=S3CRET!", "not valid Base64"),
            ("AccountName=orders1;AccountKey=", "AccountKey in the connection string is empty"),
            ("AccountKey=UzNDUkVU", "no AccountName"),
            ("AccountName=orders1", "add AccountKey or SharedAccessSignature"),
            ("AccountName=S3CRET/..;AccountKey=a2V5", "3 to 24"),
            ("AccountName=orders1;AccountName=S3CRET", "AccountName twice"),
            ("AccountName=orders1;SharedAccessSignature=S3CRET", "'sig'"),
            ("AccountName=orders1;SharedAccessSignature=sig=S3CRET#x", "'sig'"),
            ("AccountName=orders1;AccountKey=a2V5;DefaultEndpointsProtocol=S3CRET", "http or https"),
            ("AccountName=orders1;AccountKey=a2V5;EndpointSuffix=x/S3CRET", "domain name"),
            ("AccountName=orders1;AccountKey=a2V5;EndpointSuffix=x@S3CRET", "domain name"),
            ("AccountName=orders1;AccountKey=a2V5;BlobEndpoint=ftp://S3CRET", "BlobEndpoint in the connection string must begin with http"),
            ("AccountName=orders1;AccountKey=a2V5;QueueEndpoint=S3CRET", "QueueEndpoint in the connection string is not a URL"),
            ("AccountName=orders1;AccountKey=a2V5;TableEndpoint=https://h/?sig=S3CRET", "must not have a query"),
            ("AccountName=orders1;AccountKey=a2V5;TableEndpoint=https://u:S3CRET@h/", "user name or password"),
            ("UseDevelopmentStorage=S3CRET", "true or false"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
        }
        let account = parse("AccountName=orders1;SharedAccessSignature=sig=S3CRET").unwrap();
        assert!(!format!("{account:?}").contains(SECRET));
        assert!(!format!("{:?}", account.credential()).contains(SECRET));
    }

    struct NoTokens;

    impl TokenProvider for NoTokens {
        fn token(&self) -> super::super::TokenFuture<'_> {
            Box::pin(async { Err(super::super::TokenError::new(super::super::TokenErrorKind::Unavailable, "none here")) })
        }
    }

    fn overrides(table: &str) -> EndpointOverrides {
        EndpointOverrides { table: Some(table.to_owned()), ..EndpointOverrides::default() }
    }

    #[test]
    fn name_and_cloud_give_endpoints_unless_they_are_given() {
        let government = "core.usgovcloudapi.net";
        let account = Account::from_sas("orders1", "?sv=1&sig=S3CRET", government, &overrides("https://10.0.0.1:4/orders1/")).unwrap();
        assert_eq!(
            endpoints(&account),
            ["https://orders1.blob.core.usgovcloudapi.net", "https://orders1.queue.core.usgovcloudapi.net", "https://10.0.0.1:4/orders1"]
        );
        assert_eq!((account.name(), account.method(), account.host(Service::Table)), ("orders1", "Sas", "10.0.0.1"));
        let account = parse("AccountName=orders1;AccountKey=a2V5").unwrap().with_endpoints(&overrides("http://localhost:1/o")).unwrap();
        assert_eq!(account.host(Service::Table), "localhost");
        assert!(!account.is_encrypted(Service::Table) && account.is_encrypted(Service::Blob));
    }

    #[test]
    fn what_is_no_account_is_refused_without_a_word_of_the_secret() {
        for (name, sas, table) in [
            ("Orders", "sig=S3CRET", "https://h"),
            ("orders/1", "sig=S3CRET", "https://h"),
            ("orders1", "S3CRET", "https://h"),
            ("orders1", "sig=S3CRET x", "https://h"),
            ("orders1", "sig=S3CRET", "ftp://h"),
            ("orders1", "sig=S3CRET", "https://user:S3CRET@h"),
            ("orders1", "sig=S3CRET", "https://h/?sig=S3CRET"),
            ("orders1", "sig=S3CRET", "/h"),
        ] {
            let error = Account::from_sas(name, sas, PUBLIC_SUFFIX, &overrides(table)).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("S3CRET"), "{error:?}");
        }
    }

    #[test]
    fn tokens_travel_encrypted_or_not_beyond_this_machine() {
        let account = |table: &str| Account::from_token_provider("orders1", Arc::new(NoTokens), PUBLIC_SUFFIX, &overrides(table));
        for table in ["https://10.0.0.1", "http://127.0.0.1:1/a", "http://[::1]:1/a", "http://localhost/a"] {
            assert_eq!(account(table).unwrap().method(), "Token", "{table}");
        }
        for table in ["http://10.0.0.1", "http://orders1.table.core.windows.net", "http://localhost.evil.example", "http://0.0.0.0:1"] {
            assert_eq!(account(table).unwrap_err(), AccountError::TokenOverHttp { service: "table" }, "{table}");
        }
        let shown = format!("{:?}", account("https://h").unwrap().credential());
        assert_eq!(shown, "Token(..)");
    }
}
