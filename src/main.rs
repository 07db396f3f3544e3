//! The operator's process: installs the TLS provider, parses flags, runs.

use std::process::ExitCode;

use clap::Parser;
use durable_operator::{config::Args, operator};

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // rustls cannot choose when two providers are linked in: the first line that uses TLS must find one installed.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    match operator::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            // Not by returning: the runtime would let tasks go on for a moment, and another operator may work now.
            std::process::exit(1)
        }
    }
}
