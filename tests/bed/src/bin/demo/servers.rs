//! All that runs during the demo: control plane, storage emulator, worker, operator.
//!
//! Knows nothing of the runs. Invariant: operator and worker are asked to stop
//! before the servers that they talk to are gone.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use durable_bed::assets::{self, Assets};
use durable_bed::azurite::{Azurite, free_address};
use durable_bed::control_plane::ControlPlane;
use durable_bed::guard::Process;
use durable_bed::{BedError, binaries, workspace_root};

use super::console::Console;
use super::screen::Screen;

/// The hub of `tests/demo/hub.yaml`.
const HUB: &str = "DemoHub";
/// The Secret that `tests/demo/hub.yaml` refers to.
const SECRET: &str = "demo-storage";
/// The samples, the hub first.
const SAMPLES: [&str; 4] = ["hub", "hello", "echo", "fail"];

/// For servers to come up: they need a second or two.
const START_TIME_OUT: Duration = Duration::from_secs(30);
/// For operator and worker to finish what is at work.
const STOP_TIME_OUT: Duration = Duration::from_secs(10);

/// How often it is looked whether a run has come as far as it should.
const REASON_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The programs that the demo runs.
pub struct Programs {
    servers: Assets,
    operator: PathBuf,
    worker: PathBuf,
}

impl Programs {
    /// Builds what is missing.
    ///
    /// # Errors
    /// If something does not build.
    pub fn build(screen: &Screen) -> Result<Programs, BedError> {
        let once = "built from source, once: about ten minutes on two cores";
        let servers = screen.step("programs of the servers", Some((Duration::from_secs(2), once)), assets::ensure)?;
        let compile = || Ok::<_, BedError>((binaries::operator()?, binaries::worker()?));
        let (operator, worker) = screen.step("operator and worker", Some((Duration::from_secs(5), "cargo build")), compile)?;
        Ok(Programs { servers, operator, worker })
    }
}

/// What runs.
pub struct Servers {
    operator: Process,
    worker: Process,
    control_plane: ControlPlane,
    _azurite: Azurite,
    admin: std::net::SocketAddr,
    markers: PathBuf,
}

impl Servers {
    /// Starts everything; when it returns, the operator is ready for objects. `None` if `is_wanted` has changed meanwhile.
    ///
    /// # Errors
    /// If something does not come up, with the end of its log.
    pub fn start(
        screen: &Screen,
        programs: &Programs,
        console: &Console,
        is_wanted: impl Fn() -> bool,
    ) -> Result<Option<Servers>, BedError> {
        let control_plane = screen.step("Kubernetes API server and etcd", None, || ControlPlane::start(&programs.servers))?;
        if !is_wanted() {
            return Ok(None);
        }
        console.offer(control_plane.kubeconfig(), control_plane.kubectl_program())?;
        let azurite = screen.step("storage emulator (Azurite)", None, || Azurite::start(&programs.servers))?;
        if !is_wanted() {
            return Ok(None);
        }
        let markers = console.folder().join("markers");
        // Of an earlier demo: what is to fail must fail again.
        let _ = std::fs::remove_dir_all(&markers);
        std::fs::create_dir_all(&markers)?;
        let worker = screen.step("sample worker, with a new task hub", None, || start_worker(programs, console, &azurite, &markers))?;
        screen.step("kubectl apply -f crds/", None, || {
            kubectl(&control_plane, &["apply", "-f", "crds/"])?;
            kubectl(&control_plane, &["wait", "--for=condition=Established", "--timeout=30s", "-f", "crds/"])
        })?;
        if !is_wanted() {
            return Ok(None);
        }
        let admin = free_address()?;
        let operator = screen.step("operator", None, || start_operator(programs, console, &control_plane, admin))?;
        create_secret(&control_plane, &azurite.connection_string())?;
        Ok(is_wanted().then_some(Servers { operator, worker, control_plane, _azurite: azurite, admin, markers }))
    }

    /// How the API server is reached.
    ///
    /// # Errors
    /// If the kubeconfig cannot be read.
    pub fn api_server(&self) -> Result<kube::Config, BedError> {
        self.control_plane.config()
    }

    /// Applies the samples as a user would.
    ///
    /// # Errors
    /// With what kubectl says.
    pub fn apply_samples(&self, screen: &Screen) -> Result<(), BedError> {
        let files = SAMPLES.map(|sample| format!("tests/demo/{sample}.yaml"));
        let mut arguments = vec!["apply"];
        arguments.extend(files.iter().flat_map(|file| ["-f", file]));
        let shown: Vec<String> = files.iter().map(|file| format!("-f {file}")).collect();
        screen.say(&format!("$ kubectl apply {}", shown.join(" \\\n    ")));
        screen.say(&kubectl(&self.control_plane, &arguments)?);
        Ok(())
    }

    /// Runs kubectl as a user would.
    ///
    /// # Errors
    /// With what kubectl says.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, BedError> {
        kubectl(&self.control_plane, arguments)
    }

    /// The reason of `Ready` of an Orchestration: `wanted` as soon as it has it, else what it has when the time is over.
    ///
    /// # Errors
    /// With what kubectl says.
    pub fn ready_reason(&self, orchestration: &str, wanted: &str, time_out: Duration) -> Result<String, BedError> {
        const PATH: &str = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].reason}"#;
        let begun = Instant::now();
        loop {
            let found = kubectl(&self.control_plane, &["get", "orchestration", orchestration, PATH])?;
            if found == wanted || begun.elapsed() > time_out {
                return Ok(found);
            }
            std::thread::sleep(REASON_AGAIN_AFTER);
        }
    }

    /// Where the flaky activity of the sample worker looks for its markers.
    pub fn markers(&self) -> &Path {
        &self.markers
    }

    /// # Errors
    /// If the operator or the worker has ended, with the end of its log.
    pub fn check(&mut self) -> Result<(), BedError> {
        for process in [&mut self.operator, &mut self.worker] {
            // Not to be ready at once is its way to report an end.
            if process.ended().is_some() {
                process.until(Duration::ZERO, || false)?;
            }
        }
        Ok(())
    }

    /// Says how to go on by hand.
    pub fn say_what_next(&self, screen: &Screen) {
        screen.say(
            "\nLook further, in a second terminal:
  target/demo/kubectl get orchestrations -o wide
  target/demo/kubectl describe orchestration fail
  target/demo/kubectl get orchestration hello -o yaml
  target/demo/kubectl describe orchestration approval
  target/demo/kubectl explain orchestration.spec
Run hello once more:
  target/demo/kubectl replace --force -f tests/demo/hello.yaml",
        );
        self.say_where_to_look(screen);
        screen.say("\nAll of it runs until Ctrl-C.");
    }

    /// Says what a person needs who wants to know why the runs do not settle.
    pub fn say_where_it_hangs(&self, screen: &Screen) {
        if let Ok(answer) = self.control_plane.kubectl(&["get", "taskhubs,orchestrations", "-o", "wide", "--request-timeout=10s"]) {
            screen.say(&format!("\n$ kubectl get taskhubs,orchestrations -o wide\n{}{}", answer.output, answer.errors));
        }
        self.say_where_to_look(screen);
    }

    fn say_where_to_look(&self, screen: &Screen) {
        let root = workspace_root();
        let folder = self.control_plane.folder();
        let folder = folder.strip_prefix(&root).unwrap_or(folder);
        screen.say(&format!(
            "Metrics:  http://{}/metrics\nLogs:     target/demo/operator.log\n          target/demo/worker.log\n          {}/ (servers)",
            self.admin,
            folder.display()
        ));
    }

    /// Stops operator and worker, side by side, then the servers.
    pub fn stop(self) {
        let Servers { operator, worker, control_plane, _azurite: azurite, .. } = self;
        std::thread::scope(|scope| {
            for process in [operator, worker] {
                // One that does not stop in time is killed, and its log says what it did.
                scope.spawn(move || process.stop(STOP_TIME_OUT));
            }
        });
        drop((control_plane, azurite));
    }
}

fn start_worker(programs: &Programs, console: &Console, azurite: &Azurite, markers: &Path) -> Result<Process, BedError> {
    const STORAGE: &str = "DEMO_STORAGE";
    let connection_string = azurite.connection_string();
    let environment = [(STORAGE, connection_string.as_str()), ("RUST_LOG", "warn,durable_worker=info")].into_iter().chain(NO_PROXY);
    let markers = markers.to_string_lossy();
    let arguments = ["--connection-string-env", STORAGE, "--task-hub-name", HUB, "--create-hub", "--flaky-dir", &markers];
    let mut worker = Process::start("worker", console.folder(), &programs.worker, arguments, environment)?;
    let log = worker.log().to_owned();
    worker.until(START_TIME_OUT, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("serving")))?;
    Ok(worker)
}

fn start_operator(
    programs: &Programs,
    console: &Console,
    control_plane: &ControlPlane,
    admin: std::net::SocketAddr,
) -> Result<Process, BedError> {
    let kubeconfig = control_plane.kubeconfig().to_string_lossy().into_owned();
    // What the user's shell says of another operator must not reach this one.
    let environment = [("KUBECONFIG", kubeconfig.as_str()), ("DURABLE_WATCH_NAMESPACE", "")].into_iter().chain(NO_PROXY);
    let admin_address = admin.to_string();
    // There is one operator, and none that would stand by.
    let arguments =
        ["--admin-address", &admin_address, "--allowed-endpoint-suffix", "127.0.0.1", "--log-format", "text", "--leader-election=false"];
    let mut operator = Process::start("operator", console.folder(), &programs.operator, arguments, environment)?;
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let is_ready = || runtime.block_on(is_ready(admin));
    operator.until(START_TIME_OUT.saturating_sub(begun.elapsed()), is_ready)?;
    Ok(operator)
}

/// A proxy of the company's network is of no use on the way to this machine.
const NO_PROXY: [(&str, &str); 4] = [("HTTP_PROXY", ""), ("http_proxy", ""), ("HTTPS_PROXY", ""), ("https_proxy", "")];

/// True if the operator says that all its parts work.
async fn is_ready(admin: std::net::SocketAddr) -> bool {
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    let client: Client<_, http_body_util::Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let Ok(address) = format!("http://{admin}/readyz").parse() else { return false };
    let answer = tokio::time::timeout(Duration::from_secs(2), client.get(address)).await;
    matches!(answer, Ok(Ok(response)) if response.status().is_success())
}

fn create_secret(control_plane: &ControlPlane, connection_string: &str) -> Result<(), BedError> {
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": "default"},
        "stringData": {"connectionString": connection_string},
    });
    let answer = control_plane.kubectl_with_input(&["apply", "--request-timeout=20s", "-f", "-"], &secret.to_string())?;
    if answer.success { Ok(()) } else { Err(BedError::new(format!("kubectl apply of Secret {SECRET}: {}", answer.errors.trim()))) }
}

/// Runs kubectl; what it says without an error.
fn kubectl(control_plane: &ControlPlane, arguments: &[&str]) -> Result<String, BedError> {
    let mut bounded = arguments.to_vec();
    bounded.push("--request-timeout=20s");
    let answer = control_plane.kubectl(&bounded)?;
    if answer.success {
        Ok(answer.output)
    } else {
        Err(BedError::new(format!("kubectl {}: {}", arguments.join(" "), answer.errors.trim())))
    }
}
