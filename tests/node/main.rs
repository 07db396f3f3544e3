//! The charts and the images on a real node: `.ci/node`, which needs root, Linux and a few of Debian's packages.
//!
//! Where those are not there, this says so and passes. In CI (`CI` is set) it is never left out: what is missing is a failure.
//! A binary without the test harness, so that what the script prints is seen while it runs.

use std::path::Path;
use std::process::{Command, ExitCode};

const NAME: &str = "the_charts_and_images_on_a_real_node";

/// What the script cannot do without, and where one sees that it is there.
const PARTS: [(&str, &str); 4] = [
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("containernetworking-plugins", "/usr/lib/cni/bridge"),
    ("busybox", "/bin/busybox"),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    if filter.is_some_and(|filter| !NAME.contains(filter.as_str())) {
        println!("\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out\n");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    println!("\nrunning 1 test");
    if std::env::var_os("CI").is_none_or(|value| value.is_empty())
        && let Some(missing) = missing()
    {
        println!("test {NAME} ... NOT RUN: {missing}. CI runs it; where that is there, so does `.ci/node`.");
        println!("\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n");
        return ExitCode::SUCCESS;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/node");
    let passed = match Command::new(&script).status() {
        Ok(status) => status.success(),
        Err(error) => {
            println!("{}: {error}", script.display());
            false
        }
    };
    let (word, ok, failed) = if passed { ("ok", 1, 0) } else { ("FAILED", 0, 1) };
    println!("test {NAME} ... {word}\n\ntest result: {word}. {ok} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n");
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Why there can be no node here.
fn missing() -> Option<String> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Some("a node needs Linux on x86_64".to_owned());
    }
    let is_root = std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(1) == Some("0")));
    if !is_root {
        return Some("a node needs root".to_owned());
    }
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Some("the node was only made to work with cgroup v1".to_owned());
    }
    let packages: Vec<&str> = PARTS.iter().filter(|(_, file)| !Path::new(file).exists()).map(|(package, _)| *package).collect();
    (!packages.is_empty()).then(|| format!("a node needs these packages of Debian: {}", packages.join(", ")))
}
