//! `cargo demo`: the whole way from `kubectl apply` to an output, on this machine alone.
//!
//! Owns the order of events and the exit code. Invariants: what was started is
//! stopped, whatever ends the demo; exit code 0 means that all runs reached the
//! state that is expected of them.

mod console;
mod control;
mod runs;
mod screen;
mod servers;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use durable_bed::BedError;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::console::Console;
use self::runs::Watched;
use self::screen::Screen;
use self::servers::{Programs, Servers};

/// How long servers and runs together may take. On two cores they need about ten seconds.
const TIME_OUT: Duration = Duration::from_secs(120);

/// How often it is looked at whether operator and worker are still there.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);

/// Exit code of a demo that was stopped before it was up: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs the operator on this machine: a Kubernetes API server, a storage emulator, a worker, and orchestrations: started, held,
/// resumed, ended, sent an event, rewound.
///
/// What is missing is built first. Nothing outside of target/ and the cache is touched, and no cluster or Azure account is needed.
#[derive(Parser)]
#[command(
    name = "cargo demo",
    after_help = "Examples:
  cargo demo             shows the runs, then leaves all running until Ctrl-C
  cargo demo -- --exit   for scripts: stops all in the end; exit code 0 only if each run came out as expected

In a second terminal, while it runs:
  target/demo/kubectl get orchestrations"
)]
struct Args {
    /// Stop everything when the runs have settled; the exit code says whether they came out as expected
    #[arg(long)]
    exit: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let screen = Screen::new();
    match run(&args, &screen) {
        Ok(code) => code,
        Err(error) => {
            screen.complain(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs the demo; its exit code.
fn run(args: &Args, screen: &Screen) -> Result<ExitCode, BedError> {
    let console = Console::take()?;
    screen.say("Durable Functions on Kubernetes: orchestrations as objects, on this machine alone\n");
    let programs = Programs::build(screen)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = listen_to_signals(&runtime)?;

    let begun = Instant::now();
    let is_wanted = || !*stop.borrow();
    let mut servers = match Servers::start(screen, &programs, &console, is_wanted) {
        Ok(Some(servers)) => servers,
        Ok(None) => return Ok(stopped(screen, ExitCode::from(INTERRUPTED))),
        // What was asked to end need not come up.
        Err(_) if !is_wanted() => return Ok(stopped(screen, ExitCode::from(INTERRUPTED))),
        Err(error) => return Err(error),
    };
    let result = present(args, screen, &runtime, &mut servers, stop.clone(), begun + TIME_OUT);
    if is_wanted() {
        if let Err(error) = &result {
            screen.complain(&format!("\nerror: {error}"));
        }
        screen.say("\nStopping ...");
    }
    servers.stop();
    let as_expected = result.unwrap_or(false);
    Ok(stopped(screen, if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }))
}

fn stopped(screen: &Screen, code: ExitCode) -> ExitCode {
    screen.say("Stopped.");
    code
}

/// Shows the runs and what came of them; returns when everything should be stopped.
fn present(
    args: &Args,
    screen: &Screen,
    runtime: &Runtime,
    servers: &mut Servers,
    mut stop: watch::Receiver<bool>,
    deadline: Instant,
) -> Result<bool, BedError> {
    let config = servers.api_server()?;
    screen.say("");
    servers.apply_samples(screen)?;
    let watched = runtime.block_on(runs::watch(config, screen, servers, &mut stop, deadline))?;
    let as_expected = match watched {
        Watched::Stopped => return Ok(false),
        Watched::Settled(objects) => {
            let ran = runs::conclude(screen, &objects);
            control::show(screen, servers, servers.markers(), || !*stop.borrow())? && ran
        }
        Watched::TimedOut(objects) => {
            screen.complain(&format!("\nThe runs have not settled within {} s.", TIME_OUT.as_secs()));
            runs::conclude(screen, &objects);
            servers.say_where_it_hangs(screen);
            false
        }
    };
    if !args.exit {
        servers.say_what_next(screen);
        runtime.block_on(until_stopped(servers, &mut stop))?;
    }
    Ok(as_expected)
}

async fn until_stopped(servers: &mut Servers, stop: &mut watch::Receiver<bool>) -> Result<(), BedError> {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            () = tokio::time::sleep(HEALTH_INTERVAL) => servers.check()?,
        }
    }
}

/// True after the first Ctrl-C or SIGTERM. A second one ends the process; the guards end what it had started.
fn listen_to_signals(runtime: &Runtime) -> Result<watch::Receiver<bool>, BedError> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, stop) = watch::channel(false);
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    runtime.spawn(async move {
        loop {
            tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
            if sender.send_replace(true) {
                std::process::exit(INTERRUPTED.into());
            }
            Screen::new().say("\nStopping ...");
        }
    });
    Ok(stop)
}
