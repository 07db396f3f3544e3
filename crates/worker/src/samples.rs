//! The functions that this worker knows: the same that the recordings of the real engine ran.
//!
//! Owns the list of names; the code is in [`orchestrators`] and [`activities`].

pub mod activities;
pub mod orchestrators;

use crate::context::{Failure, Orchestrator};
use activities::Activity;

const ORCHESTRATORS: [(&str, Orchestrator); 17] = [
    ("Approval", |context| Box::pin(orchestrators::approval(context))),
    ("ApprovalWithTimeout", |context| Box::pin(orchestrators::approval_with_timeout(context))),
    ("BigOutput", |context| Box::pin(orchestrators::big_output(context))),
    ("Cascade", |context| Box::pin(orchestrators::cascade(context))),
    ("Chain", |context| Box::pin(orchestrators::chain(context))),
    ("Counter", |context| Box::pin(orchestrators::counter(context))),
    ("CustomStatus", |context| Box::pin(orchestrators::custom_status(context))),
    ("Echo", |context| Box::pin(orchestrators::echo(context))),
    ("Fail", |context| Box::pin(orchestrators::fail(context))),
    ("FailInActivity", |context| Box::pin(orchestrators::fail_in_activity(context))),
    ("FailNested", |context| Box::pin(orchestrators::fail_nested(context))),
    ("FailOnce", |context| Box::pin(orchestrators::three_steps(context, "FailOnceActivity"))),
    ("FanOut", |context| Box::pin(orchestrators::fan_out(context))),
    ("Flaky", |context| Box::pin(orchestrators::three_steps(context, "FlakyActivity"))),
    ("HelloSequence", |context| Box::pin(orchestrators::hello_sequence(context))),
    ("ParentChild", |context| Box::pin(orchestrators::parent_child(context))),
    ("Sleep", |context| Box::pin(orchestrators::sleep(context))),
];

const ACTIVITIES: [(&str, Activity); 6] = [
    ("FailOnceActivity", activities::fail_once),
    ("FlakyActivity", activities::flaky),
    ("MakeBig", activities::make_big),
    ("SayHello", activities::say_hello),
    ("Square", activities::square),
    ("ThrowNested", activities::throw_nested),
];

/// The orchestrator `name`; the failure words a missing one as the extension does (task-hub.md 9.2).
pub fn orchestrator(name: &str) -> Result<Orchestrator, Failure> {
    ORCHESTRATORS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, orchestrator)| *orchestrator)
        .ok_or_else(|| missing(name, "an orchestrator", "orchestrator", &ORCHESTRATORS.map(|(known, _)| known)))
}

/// The activity `name`.
pub fn activity(name: &str) -> Result<Activity, Failure> {
    ACTIVITIES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, activity)| *activity)
        .ok_or_else(|| missing(name, "an activity", "activity", &ACTIVITIES.map(|(known, _)| known)))
}

fn missing(name: &str, kind: &str, plural: &str, known: &[&str]) -> Failure {
    let known: Vec<String> = known.iter().map(|known| format!("'{known}'")).collect();
    Failure(format!(
        "The function '{name}' doesn't exist, is disabled, or is not {kind} function. Additional info: The following are the known {plural} functions: {}.",
        known.join(", ")
    ))
}

/// A text, number or list as JSON, which cannot fail.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What a function takes when it was given nothing, or a clear failure for an input of another kind.
fn input_or<T: serde::de::DeserializeOwned>(input: Option<&str>, expected: &str, default: T) -> Result<T, Failure> {
    match input {
        None | Some("null") => Ok(default),
        Some(text) => serde_json::from_str(text).map_err(|_| Failure(format!("the input is not {expected}"))),
    }
}
