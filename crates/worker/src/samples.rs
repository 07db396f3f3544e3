//! The functions that this worker knows: the same that the recordings of the real engine ran.

use std::time::Duration;

use crate::replay::{Context, Failure, Orchestrator};

/// An activity: from a text of JSON to another, or the message of an exception.
pub type Activity = fn(Option<&str>) -> Result<Option<String>, Failure>;

const ORCHESTRATORS: [(&str, Orchestrator); 4] = [
    ("Echo", |context| Box::pin(echo(context))),
    ("Fail", |context| Box::pin(fail(context))),
    ("HelloSequence", |context| Box::pin(hello_sequence(context))),
    ("Sleep", |context| Box::pin(sleep(context))),
];

const ACTIVITIES: [(&str, Activity); 1] = [("SayHello", say_hello)];

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

/// `SayHello` with three cities, one after another; the three greetings.
async fn hello_sequence(context: Context) -> Result<Option<String>, Failure> {
    let mut greetings = Vec::new();
    for city in ["Tokyo", "Seattle", "London"] {
        let greeting = context.call_activity("SayHello", Some(json(&city))).await?;
        greetings.push(greeting.unwrap_or_else(|| "null".to_owned()));
    }
    Ok(Some(format!("[{}]", greetings.join(","))))
}

/// Its input.
async fn echo(context: Context) -> Result<Option<String>, Failure> {
    Ok(context.input())
}

/// A durable timer of as many seconds as the input says, 1 without; `"slept"`.
async fn sleep(context: Context) -> Result<Option<String>, Failure> {
    let seconds: u64 = match context.input() {
        None => 1,
        Some(text) => serde_json::from_str(&text).map_err(|_| Failure("the input is not a number of seconds".to_owned()))?,
    };
    context.create_timer(Duration::from_secs(seconds)).await;
    Ok(Some(json(&"slept")))
}

/// Fails with its input's text, else `failed on purpose`.
async fn fail(context: Context) -> Result<Option<String>, Failure> {
    let message: Option<String> = context.input().and_then(|text| serde_json::from_str(&text).ok());
    Err(Failure(message.unwrap_or_else(|| "failed on purpose".to_owned())))
}

/// `Hello <name>!`
fn say_hello(input: Option<&str>) -> Result<Option<String>, Failure> {
    let name: String = input.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Ok(Some(json(&format!("Hello {name}!"))))
}

fn json(value: &impl serde::Serialize) -> String {
    // Texts and lists of texts cannot fail to serialise.
    serde_json::to_string(value).unwrap_or_default()
}
