//! Connection strings: which account, at which endpoints, with which credential.
//!
//! Knows the syntax alone; contacts nothing. No error and no `Debug` output repeats any part
//! of the input's values, because a broken connection string is mostly a whole secret.

use std::collections::HashMap;
use std::fmt;

use azure_core::http::Url;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Service;
use super::credential::{Credential, Secret};

/// The storage emulator's account and key, published by its makers.
const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
const EMULATOR_KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

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
            (None, Credential::Sas(_)) => {
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

    /// How requests are signed: `SharedKey` or `Sas`.
    pub fn method(&self) -> &'static str {
        match self.credential {
            Credential::SharedKey(_) => "SharedKey",
            Credential::Sas(_) => "Sas",
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
        let invalid = |problem| ConnectionStringError::InvalidEndpoint { setting, problem };
        let url = Url::parse(text).map_err(|_| invalid("is not a URL: it must look like https://host or http://host:port/account"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("must begin with http:// or https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("must not hold a user name or password: use AccountKey or SharedAccessSignature"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("must not have a query: move it to SharedAccessSignature"));
        }
        let Some(host) = url.host_str().map(str::to_owned) else {
            return Err(invalid("has no host"));
        };
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
            let sas = sas.trim_start_matches('?');
            let signed = sas.split('&').any(|pair| pair.strip_prefix("sig=").is_some_and(|signature| !signature.is_empty()));
            let printable = sas.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
            if !signed || !printable {
                return Err(ConnectionStringError::InvalidSharedAccessSignature);
            }
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
        let suffix = self.get("EndpointSuffix")?.unwrap_or("core.windows.net");
        let label = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !suffix.split('.').all(label) {
            return Err(ConnectionStringError::InvalidEndpointSuffix);
        }
        Endpoint::parse(setting, &format!("{protocol}://{account}.{}.{suffix}", service.as_str()))
    }
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
