//! The world of one test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use durable_bed::azurite::Azurite;
use durable_bed::control_plane::{Answer, ControlPlane};
use durable_bed::guard::Process;
use durable_bed::{azurite, binaries};
use durable_operator::api::v1alpha1::{Orchestration, OrchestrationStatus, TaskHub, TaskHubStatus};
use durable_taskhub::names::HubName;
use durable_taskhub::partition::PartitionCount;
use durable_taskhub::storage::{Account, Options, Storage};
use durable_taskhub::{Instance, RuntimeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client};
use serde_json::json;

use super::{bed, eventually, rights};

/// A namespace and a hub of the test's own, both named after it.
pub struct World {
    pub namespace: String,
    pub hub_name: HubName,
    pub client: Client,
    pub control_plane: Server<ControlPlane>,
    pub azurite: Server<Azurite>,
}

/// A server that all tests share, or one of the test's own, which it may interrupt.
pub enum Server<T: 'static> {
    Shared(&'static T),
    Own(RwLock<T>),
}

impl<T> Server<T> {
    pub fn own(server: T) -> Server<T> {
        Server::Own(RwLock::new(server))
    }

    pub fn with<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        match self {
            Server::Shared(server) => look(server),
            Server::Own(server) => look(&server.read().unwrap()),
        }
    }

    /// # Panics
    /// If others share the server.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        match self {
            Server::Shared(_) => panic!("other tests use this server"),
            Server::Own(server) => change(&mut server.write().unwrap()),
        }
    }
}

/// How an operator is started: as the chart's service account, with the rights of the chart.
pub struct Launcher {
    name: String,
    folder: PathBuf,
    program: PathBuf,
    environment: Vec<(String, String)>,
}

/// An operator's process, and where its admin server listens.
pub struct OperatorProcess {
    pub process: Process,
    pub admin: std::net::SocketAddr,
}

impl World {
    /// A new namespace, and a hub on the emulator as the engine's clients make it, without a worker.
    pub async fn new(test: &str) -> World {
        let world = World::without_hub(test).await;
        world.create_hub().await;
        world
    }

    /// Makes the hub as the engine's clients make it.
    pub async fn create_hub(&self) {
        durable_worker::create::create_hub(&self.storage(), &self.hub_name, PartitionCount::DEFAULT).await.unwrap();
    }

    /// A new namespace; the hub does not exist.
    pub async fn without_hub(test: &str) -> World {
        World::on(test, Server::Shared(&bed().control_plane), Server::Shared(bed().azurite))
    }

    /// A new namespace on these servers; the hub does not exist.
    pub fn on(test: &str, control_plane: Server<ControlPlane>, azurite: Server<Azurite>) -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let client = Client::try_from(control_plane.with(ControlPlane::config).unwrap()).unwrap();
        let namespace = format!("{}-{number}", test.replace('_', "-"));
        let own = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        let objects: Vec<_> = std::iter::once(own).chain(rights::in_namespace(&namespace)).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let answer = control_plane.with(|plane| plane.kubectl_with_input(&["create", "--filename=-"], &list)).unwrap();
        assert!(answer.success, "{answer:?}");
        let camel: String = test.split('_').map(|word| word[..1].to_uppercase() + &word[1..]).collect();
        let hub_name = HubName::new(&format!("{}{number}", &camel[..camel.len().min(44)])).unwrap();
        World { namespace, hub_name, client, control_plane, azurite }
    }

    /// The emulator's account, without a proxy.
    pub fn storage(&self) -> Storage {
        let account = Account::from_connection_string(&self.connection_string()).unwrap();
        Storage::new(account, Options::default()).unwrap()
    }

    /// The connection string of the emulator's account.
    pub fn connection_string(&self) -> String {
        self.azurite.with(Azurite::connection_string)
    }

    /// A client of the test's hub.
    pub async fn hub(&self) -> durable_taskhub::TaskHub {
        durable_taskhub::TaskHub::connect(self.storage(), self.hub_name.clone(), None).await.unwrap()
    }

    /// An instance, as the hub has it.
    pub async fn instance(&self, id: &str) -> Option<Instance> {
        self.hub().await.get(id).await.unwrap()
    }

    /// Waits until a worker has taken the instance up, and it waits for its event.
    pub async fn until_it_runs(&self, id: &str) {
        eventually(&format!("instance {id} runs"), async || match self.instance(id).await {
            Some(instance) if instance.runtime_status == RuntimeStatus::Running => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// The operator, watching this world's namespace; ready when this returns.
    pub async fn operator(&self) -> OperatorProcess {
        let operator = self.start_operator(&binaries::operator().unwrap(), &[]);
        operator.until_ready().await;
        operator
    }

    /// An operator's process, perhaps not ready yet.
    ///
    /// The flags are given as variables, so that `environment` can change each of them.
    pub fn start_operator(&self, program: &Path, environment: &[(&str, &str)]) -> OperatorProcess {
        self.launcher(program, environment).start()
    }

    /// What starts an operator for this world, as often as it is asked to and without looking at the world again.
    pub fn launcher(&self, program: &Path, environment: &[(&str, &str)]) -> Launcher {
        let (kubeconfig, folder) =
            self.control_plane.with(|plane| (rights::kubeconfig(plane).to_string_lossy().into_owned(), plane.folder().to_owned()));
        let usual = [
            ("KUBECONFIG", kubeconfig.as_str()),
            ("DURABLE_WATCH_NAMESPACE", &self.namespace),
            ("DURABLE_ALLOWED_ENDPOINT_SUFFIX", "127.0.0.1"),
            // Tests start several operators and kill them: none of them shall wait for a lease, unless the lease is what is tested.
            ("DURABLE_LEADER_ELECTION", "false"),
            ("DURABLE_LEASE_NAMESPACE", &self.namespace),
            ("DURABLE_LOG_FILTER", "info,durable_operator=debug,kube_client=warn,kube_runtime=warn"),
        ];
        let environment = usual.iter().chain(environment).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Launcher { name: format!("operator-{}", self.namespace), folder, program: program.to_owned(), environment }
    }

    /// The sample worker on this world's hub. It serves when this returns.
    pub async fn worker(&self) -> Process {
        self.worker_with(&[]).await
    }

    /// The same, with further variables.
    pub async fn worker_with(&self, environment: &[(&str, &str)]) -> Process {
        self.worker_of(&binaries::worker().unwrap(), environment).await
    }

    /// The same, of this program.
    pub async fn worker_of(&self, program: &Path, environment: &[(&str, &str)]) -> Process {
        let arguments = ["--connection-string-env", "STORAGE", "--task-hub-name", self.hub_name.as_str()];
        let connection_string = self.connection_string();
        let environment = [("STORAGE", connection_string.as_str())].into_iter().chain(environment.iter().copied());
        let folder = self.control_plane.with(|plane| plane.folder().to_owned());
        let worker = Process::start(&format!("worker-{}", self.namespace), &folder, program, arguments, environment).unwrap();
        let hub = self.hub().await;
        eventually("the worker serves the hub", async || {
            let partitions = hub.partitions().await.map_err(|error| error.to_string())?;
            let now = durable_taskhub::Time::now();
            let served = partitions.iter().filter(|partition| partition.is_served(now)).count();
            if served > 0 { Ok(()) } else { Err(format!("{partitions:?}")) }
        })
        .await;
        worker
    }

    /// The Secret `storage` with `connection_string` under the key `connectionString`.
    pub fn secret(&self, connection_string: &str) {
        let secret = serde_json::json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "storage"}, "stringData": {"connectionString": connection_string}
        });
        self.apply(&secret);
    }

    /// The TaskHub `hub`, which refers to the Secret `storage`.
    pub fn task_hub(&self) {
        self.task_hub_polled("200ms");
    }

    /// The same, reading an instance at most every `min_interval`, and first after that time.
    pub fn task_hub_polled(&self, min_interval: &str) {
        self.task_hub_with(&serde_json::json!({"polling": {"minInterval": min_interval}}));
    }

    /// The TaskHub `hub`, with what `more` adds to its spec.
    pub fn task_hub_with(&self, more: &serde_json::Value) {
        let mut spec = serde_json::json!({
            "hubName": self.hub_name.as_str(),
            "connection": {"connectionStringSecretRef": {"name": "storage", "key": "connectionString"}}
        });
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.apply(&serde_json::json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "TaskHub", "metadata": {"name": "hub"}, "spec": spec
        }));
    }

    /// Secret and TaskHub on the emulator, and waits until the hub is ready.
    pub async fn ready_hub(&self) {
        self.secret(&self.connection_string());
        self.task_hub();
        self.hub_reason("Connected").await;
    }

    /// An Orchestration of `function` on the TaskHub `hub`, with what `more` adds to its spec.
    pub fn orchestration(&self, name: &str, function: &str, more: serde_json::Value) {
        let mut spec = serde_json::json!({"taskHubRef": {"name": "hub"}, "functionName": function});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.apply(&serde_json::json!({
            "apiVersion": "durable-operator.dev/v1alpha1", "kind": "Orchestration", "metadata": {"name": name}, "spec": spec
        }));
    }

    /// `kubectl apply` of one object; it must be accepted.
    pub fn apply(&self, object: &serde_json::Value) {
        let answer = self.try_apply(object);
        assert!(answer.success, "{answer:?}");
    }

    /// `kubectl apply` of one object.
    pub fn try_apply(&self, object: &serde_json::Value) -> Answer {
        let arguments = ["apply", "--namespace", &self.namespace, "--filename=-"];
        self.control_plane.with(|plane| plane.kubectl_with_input(&arguments, &object.to_string())).unwrap()
    }

    /// `kubectl` in this world's namespace; what it prints. It must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let answer = self.try_kubectl(arguments);
        assert!(answer.success, "{arguments:?}: {answer:?}");
        answer.output
    }

    /// `kubectl` in this world's namespace.
    pub fn try_kubectl(&self, arguments: &[&str]) -> Answer {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(arguments);
        self.control_plane.with(|plane| plane.kubectl(&all)).unwrap()
    }

    pub fn orchestrations(&self) -> Api<Orchestration> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn task_hubs(&self) -> Api<TaskHub> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The status of an Orchestration as it is.
    pub async fn status(&self, name: &str) -> OrchestrationStatus {
        self.orchestrations().get(name).await.unwrap().status.unwrap_or_default()
    }

    /// Waits until `Ready` has this reason.
    pub async fn reason(&self, name: &str, reason: &str) -> OrchestrationStatus {
        eventually(&format!("Orchestration {name} is {reason}"), async || {
            let status = self.status(name).await;
            if ready(&status.conditions).is_some_and(|ready| ready.reason == reason) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }

    /// Waits until `Ready` of the TaskHub `hub` has this reason.
    pub async fn hub_reason(&self, reason: &str) -> TaskHubStatus {
        eventually(&format!("TaskHub is {reason}"), async || {
            let status = self.task_hubs().get("hub").await.unwrap().status.unwrap_or_default();
            if ready(&status.conditions).is_some_and(|ready| ready.reason == reason) { Ok(status) } else { Err(format!("{status:?}")) }
        })
        .await
    }
}

fn ready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

impl Launcher {
    /// The same, with a log of its own: `name` goes into the log's name.
    pub fn named(mut self, name: &str) -> Launcher {
        self.name = format!("{}-{name}", self.name);
        self
    }

    /// An operator's process, perhaps not ready yet, with an admin address of its own.
    pub fn start(&self) -> OperatorProcess {
        let admin = azurite::free_address().unwrap();
        let admin_address = ("DURABLE_ADMIN_ADDRESS".to_owned(), admin.to_string());
        let environment = std::iter::once(&admin_address).chain(&self.environment).map(|(name, value)| (name, value));
        let arguments: [&str; 0] = [];
        let process = Process::start(&self.name, &self.folder, &self.program, arguments, environment).unwrap();
        OperatorProcess { process, admin }
    }
}

impl OperatorProcess {
    /// Waits until `/readyz` says so.
    pub async fn until_ready(&self) {
        eventually("the operator is ready", async || match self.get("/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}; log:\n{}", self.process.output())),
        })
        .await;
    }

    /// A GET on the admin server: status and body.
    pub async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        self.ask("GET", path, "").await
    }

    /// A request to the admin server: status and body.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let length = body.len();
        let exchange = async {
            let mut stream = tokio::net::TcpStream::connect(self.admin).await?;
            let request = format!("{method} {path} HTTP/1.0\r\nHost: admin\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await.map_err(std::io::Error::other)??;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    }

    /// What a run may cost: requests to the API server other than reads and watches, by verb, resource and code.
    pub async fn api_writes(&self) -> BTreeMap<String, u64> {
        self.series("durable_operator_api_requests_total", |labels| !["\"read\"", "\"watch\""].iter().any(|verb| labels.contains(verb)))
            .await
    }

    /// Requests to the storage account, by operation and code.
    pub async fn storage_requests(&self) -> BTreeMap<String, u64> {
        self.series("durable_operator_storage_requests_total", |_| true).await
    }

    /// The series of a counter by their labels, as far as they are `wanted`.
    async fn series(&self, name: &str, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
        let (status, body) = self.get("/metrics").await.unwrap();
        assert_eq!(status, 200, "{body}");
        let lines = body.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} "));
        lines.filter(|(labels, _)| wanted(labels)).map(|(labels, count)| (labels.to_owned(), count.parse().unwrap())).collect()
    }

    /// The sum of a counter over the series whose line contains all of `labels`.
    pub async fn counter(&self, name: &str, labels: &[&str]) -> u64 {
        let (status, body) = self.get("/metrics").await.unwrap();
        assert_eq!(status, 200, "{body}");
        body.lines()
            .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }
}
