//! What our client writes for a recorded command equals what the official client wrote.
//!
//! A recording is a row of snapshots with commands and worker runs between them. Wherever only commands lie between two
//! snapshots, the first one is put back onto the emulator, our client is given the commands, and what is there then is
//! compared with the second one: rows with their EDM types, messages member by member and in their order, blobs.
//!
//! `GOLDEN=<folder> cargo test -p durable-taskhub --test golden` judges the recordings of another folder (plain or gzip).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod command;
mod deviations;
mod hub;
mod lossless;

use std::path::PathBuf;

use durable_bed::recording::{Recording, Snapshot, Step, difference};
use serde_json::Value as Json;

use command::Outcome;

/// Commands between two snapshots while no worker ran.
struct Transition<'a> {
    before: Option<&'a Snapshot>,
    commands: Vec<(&'a Json, &'a Json)>,
    after: &'a Snapshot,
}

fn recordings() -> Vec<PathBuf> {
    let folder = std::env::var_os("GOLDEN").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hub"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.to_string_lossy().ends_with(".json") || file.to_string_lossy().ends_with(".json.gz"));
    files.sort();
    assert!(!files.is_empty(), "{} holds no recordings", folder.display());
    files
}

fn transitions(recording: &Recording) -> Vec<Transition<'_>> {
    let mut found = Vec::new();
    let (mut before, mut commands, mut worker_ran) = (None, Vec::new(), false);
    for step in &recording.steps {
        match step {
            Step::Command { command, reply } => commands.push((command, reply)),
            Step::Note { text } => worker_ran |= text == "worker started",
            Step::Snapshot(after) => {
                let writes = commands.iter().any(|(command, _)| command::writes(command));
                if writes && !worker_ran {
                    found.push(Transition { before, commands: std::mem::take(&mut commands), after });
                }
                (before, worker_ran) = (Some(after), false);
                commands.clear();
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_command_writes_equals_the_recording() {
    let (mut compared, mut refused, mut wrong) = (0, 0, Vec::new());
    for file in recordings() {
        let recording = Recording::read(&file).unwrap();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for transition in transitions(&recording) {
            let label = format!("{name} -> {}", transition.after.label);
            match check(&name, &recording, &transition).await {
                Ok((commands, refusals)) => {
                    compared += commands;
                    refused += refusals;
                }
                Err(difference) => wrong.push(format!("{label}\n{difference}")),
            }
        }
    }
    println!("{compared} recorded commands wrote the same, {refused} are refused as listed");
    assert!(wrong.is_empty(), "{} transitions differ:\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(compared > 0, "no recording has a command of ours");
}

/// How many commands were compared, and how many refused as they should be.
async fn check(name: &str, recording: &Recording, transition: &Transition<'_>) -> Result<(usize, usize), String> {
    let world = hub::World::new(recording, transition.before).await?;
    let mut refused_ids = Vec::new();
    let (mut done, mut refusals, mut comparable, mut blobs) = (0, 0, true, true);
    for (command, reply) in &transition.commands {
        let official = reply["ok"].as_bool() == Some(true);
        let before = world.lines().await?;
        blobs &= !deviations::spares_blobs(name, command);
        match command::run(&world.hub, command, reply, name).await {
            Outcome::Done if official => done += 1,
            Outcome::Done => return Err(format!("the official client refuses {command}, and we do not: {reply}")),
            Outcome::Refused(why) => {
                if let Some(difference) = difference(&before, &world.lines().await?) {
                    return Err(format!("{command} is refused, and wrote all the same:\n{difference}"));
                }
                if official {
                    let expected = deviations::refusal(name, command);
                    if expected != Some(why.as_str()) {
                        return Err(format!("{command} is refused ({why}), which is not listed in deviations.rs ({expected:?})"));
                    }
                    refused_ids.push(command["id"].as_str().unwrap_or_default().to_owned());
                    comparable &= !deviations::hides_the_state_before(&why);
                }
                refusals += 1;
            }
            Outcome::NotOurs => {}
        }
    }
    if !comparable {
        return Ok((done, refusals));
    }
    let expected = deviations::expected(recording, &world, transition.after, &refused_ids);
    let expected = deviations::smooth(expected.normalised(world.name.as_str()));
    let compared = |lines: Vec<String>| -> Vec<String> {
        let of_blobs = |line: &String| line.starts_with("blob ") || line.starts_with("container ");
        lines.into_iter().filter(|line| blobs || !of_blobs(line)).collect()
    };
    match difference(&compared(expected), &compared(world.lines().await?)) {
        None => Ok((done, refusals)),
        Some(difference) => Err(difference),
    }
}

/// A comparison that cannot fail proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_recording_is_found() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/hub/ext__durable__start_echo_object.json.gz");
    let recording = Recording::read(&file).unwrap();
    let transition = transitions(&recording).remove(0);
    let mut changed = transition.after.clone();
    let row = changed.tables.iter_mut().find(|(name, _)| name.ends_with("Instances")).unwrap().1.first_mut().unwrap();
    row.get_mut("Generation").unwrap().value = 1.into();
    let changed = Transition { after: &changed, ..transition };
    let difference = check("changed", &recording, &changed).await.unwrap_err();
    assert!(difference.contains("Generation (Edm.Int32): 1") && difference.contains("Generation (Edm.Int32): 0"), "{difference}");
}
