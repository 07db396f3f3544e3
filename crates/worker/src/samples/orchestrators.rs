//! The sample orchestrators. Inputs and outputs are texts of JSON; results of others are passed on as they are.

use std::time::Duration;

use futures::future::{self, Either};
use serde_json::value::RawValue;

use super::{input_or, json};
use crate::context::{Context, Failure};

/// The most calls that one orchestration makes; a larger number is a mistake of whoever started it.
const MOST_CALLS: usize = 10_000;

type Output = Result<Option<String>, Failure>;

/// `SayHello` with three cities, one after another; the three greetings.
pub async fn hello_sequence(context: Context) -> Output {
    let mut greetings = Vec::new();
    for city in ["Tokyo", "Seattle", "London"] {
        greetings.push(say_hello(&context, city).await?);
    }
    Ok(Some(list(&greetings)))
}

/// Its input.
pub async fn echo(context: Context) -> Output {
    Ok(context.input())
}

/// A durable timer of as many seconds as the input says, 1 without; `"slept"`.
pub async fn sleep(context: Context) -> Output {
    let seconds = input_or(context.input().as_deref(), "a number of seconds", 1)?;
    context.create_timer(Duration::from_secs(seconds)).await;
    Ok(Some(json(&"slept")))
}

/// Fails with its input's text, else `failed on purpose`.
pub async fn fail(context: Context) -> Output {
    let message: Option<String> = context.input().and_then(|text| serde_json::from_str(&text).ok());
    Err(Failure(message.unwrap_or_else(|| "failed on purpose".to_owned())))
}

/// Fails with an exception that has inner ones, of which the orchestration's output shows nothing.
pub async fn fail_nested(_: Context) -> Output {
    Err(Failure("outer: failed on purpose".to_owned()))
}

/// `ThrowNested`.
pub async fn fail_in_activity(context: Context) -> Output {
    context.call_activity("ThrowNested", Some(json(&"in the activity"))).await
}

/// Waits for the event `Approval`; its data.
pub async fn approval(context: Context) -> Output {
    context.set_custom_status(json(&"waiting for approval"))?;
    let data = context.wait_for_external_event("Approval").await;
    context.set_custom_status(json(&"approved"))?;
    Ok(data)
}

/// The same against a timer of as many seconds as the input says, 5 without; `"approved"` or `"timed out"`.
pub async fn approval_with_timeout(context: Context) -> Output {
    let seconds = input_or(context.input().as_deref(), "a number of seconds", 5)?;
    context.set_custom_status(json(&"waiting for approval"))?;
    let timer = std::pin::pin!(context.create_timer(Duration::from_secs(seconds)));
    let event = std::pin::pin!(context.wait_for_external_event("Approval"));
    let outcome = match future::select(event, timer).await {
        Either::Left(_) => json(&"approved"),
        Either::Right(_) => json(&"timed out"),
    };
    context.set_custom_status(outcome.clone())?;
    Ok(Some(outcome))
}

/// `SayHello`, the activity `middle` with the input's text or the instance's ID, `SayHello`; the three results.
pub async fn three_steps(context: Context, middle: &str) -> Output {
    let key: Option<String> = context.input().and_then(|text| serde_json::from_str(&text).ok());
    let key = key.unwrap_or_else(|| context.instance_id());
    let before = say_hello(&context, "before").await?;
    let result = value(context.call_activity(middle, Some(json(&key))).await?);
    let after = say_hello(&context, "after").await?;
    Ok(Some(list(&[before, result, after])))
}

/// `Flaky` as a child between two greetings; an object of the three results.
pub async fn parent_child(context: Context) -> Output {
    let id = context.instance_id();
    let before = say_hello(&context, "parent before").await?;
    let child = value(context.call_orchestrator("Flaky", &format!("{id}-child"), Some(json(&id))).await?);
    let after = say_hello(&context, "parent after").await?;
    Ok(Some(format!(r#"{{"before":{before},"child":{child},"after":{after}}}"#)))
}

/// `Square` of 1 to n (5) side by side; the sum.
pub async fn fan_out(context: Context) -> Output {
    let squares = (1..=calls(&context, 5)?).map(|n| context.call_activity("Square", Some(n.to_string())));
    let mut sum: i64 = 0;
    for square in future::join_all(squares).await {
        let square: i64 = input_or(square?.as_deref(), "a number", 0)?;
        sum = sum.checked_add(square).ok_or_else(|| Failure("the sum is too large".to_owned()))?;
    }
    Ok(Some(sum.to_string()))
}

/// `Square` of 1 to n (10), one after another; n.
pub async fn chain(context: Context) -> Output {
    let calls = calls(&context, 10)?;
    for n in 1..=calls {
        context.call_activity("Square", Some(n.to_string())).await?;
    }
    Ok(Some(calls.to_string()))
}

/// `MakeBig` with the input's number of KiB (100); that text.
pub async fn big_output(context: Context) -> Output {
    let kib: u64 = input_or(context.input().as_deref(), "a number of KiB", 100)?;
    context.call_activity("MakeBig", Some(kib.to_string())).await
}

/// Adds the data of each event `add` to its input in a new execution; the event `stop` ends it with the total.
pub async fn counter(context: Context) -> Output {
    let total: i64 = input_or(context.input().as_deref(), "a number", 0)?;
    context.set_custom_status(total.to_string())?;
    let (add, stop) = (context.wait_for_external_event("add"), context.wait_for_external_event("stop"));
    match future::select(add, stop).await {
        Either::Left((number, _)) => {
            let number = input_or(number.as_deref(), "a number", 0)?;
            let total = total.checked_add(number).ok_or_else(|| Failure("the total is too large".to_owned()))?;
            context.continue_as_new(Some(total.to_string()));
            Ok(None)
        }
        Either::Right(_) => Ok(Some(total.to_string())),
    }
}

/// Its input, or an object with some marks, as custom status; `SayHello` after it; `"done"`.
pub async fn custom_status(context: Context) -> Output {
    let default = r#"{"step":2,"of":5,"note":"héllo \"quoted\"","done":false}"#;
    context.set_custom_status(context.input().unwrap_or_else(|| default.to_owned()))?;
    say_hello(&context, "status").await?;
    Ok(Some(json(&"done")))
}

#[derive(serde::Deserialize)]
struct CascadeInput {
    count: Option<usize>,
    child: Option<String>,
    #[serde(rename = "childInput")]
    child_input: Option<Box<RawValue>>,
}

/// The children `<id>-0`, `<id>-1` and so on, side by side: `Echo` of their number, or what the input says; their results.
pub async fn cascade(context: Context) -> Output {
    let no_input = || CascadeInput { count: None, child: None, child_input: None };
    let input = match context.input() {
        Some(text) if text.starts_with('{') => input_or(Some(&text), "a number, or an object of count, child, childInput", no_input())?,
        text => CascadeInput { count: input_or(text.as_deref(), "a number", None)?, ..no_input() },
    };
    let child = input.child.as_deref().unwrap_or("Echo");
    let children = (0..bounded(input.count.unwrap_or(3))?).map(|n| {
        let child_input = input.child_input.as_ref().map_or_else(|| n.to_string(), |input| input.get().to_owned());
        context.call_orchestrator(child, &format!("{}-{n}", context.instance_id()), Some(child_input))
    });
    let results: Result<Vec<String>, Failure> = future::join_all(children).await.into_iter().map(|result| result.map(value)).collect();
    Ok(Some(list(&results?)))
}

async fn say_hello(context: &Context, name: &str) -> Result<String, Failure> {
    Ok(value(context.call_activity("SayHello", Some(json(&name))).await?))
}

fn calls(context: &Context, default: usize) -> Result<usize, Failure> {
    bounded(input_or(context.input().as_deref(), "a number of calls", default)?)
}

fn bounded(calls: usize) -> Result<usize, Failure> {
    if calls <= MOST_CALLS { Ok(calls) } else { Err(Failure(format!("{calls} calls are more than {MOST_CALLS}"))) }
}

fn value(result: Option<String>) -> String {
    result.unwrap_or_else(|| "null".to_owned())
}

fn list(values: &[String]) -> String {
    format!("[{}]", values.join(","))
}
