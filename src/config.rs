//! The operator's flags as typed, and the configuration that they amount to.
//!
//! `Args` cannot fail on the environment; `Config` is resolved and checked.
//! Flags and variables are a stable interface (architecture.md 7 of the design).

use std::net::SocketAddr;

use clap::Parser;

use crate::telemetry::{DEFAULT_FILTER, LogFormat};

/// The storage suffixes of the public clouds. A tenant's connection string must not make the operator call into the cluster or its own pod.
const PUBLIC_CLOUD_SUFFIXES: [&str; 5] =
    ["core.windows.net", "storage.azure.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn", "core.cloudapi.de"];

/// Runs Durable Functions orchestrations that are described as Kubernetes objects.
#[derive(Debug, Parser)]
#[command(
    name = "durable-operator",
    version,
    after_help = "Examples:
  durable-operator
      In a cluster with the pod's service account, else with KUBECONFIG.
  durable-operator --watch-namespace shop --watch-namespace billing
      Only the objects of two namespaces.
  durable-operator --allowed-endpoint-suffix 127.0.0.1
      Also accept a storage emulator on this machine, besides the public clouds."
)]
pub struct Args {
    /// Watch only this namespace; may be given more than once [default: all namespaces]
    #[arg(long = "watch-namespace", env = "DURABLE_WATCH_NAMESPACE", value_name = "NAMESPACE", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Address of /livez, /readyz and /metrics
    #[arg(long, env = "DURABLE_ADMIN_ADDRESS", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub admin_address: SocketAddr,

    /// Also accept storage endpoints of this host, or of hosts below it; may be given more than once. The suffixes of the public clouds are always accepted
    #[arg(long = "allowed-endpoint-suffix", env = "DURABLE_ALLOWED_ENDPOINT_SUFFIX", value_name = "SUFFIX", value_delimiter = ',')]
    pub allowed_endpoint_suffixes: Vec<String>,

    /// Ask this authority for the tokens of workload identities, instead of the cloud's own: an https URL without a path; http on this machine only [default: by the TaskHub's cloud]
    // Safe, because who starts the operator decides and no object can: service account tokens with the exchange's audience go there.
    #[arg(long, env = "DURABLE_AUTHORITY_HOST", value_name = "URL", value_parser = authority_host)]
    pub authority_host: Option<String>,

    /// Work only while this operator holds the lease `durable-operator`, so that of several one works and the others stand by
    #[arg(long, env = "DURABLE_LEADER_ELECTION", value_name = "true|false", default_value_t = true, action = clap::ArgAction::Set, hide_possible_values = true)]
    pub leader_election: bool,

    /// Namespace of the lease: operators that share it are replicas of one [default: the pod's namespace, or that of the kubeconfig's context, or `default`]
    #[arg(long, env = "DURABLE_LEASE_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// This operator's name in the lease, which no other may have; a pod's is the pod's name [default: the host's name and a random suffix]
    #[arg(long, env = "DURABLE_LEASE_IDENTITY", value_name = "IDENTITY")]
    pub lease_identity: Option<String>,

    /// Send traces to this OpenTelemetry receiver (OTLP over HTTP), for example http://collector:4318 [default: no traces]
    #[arg(long, env = "DURABLE_OTLP_ENDPOINT", value_name = "URL", value_parser = otlp_endpoint)]
    pub otlp_endpoint: Option<String>,

    /// How log lines look
    #[arg(long, env = "DURABLE_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Which log lines are written, for example `info,durable_operator=debug`
    #[arg(long, env = "DURABLE_LOG_FILTER", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    pub log_filter: String,
}

/// What the operator runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// The namespaces to watch; empty is all.
    pub watch_namespaces: Vec<String>,
    /// Where the admin server listens.
    pub admin_address: SocketAddr,
    /// Which hosts a storage account may have.
    pub allowed_endpoints: AllowedEndpoints,
    /// Who is asked for the tokens of workload identities, if not the cloud.
    pub authority_host: Option<String>,
    /// The receiver of traces; none is sent any.
    pub otlp_endpoint: Option<String>,
    /// The lease that is held while working; none works without.
    pub lease: Option<LeaseConfig>,
}

/// The lease, and who holds it.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Where the lease is, if not in the client's own namespace.
    pub namespace: Option<String>,
    /// The name of this operator in it.
    pub identity: String,
}

/// The hosts that credentials may be sent to.
#[derive(Debug, Clone)]
pub struct AllowedEndpoints {
    suffixes: Vec<String>,
}

impl AllowedEndpoints {
    /// The public clouds and `further` suffixes.
    pub fn new(further: &[String]) -> AllowedEndpoints {
        let further = further.iter().map(|suffix| suffix.trim().trim_start_matches('.').to_ascii_lowercase());
        let suffixes = PUBLIC_CLOUD_SUFFIXES.map(str::to_owned).into_iter().chain(further).filter(|suffix| !suffix.is_empty()).collect();
        AllowedEndpoints { suffixes }
    }

    /// True if `host` is one of the suffixes or lies below one, label by label.
    pub fn allow(&self, host: &str) -> bool {
        self.suffixes.iter().any(|suffix| is_below(host, suffix))
    }

    /// True if `host` is allowed because it belongs to a public cloud, where everything is served with TLS.
    pub fn is_public_cloud(&self, host: &str) -> bool {
        PUBLIC_CLOUD_SUFFIXES.iter().any(|suffix| is_below(host, suffix))
    }
}

fn is_below(host: &str, suffix: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `http://host:port` or `https://host/path`, or empty: an empty variable is as good as a missing one.
fn otlp_endpoint(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(String::new());
    }
    let uri: http::Uri = text.parse().map_err(|error| format!("it is no URL ({error}): it must look like http://collector:4318"))?;
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if !has_host || !["http", "https"].contains(&uri.scheme_str().unwrap_or_default()) {
        return Err("it must look like http://collector:4318: OTLP over HTTP, not gRPC".to_owned());
    }
    if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("it must hold no credential: set OTEL_EXPORTER_OTLP_HEADERS, for example authorization=Bearer%20...".to_owned());
    }
    Ok(text.to_owned())
}

/// `https://host`, or `http://` and this machine; without a trailing slash.
fn authority_host(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("it is no URL: {error}"))?;
    let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default());
    let is_here =
        host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    match scheme {
        _ if host.is_empty() || authority.contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() => {
            Err("it must look like https://login.example.com".to_owned())
        }
        "https" => Ok(format!("https://{authority}")),
        "http" if is_here => Ok(format!("http://{authority}")),
        _ => Err("it must begin with https://, as it is sent proofs of identity".to_owned()),
    }
}

impl From<&Args> for Config {
    fn from(args: &Args) -> Config {
        let mut watch_namespaces: Vec<String> = args.watch_namespaces.iter().filter(|name| !name.is_empty()).cloned().collect();
        watch_namespaces.sort();
        watch_namespaces.dedup();
        Config {
            watch_namespaces,
            admin_address: args.admin_address,
            allowed_endpoints: AllowedEndpoints::new(&args.allowed_endpoint_suffixes),
            authority_host: args.authority_host.clone(),
            otlp_endpoint: not_empty(args.otlp_endpoint.as_deref()),
            lease: args.leader_election.then(|| LeaseConfig {
                namespace: not_empty(args.lease_namespace.as_deref()),
                identity: not_empty(args.lease_identity.as_deref()).unwrap_or_else(unique_identity),
            }),
        }
    }
}

/// A variable that is set to nothing is not set.
fn not_empty(text: Option<&str>) -> Option<String> {
    text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The host's name for people, and a random part so that two operators on one host differ.
fn unique_identity() -> String {
    let host = std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host = not_empty(host.as_deref()).unwrap_or_else(|| "operator".to_owned());
    let random = uuid::Uuid::new_v4().simple().to_string();
    format!("{host}-{}", random.get(..8).unwrap_or(&random))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_lease_is_held_unless_told_otherwise() {
        let config = |arguments: &[&str]| Config::from(&Args::parse_from(std::iter::once(&"durable-operator").chain(arguments)));
        assert!(config(&["--leader-election", "false"]).lease.is_none());
        let (one, another) = (config(&["--leader-election=true"]).lease.unwrap(), config(&["--lease-identity", ""]).lease.unwrap());
        assert_ne!(one.identity, another.identity);
        let of_pod = config(&["--lease-identity", "operator-7c9f-x2x4q", "--lease-namespace", "durable"]).lease.unwrap();
        assert_eq!((of_pod.identity.as_str(), of_pod.namespace.as_deref()), ("operator-7c9f-x2x4q", Some("durable")));
    }

    #[test]
    fn only_hosts_of_the_listed_suffixes_are_allowed() {
        let public = AllowedEndpoints::new(&[]);
        for host in ["orders.blob.core.windows.net", "ORDERS.z11.queue.storage.azure.net", "a.table.core.chinacloudapi.cn."] {
            assert!(public.allow(host), "{host}");
        }
        for host in [
            "127.0.0.1",
            "localhost",
            "kubernetes.default.svc",
            "evilcore.windows.net",
            "core.windows.net.evil.example",
            "169.254.169.254",
            "",
        ] {
            assert!(!public.allow(host), "{host}");
        }
        let with_emulator = AllowedEndpoints::new(&["127.0.0.1".to_owned(), " .storage.svc.cluster.local".to_owned(), String::new()]);
        for host in ["127.0.0.1", "emulator.storage.svc.cluster.local"] {
            assert!(with_emulator.allow(host), "{host}");
        }
        assert!(!with_emulator.allow("1127.0.0.1"));
    }

    #[test]
    fn traces_go_to_a_url_without_a_credential_or_nowhere() {
        for (text, expected) in [
            ("", Ok(None)),
            (" ", Ok(None)),
            ("http://collector:4318", Ok(Some("http://collector:4318"))),
            (" https://gateway.example/otlp", Ok(Some("https://gateway.example/otlp"))),
            ("collector:4318", Err("like http://collector:4318")),
            ("grpc://collector:4317", Err("like http://collector:4318")),
            ("http://", Err("like http://collector:4318")),
            ("a receiver", Err("like http://collector:4318")),
            ("http://user:secret@collector", Err("OTEL_EXPORTER_OTLP_HEADERS")),
            ("http://collector?key=secret", Err("OTEL_EXPORTER_OTLP_HEADERS")),
        ] {
            let parsed = Args::try_parse_from(["durable-operator", "--otlp-endpoint", text]);
            match (parsed.as_ref().map(|args| Config::from(args).otlp_endpoint), expected) {
                (Ok(endpoint), Ok(expected)) => assert_eq!(endpoint.as_deref(), expected, "{text}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{text}: {error}"),
                (other, _) => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_authority_is_asked_over_tls_or_on_this_machine() {
        for (text, expected) in [
            ("https://login.microsoftonline.com/", Some("https://login.microsoftonline.com")),
            ("https://login.example:8443", Some("https://login.example:8443")),
            ("http://127.0.0.1:4000", Some("http://127.0.0.1:4000")),
            ("http://[::1]:4000", Some("http://[::1]:4000")),
            ("http://login.example", None),
            ("http://127.0.0.1.evil.example", None),
            ("https://user@login.example", None),
            ("https://login.example/tenant", None),
            ("https://login.example?x", None),
            ("login.example", None),
            ("", None),
        ] {
            assert_eq!(authority_host(text).ok().as_deref(), expected, "{text}");
        }
    }
}
