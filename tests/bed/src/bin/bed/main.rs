//! The bed without tests: build its programs, or run its servers.

mod census;

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use durable_bed::azurite::Azurite;
use durable_bed::control_plane::ControlPlane;
use durable_bed::{BedError, assets};

/// Real servers for tests: an API server with etcd, and a storage emulator.
#[derive(Parser)]
#[command(after_help = "Examples:
  cargo run --bin bed -- build    builds and caches the servers' programs, once
  cargo run --bin bed -- node     the same for what a real node runs (tests/bed/node/up), and for helm; prints where they are
  cargo run --bin bed -- up       starts the servers, prints how to reach them, waits for Ctrl-C")]
struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Build the servers' programs that are not in the cache
    Build,
    /// Build what a real node runs; print a line each: the folder of its programs, its DNS, helm, the emulator
    Node,
    /// Count the runs of a hub by their history; an error if one is lost, doubled or without an end
    Census(census::Census),
    /// Start the servers and wait for Ctrl-C
    Up,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), BedError> {
    match args.command {
        What::Node => {
            for path in [assets::node()?, assets::dns()?, assets::helm()?, assets::emulator()?] {
                println!("{}", path.display());
            }
            return Ok(());
        }
        What::Census(census) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(census.take());
        }
        What::Build | What::Up => {}
    }
    let begun = Instant::now();
    let assets = assets::ensure()?;
    println!("programs are there after {} ms", begun.elapsed().as_millis());
    if matches!(args.command, What::Build) {
        return Ok(());
    }
    let begun = Instant::now();
    let control_plane = ControlPlane::start(&assets)?;
    println!("API server is ready after {} ms\n  export KUBECONFIG={}", begun.elapsed().as_millis(), control_plane.kubeconfig().display());
    let begun = Instant::now();
    let azurite = Azurite::start(&assets)?;
    println!("storage emulator is ready after {} ms\n  export STORAGE='{}'", begun.elapsed().as_millis(), azurite.connection_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::signal::ctrl_c())?;
    Ok(())
}
