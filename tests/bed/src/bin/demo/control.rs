//! The second part of the demo: runs are held, resumed, ended, sent an event and rewound, as a user does it with kubectl.
//!
//! Owns what is typed and what must come of it. Invariant: a step counts only if
//! the object's condition `Ready` has exactly the reason that is written here.

use std::path::Path;
use std::time::Duration;

use durable_bed::BedError;

use super::screen::Screen;
use super::servers::Servers;

/// How long the effect of a step may take; on two cores it is about a second.
const TIME_OUT: Duration = Duration::from_secs(30);

/// What is typed.
enum Typed {
    Apply(&'static str),
    Patch(&'static str, &'static str),
}

/// A step, and the reason of `Ready` that the Orchestration has after it.
struct Step {
    why: &'static str,
    typed: Typed,
    orchestration: &'static str,
    reason: &'static str,
}

const fn apply(why: &'static str, file: &'static str, orchestration: &'static str, reason: &'static str) -> Step {
    Step { why, typed: Typed::Apply(file), orchestration, reason }
}

const fn patch(why: &'static str, orchestration: &'static str, spec: &'static str, reason: &'static str) -> Step {
    Step { why, typed: Typed::Patch(orchestration, spec), orchestration, reason }
}

/// The input of `tests/demo/flaky.yaml`: the flaky activity looks for a marker of that name.
const MARKER: &str = "payment-service";

const BEFORE_HEALING: [Step; 6] = [
    apply("a run that waits for a person", "approval", "approval", "Running"),
    patch("hold it", "approval", r#"{"spec":{"desiredState":"Suspended"}}"#, "Suspended"),
    patch("let it go on", "approval", r#"{"spec":{"desiredState":"Running"}}"#, "Running"),
    apply("send it the event that it waits for", "approve", "approval", "Completed"),
    apply("a run that sleeps for an hour", "sleep", "sleep", "Running"),
    patch("end it", "sleep", r#"{"spec":{"desiredState":"Terminated","reason":"no time"}}"#, "Terminated"),
];

const FAILING: Step = apply("a run whose second activity fails", "flaky", "flaky", "OrchestrationFailed");

const REWIND: Step = patch("mended: do again what failed", "flaky", r#"{"spec":{"desiredState":"Rewound"}}"#, "Completed");

/// Types all of it; true if each step had its effect.
///
/// # Errors
/// If kubectl cannot be run, or the marker not be written.
pub fn show(screen: &Screen, servers: &Servers, markers: &Path, is_wanted: impl Fn() -> bool) -> Result<bool, BedError> {
    screen.say("");
    let mut all = true;
    for step in BEFORE_HEALING.iter().chain([&FAILING]) {
        if !is_wanted() {
            return Ok(false);
        }
        all &= step.run(screen, servers)?;
    }
    std::fs::write(markers.join(MARKER), "")?;
    Ok(REWIND.run(screen, servers)? && all)
}

impl Step {
    fn run(&self, screen: &Screen, servers: &Servers) -> Result<bool, BedError> {
        let file;
        let arguments: Vec<&str> = match &self.typed {
            Typed::Apply(name) => {
                file = format!("tests/demo/{name}.yaml");
                vec!["apply", "-f", &file]
            }
            Typed::Patch(name, spec) => vec!["patch", "orchestration", name, "--type=merge", "--patch", spec],
        };
        let shown: Vec<String> =
            arguments.iter().map(|word| if word.contains('{') { format!("'{word}'") } else { (*word).to_owned() }).collect();
        screen.say(&format!("# {}\n$ kubectl {}", self.why, shown.join(" ")));
        servers.kubectl(&arguments)?;
        let found = servers.ready_reason(self.orchestration, self.reason, TIME_OUT)?;
        let as_expected = found == self.reason;
        let note = if as_expected { String::new() } else { format!("   NOT AS EXPECTED: it should be {}", self.reason) };
        screen.say(&format!("  {}: {found}{note}", self.orchestration));
        Ok(as_expected)
    }
}
