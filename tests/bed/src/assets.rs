//! The servers' programs: built from their pinned modules once, and kept in a cache.
//!
//! `${XDG_CACHE_HOME:-~/.cache}/durable-operator/`, one folder per version.
//! Invariant: what is in the cache under its final name is whole; it is built
//! under another name and renamed. Several processes may ask at once.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{BedError, during};

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Assets {
    /// etcd.
    pub etcd: PathBuf,
    /// kube-apiserver.
    pub kube_apiserver: PathBuf,
    /// kube-controller-manager.
    pub kube_controller_manager: PathBuf,
    /// kubectl, of the version of the servers.
    pub kubectl: PathBuf,
    /// The storage emulator's script.
    pub azurite: PathBuf,
    /// Node, which runs it.
    pub node: PathBuf,
}

const ETCD: (&str, &str) = ("etcd", "go.etcd.io/etcd/server/v3");
const API_SERVER: (&str, &str) = ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver");
const CONTROLLER_MANAGER: (&str, &str) = ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager");
const KUBECTL: (&str, &str) = ("kubectl", "k8s.io/kubernetes/cmd/kubectl");

/// What a real node runs besides, from the module of the servers.
const NODE_PROGRAMS: [(&str, &str); 3] = [
    ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
];

/// How often a long build says that it is alive.
const PROGRESS_EVERY: Duration = Duration::from_secs(20);

/// Builds what is missing and says where everything is. A few milliseconds when all is there.
///
/// `KUBEBUILDER_ASSETS` is honoured for etcd, kube-apiserver and kubectl; it has no kube-controller-manager.
///
/// # Errors
/// If a tool that is needed is missing or a build fails, with the end of its output.
pub fn ensure() -> Result<Assets, BedError> {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let (cache, _lock) = locked_cache()?;
    let kubernetes = Kubernetes::pinned(&sources, &cache)?;
    let given = std::env::var_os("KUBEBUILDER_ASSETS").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let of_given = |program: (&'static str, &'static str)| match &given {
        Some(folder) if folder.join(program.0).is_file() => Ok(folder.join(program.0)),
        Some(folder) => Err(BedError::new(format!("KUBEBUILDER_ASSETS is set, but {} has no {}", folder.display(), program.0))),
        None => kubernetes.built(program),
    };
    Ok(Assets {
        etcd: of_given(ETCD)?,
        kube_apiserver: of_given(API_SERVER)?,
        kubectl: of_given(KUBECTL)?,
        kube_controller_manager: kubernetes.built(CONTROLLER_MANAGER)?,
        azurite: azurite(&sources, &cache)?,
        node: tool("node", "Node.js 20 or newer")?,
    })
}

/// helm, of the version pinned in `tests/bed/helm`. Takes 9 minutes on two cores where nothing is cached.
///
/// # Errors
/// As [`go_program`].
pub fn helm() -> Result<PathBuf, BedError> {
    go_program("helm", "helm", "helm.sh/helm/v4/cmd/helm")
}

/// What evaluates alert rules over scrapes, with the rule engine of Prometheus: `tests/bed/alerts`.
///
/// # Errors
/// As [`go_program`].
pub fn alerts() -> Result<PathBuf, BedError> {
    go_program("alerts", "alerts", ".")
}

/// The storage emulator's script, in its `node_modules`.
///
/// # Errors
/// As [`ensure`].
pub fn emulator() -> Result<PathBuf, BedError> {
    let (cache, _lock) = locked_cache()?;
    azurite(&PathBuf::from(env!("CARGO_MANIFEST_DIR")), &cache)
}

/// Checks objects against the published types of their kinds, those of Argo CD, Flux and the Prometheus Operator; a field that a
/// type does not know is an error.
///
/// # Errors
/// What the compiler says of the objects, or that it could not be run.
pub fn check_published_types(objects: &[serde_json::Value]) -> Result<(), BedError> {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let folder = {
        let (cache, _lock) = locked_cache()?;
        npm_installed(&sources, &cache, "schemas", "published types of other projects' kinds")?
    };
    let mut check = Command::new(tool("node", "Node.js 20 or newer")?)
        .arg(sources.join("check.mjs"))
        .arg(&folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = check.stdin.take() {
        input.write_all(serde_json::Value::from(objects).to_string().as_bytes())?;
    }
    let output = check.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(BedError::new(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))))
}

/// The DNS of a node: CoreDNS as pinned in `tests/bed/dns`.
///
/// # Errors
/// As [`go_program`].
pub fn dns() -> Result<PathBuf, BedError> {
    go_program("dns", "coredns", ".")
}

/// The folder of etcd, kube-apiserver, kube-controller-manager, kubectl, kubelet, kube-scheduler and kube-proxy.
///
/// # Errors
/// As [`ensure`].
pub fn node() -> Result<PathBuf, BedError> {
    let (cache, _lock) = locked_cache()?;
    let kubernetes = Kubernetes::pinned(&PathBuf::from(env!("CARGO_MANIFEST_DIR")), &cache)?;
    for program in [ETCD, API_SERVER, CONTROLLER_MANAGER, KUBECTL].into_iter().chain(NODE_PROGRAMS) {
        kubernetes.built(program)?;
    }
    Ok(kubernetes.folder)
}

/// A program that tests need beside the servers, from a Go module of its own in `tests/bed/<module>`: built once, and again
/// when a file of the module changes.
///
/// # Errors
/// If Go is missing or the build fails, with the end of its output.
pub fn go_program(module: &str, name: &str, package: &str) -> Result<PathBuf, BedError> {
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(module);
    let (cache, _lock) = locked_cache()?;
    let mut texts = Vec::new();
    let mut files: Vec<PathBuf> =
        during(sources.display(), std::fs::read_dir(&sources))?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| ["go", "mod", "sum"].iter().any(|of| extension == *of)))
    {
        texts.push(during(file.display(), std::fs::read_to_string(file))?);
    }
    let folder = cache.join(format!("{module}-{}", digest(&texts.iter().map(String::as_str).collect::<Vec<_>>())));
    during(format!("making {}", folder.display()), std::fs::create_dir_all(&folder))?;
    go_build(&sources, &folder, name, name, package, "-s -w")
}

/// The cache's folder, and the lock that keeps other processes out of it until it is dropped.
fn locked_cache() -> Result<(PathBuf, File), BedError> {
    let cache = cache_folder()?;
    let lock = during("the cache's lock", File::create(cache.join("lock")))?;
    during("the cache's lock", lock.lock())?;
    Ok((cache, lock))
}

fn cache_folder() -> Result<PathBuf, BedError> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let home = std::env::var_os("HOME")
                .ok_or_else(|| BedError::new("neither XDG_CACHE_HOME nor HOME is set: there is no place for a cache"))?;
            PathBuf::from(home).join(".cache")
        }
    };
    let folder = base.join("durable-operator");
    during(format!("making {}", folder.display()), std::fs::create_dir_all(&folder))?;
    Ok(folder)
}

/// The pinned version of Kubernetes and the folder of its programs.
struct Kubernetes {
    sources: PathBuf,
    folder: PathBuf,
    version: String,
}

impl Kubernetes {
    fn pinned(sources: &Path, cache: &Path) -> Result<Kubernetes, BedError> {
        let (module, sums) = (read(sources, "go.mod")?, read(sources, "go.sum")?);
        let version = module.lines().find_map(|line| {
            let mut words = line.split_whitespace().skip_while(|word| *word == "require");
            (words.next() == Some("k8s.io/kubernetes")).then(|| words.next()).flatten()
        });
        let version = version.ok_or_else(|| BedError::new("go.mod of the bed does not require k8s.io/kubernetes"))?.to_owned();
        let folder = cache.join(format!("kubernetes-{version}-{}", digest(&[&module, &sums])));
        during(format!("making {}", folder.display()), std::fs::create_dir_all(&folder))?;
        Ok(Kubernetes { sources: sources.to_owned(), folder, version })
    }

    fn built(&self, (name, package): (&'static str, &'static str)) -> Result<PathBuf, BedError> {
        go_build(&self.sources, &self.folder, name, &format!("{name} {}", self.version), package, &self.linker_flags())
    }

    /// Without these the servers call themselves `v0.0.0-master`.
    fn linker_flags(&self) -> String {
        let minor = self.version.split('.').nth(1).unwrap_or_default();
        let mut flags = "-s -w".to_owned();
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            let version = &self.version;
            flags += &format!(
                " -X {package}.gitVersion={version} -X {package}.gitMajor=1 -X {package}.gitMinor={minor} -X {package}.gitTreeState=clean"
            );
        }
        flags
    }
}

/// `<folder>/<name>` from `package`, if it is not there yet.
fn go_build(sources: &Path, folder: &Path, name: &str, title: &str, package: &str, linker_flags: &str) -> Result<PathBuf, BedError> {
    let program = folder.join(name);
    if program.is_file() {
        return Ok(program);
    }
    let unfinished = folder.join(format!(".{name}.new"));
    let mut command = Command::new(tool("go", "Go 1.26 or newer")?);
    command.current_dir(sources).env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false");
    command.args(["build", "-trimpath", "-ldflags", linker_flags, "-o"]).arg(&unfinished).arg(package);
    run(&format!("building {title}"), &folder.join(format!("{name}.build.log")), command)?;
    during(format!("keeping {name}"), std::fs::rename(&unfinished, &program))?;
    Ok(program)
}

fn azurite(sources: &Path, cache: &Path) -> Result<PathBuf, BedError> {
    let folder = npm_installed(sources, cache, "azurite", "the storage emulator")?;
    Ok(folder.join("node_modules/azurite/dist/src/azurite.js"))
}

/// A folder of the cache with the packages that `sources` locks.
fn npm_installed(sources: &Path, cache: &Path, name: &str, title: &str) -> Result<PathBuf, BedError> {
    let lock = read(sources, "package-lock.json")?;
    let folder = cache.join(format!("{name}-{}", digest(&[&lock])));
    if folder.is_dir() {
        return Ok(folder);
    }
    let unfinished = cache.join(format!(".{name}.new"));
    let _ = std::fs::remove_dir_all(&unfinished);
    during(format!("making a folder for {title}"), std::fs::create_dir_all(&unfinished))?;
    for file in ["package.json", "package-lock.json"] {
        during(format!("copying {file}"), std::fs::copy(sources.join(file), unfinished.join(file)))?;
    }
    let mut command = Command::new(tool("npm", "npm, which comes with Node.js 20")?);
    command.current_dir(&unfinished).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    run(&format!("installing {title}"), &cache.join(format!("{name}.build.log")), command)?;
    during(format!("keeping {title}"), std::fs::rename(&unfinished, &folder))?;
    Ok(folder)
}

fn read(folder: &Path, file: &str) -> Result<String, BedError> {
    during(folder.join(file).display(), std::fs::read_to_string(folder.join(file)))
}

/// FNV-1a over the texts: names a version of what is built, protects from nobody.
fn digest(texts: &[&str]) -> String {
    let hash = texts
        .iter()
        .flat_map(|text| text.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{:08x}", hash >> 32)
}

fn tool(name: &str, wanted: &str) -> Result<PathBuf, BedError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| BedError::new(format!("`{name}` is not on the PATH: install {wanted}")))
}

/// Runs a long command and says from time to time that it is alive. Written to the standard error stream itself, past the
/// test harness: nobody should look at a silent screen for minutes.
fn run(what: &str, log: &Path, mut command: Command) -> Result<(), BedError> {
    let say = |text: &str| {
        let _ = writeln!(std::io::stderr(), "bed: {text}");
    };
    let output = during(what, File::create(log))?;
    let errors = during(what, output.try_clone())?;
    say(&format!("{what} (once; it is kept in the cache)"));
    let begun = Instant::now();
    let mut child = during(what, command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn())?;
    let mut next_word = PROGRESS_EVERY;
    let status = loop {
        if let Some(status) = during(what, child.try_wait())? {
            break status;
        }
        if begun.elapsed() >= next_word {
            next_word += PROGRESS_EVERY;
            say(&format!("{what}: {} s so far", begun.elapsed().as_secs()));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(20)..].join("\n");
        return Err(BedError::new(format!("{what} failed ({status}); the end of {}:\n{end}", log.display())));
    }
    say(&format!("{what}: done after {} s", begun.elapsed().as_secs()));
    Ok(())
}
