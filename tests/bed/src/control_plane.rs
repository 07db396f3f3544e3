//! etcd, kube-apiserver and, where a test needs them, a few controllers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::assets::Assets;
use crate::azurite::free_address;
use crate::certificates::{Authority, Identity, service_account_key};
use crate::guard::{Process, Signal};
use crate::{BedError, blocking, during, folder};

/// The controllers that tests need; there is no scheduler and no kubelet.
const CONTROLLERS: &str = "garbage-collector-controller,namespace-controller,serviceaccount-controller,\
                           clusterrole-aggregation-controller,root-ca-certificate-publisher-controller";

/// What is logged of a request: who asked for what, and whether it was allowed. No bodies.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: None, userGroups: ['system:masters']}
- {level: Metadata}
";

const NO_ENVIRONMENT: [(&str, &str); 0] = [];

/// A running control plane. It ends when it is dropped.
pub struct ControlPlane {
    // In the order of the end: an API server that lost its etcd hangs for minutes.
    controllers: Option<Process>,
    api_server: Option<Process>,
    _etcd: Process,
    assets: Assets,
    folder: PathBuf,
    authority: Authority,
    address: SocketAddr,
    arguments: Vec<String>,
    kubeconfig: PathBuf,
}

/// What `kubectl` said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// True if it ended with 0.
    pub success: bool,
    /// Its standard output.
    pub output: String,
    /// Its standard error.
    pub errors: String,
}

impl ControlPlane {
    /// Starts etcd and kube-apiserver with RBAC and certificates of their own; ready when it returns.
    ///
    /// # Errors
    /// If a server does not come up, with the end of its log.
    pub fn start(assets: &Assets) -> Result<ControlPlane, BedError> {
        ControlPlane::start_with(assets, None)
    }

    /// The same, and what others than administrators ask for is written to the audit log `log`, request by request.
    ///
    /// # Errors
    /// As [`ControlPlane::start`].
    pub fn start_audited(assets: &Assets, log: &Path) -> Result<ControlPlane, BedError> {
        ControlPlane::start_with(assets, Some(log))
    }

    fn start_with(assets: &Assets, audit_log: Option<&Path>) -> Result<ControlPlane, BedError> {
        const TRIES: usize = 3;
        let mut last = BedError::new("not tried");
        for _ in 0..TRIES {
            // Another process may take a port between the choice and the bind: then once more with others.
            match ControlPlane::try_start(assets, audit_log) {
                Ok(control_plane) => return Ok(control_plane),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn try_start(assets: &Assets, audit_log: Option<&Path>) -> Result<ControlPlane, BedError> {
        let folder = folder::new("control-plane")?;
        let (address, etcd_address, peer_address) = (free_address()?, free_address()?, free_address()?);
        let authority = Authority::new()?;
        let write = |name: &str, text: &str| during(format!("writing {name}"), std::fs::write(folder.join(name), text));
        let server = authority.server()?;
        let (private, public) = service_account_key()?;
        write("ca.crt", &authority.certificate)?;
        write("serving.crt", &server.certificate)?;
        write("serving.key", &server.key)?;
        write("service-account.key", &private)?;
        write("service-account.pub", &public)?;

        let etcd_url = format!("http://{etcd_address}");
        let etcd = [
            "--data-dir=etcd".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://{peer_address}"),
        ];
        let etcd = Process::start("etcd", &folder, &assets.etcd, etcd, NO_ENVIRONMENT)?;
        let mut arguments = vec![
            format!("--etcd-servers={etcd_url}"),
            format!("--bind-address={}", address.ip()),
            format!("--secure-port={}", address.port()),
            format!("--advertise-address={}", address.ip()),
            "--tls-cert-file=serving.crt".to_owned(),
            "--tls-private-key-file=serving.key".to_owned(),
            "--client-ca-file=ca.crt".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-account-key-file=service-account.pub".to_owned(),
            "--service-account-signing-key-file=service-account.key".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--allow-privileged".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--profiling=false".to_owned(),
        ];
        if let Some(log) = audit_log {
            write("audit.yaml", AUDIT_POLICY)?;
            arguments.extend(["--audit-policy-file=audit.yaml".to_owned(), format!("--audit-log-path={}", log.display())]);
        }
        let kubeconfig = folder.join("kubeconfig");
        let mut control_plane = ControlPlane {
            controllers: None,
            api_server: None,
            _etcd: etcd,
            assets: assets.clone(),
            folder,
            authority,
            address,
            arguments,
            kubeconfig,
        };
        let admin = control_plane.authority.user("admin", &["system:masters"])?;
        let text = control_plane.kubeconfig_of(&admin);
        during("writing the kubeconfig", std::fs::write(&control_plane.kubeconfig, text))?;
        control_plane.resume_api_server()?;
        Ok(control_plane)
    }

    /// Starts the API server again on the same port, after [`ControlPlane::interrupt_api_server`].
    ///
    /// # Errors
    /// If it does not come up.
    pub fn resume_api_server(&mut self) -> Result<(), BedError> {
        let mut process = Process::start("kube-apiserver", &self.folder, &self.assets.kube_apiserver, &self.arguments, NO_ENVIRONMENT)?;
        let config = self.config()?;
        blocking(async || {
            let client = kube::Client::try_from(config).map_err(|error| BedError::new(error.to_string()))?;
            let deadline = std::time::Instant::now() + Duration::from_secs(90);
            loop {
                let request = hyper::Request::get("/readyz").body(Vec::new()).map_err(|error| BedError::new(error.to_string()))?;
                if matches!(tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await, Ok(Ok(text)) if text == "ok")
                {
                    return Ok(());
                }
                if process.ended().is_some() || std::time::Instant::now() > deadline {
                    return process.until(Duration::ZERO, || false);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })??;
        self.api_server = Some(process);
        Ok(())
    }

    /// Ends the API server at once; port, data and certificates are kept.
    pub fn interrupt_api_server(&mut self) {
        self.api_server = None;
    }

    /// Starts the garbage collector, the namespace controller and what they need.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start_controllers(&mut self) -> Result<(), BedError> {
        let arguments = [
            format!("--kubeconfig={}", self.kubeconfig.display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
            "--secure-port=0".to_owned(),
            "--use-service-account-credentials=false".to_owned(),
            "--service-account-private-key-file=service-account.key".to_owned(),
            "--root-ca-file=ca.crt".to_owned(),
            format!("--controllers={CONTROLLERS}"),
        ];
        let program = &self.assets.kube_controller_manager;
        self.controllers = Some(Process::start("kube-controller-manager", &self.folder, program, arguments, NO_ENVIRONMENT)?);
        Ok(())
    }

    /// The kubeconfig of the cluster's administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The folder of this control plane, with the servers' logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The pinned kubectl.
    pub fn kubectl_program(&self) -> &Path {
        &self.assets.kubectl
    }

    /// A kubeconfig for a user with no rights but those that RBAC gives to it or its groups.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf, BedError> {
        let text = self.kubeconfig_of(&self.authority.user(user, groups)?);
        let file = self.folder.join(format!("kubeconfig-{}", user.replace(':', "-")));
        during("writing a kubeconfig", std::fs::write(&file, text))?;
        Ok(file)
    }

    /// How an administrator's client reaches the API server. One client per runtime: it keeps tasks on it.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read back.
    pub fn config(&self) -> Result<kube::Config, BedError> {
        install_tls_provider();
        let kubeconfig = during("reading the kubeconfig", kube::config::Kubeconfig::read_from(&self.kubeconfig))?;
        let loading = async move || kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await;
        let mut config = during("reading the kubeconfig", blocking(loading)?)?;
        // kube takes it from HTTPS_PROXY, which is of no use on the way to this machine.
        config.proxy_url = None;
        Ok(config)
    }

    /// Runs kubectl as the administrator.
    ///
    /// # Errors
    /// If it cannot be run; what it says is in the answer.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Answer, BedError> {
        self.kubectl_with_input(arguments, "")
    }

    /// Runs kubectl as the administrator, with `input` as its standard input, for `-f -`.
    ///
    /// # Errors
    /// If it cannot be run; what it says is in the answer.
    pub fn kubectl_with_input(&self, arguments: &[&str], input: &str) -> Result<Answer, BedError> {
        use std::io::Write;
        let mut child = Command::new(&self.assets.kubectl)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .current_dir(crate::workspace_root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut standard_input) = child.stdin.take() {
            standard_input.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer { success: output.status.success(), output: text(output.stdout), errors: text(output.stderr) })
    }

    fn kubeconfig_of(&self, identity: &Identity) -> String {
        use base64::Engine as _;
        let encoded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let cluster =
            json!({"server": format!("https://{}", self.address), "certificate-authority-data": encoded(&self.authority.certificate)});
        let user = json!({"client-certificate-data": encoded(&identity.certificate), "client-key-data": encoded(&identity.key)});
        // JSON is YAML.
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bed",
            "clusters": [{"name": "bed", "cluster": cluster}],
            "users": [{"name": "bed", "user": user}],
            "contexts": [{"name": "bed", "context": {"cluster": "bed", "user": "bed"}}],
        })
        .to_string()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // Fields drop in their order; the API server must not notice that etcd goes.
        if let Some(api_server) = &self.api_server {
            api_server.signal(Signal::Kill);
        }
    }
}

/// rustls needs one provider in the process; whoever comes first installs it.
pub fn install_tls_provider() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
