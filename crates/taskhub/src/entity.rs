//! Entities: signalled, read, listed, cleaned (task-hub.md 8).
//!
//! An entity is an eternal orchestration of the ID `@name@key` whose input is
//! its state. Owns IDs, the message of a signal, and the two JSON texts in the
//! row. Invariant: what is sent is always well-formed: an entity that cannot
//! parse a request tries it for ever.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value as Json};
use uuid::Uuid;

use crate::event::{Event, EventKind, newtonsoft};
use crate::hub::TaskHub;
use crate::instance::Instance;
use crate::list::{Filter, ListError, ListOptions};
use crate::message::Message;
use crate::outgoing::next_number;
use crate::payload::PayloadError;
use crate::purge::PurgeError;
use crate::storage::StorageError;
use crate::time::Time;

/// The most characters of an entity's whole ID.
pub const MAX_ENTITY_ID_CHARACTERS: usize = 256;

/// A message cannot be hidden longer than 7 days; engines wait again for what is still ahead after 6 (task-hub.md 8.2).
const LONGEST_HIDDEN: Duration = Duration::from_secs(6 * 24 * 60 * 60);

/// How long the engine may still have use for an entity without state: its window for reordered messages.
pub const DEFAULT_EMPTY_FOR: Duration = Duration::from_secs(30 * 60);

/// The largest state that a list reads from a blob, in bytes.
const MAX_STATE: u64 = 16 * 1024 * 1024;

/// The ID of an entity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntityId {
    name: String,
    key: String,
}

/// Why a text cannot be part of an entity's ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntityId {
    /// The name is empty or holds `@`, which ends it.
    #[error("an entity's name must not be empty and must not contain @")]
    Name,
    /// A character that keys of the table service cannot hold.
    #[error("an entity's name and key must not contain / \\ # ? or control characters")]
    ForbiddenCharacter,
    /// Over 256 characters.
    #[error("an entity's ID has at most {MAX_ENTITY_ID_CHARACTERS} characters, its two @ included")]
    TooLong,
    /// Not of the form `@name@key`.
    #[error("the ID of an entity has the form @name@key")]
    Form,
}

impl EntityId {
    /// Checks both parts by the rules of the Durable Functions extension, and lowers the name's case as it does. The key keeps its case.
    ///
    /// # Errors
    /// [`InvalidEntityId`] names the rule that is broken.
    pub fn new(name: &str, key: &str) -> Result<EntityId, InvalidEntityId> {
        let name = name.to_lowercase();
        if name.is_empty() || name.contains('@') {
            return Err(InvalidEntityId::Name);
        }
        if name.chars().chain(key.chars()).any(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
            return Err(InvalidEntityId::ForbiddenCharacter);
        }
        let id = EntityId { name, key: key.to_owned() };
        if id.to_string().encode_utf16().count() > MAX_ENTITY_ID_CHARACTERS {
            return Err(InvalidEntityId::TooLong);
        }
        Ok(id)
    }

    /// Reads an instance ID of the form `@name@key`. The key may hold more `@`.
    ///
    /// # Errors
    /// [`InvalidEntityId::Form`] if it is none. Engines run IDs that [`EntityId::new`] refuses: those are read.
    pub fn of_instance(instance_id: &str) -> Result<EntityId, InvalidEntityId> {
        let parts = instance_id.strip_prefix('@').and_then(|rest| rest.split_once('@'));
        let (name, key) = parts.filter(|(name, _)| !name.is_empty()).ok_or(InvalidEntityId::Form)?;
        Ok(EntityId { name: name.to_owned(), key: key.to_owned() })
    }

    /// The name of the entity's function, in lower case.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// The instance ID.
impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}@{}", self.name, self.key)
    }
}

/// An operation to be done by an entity, without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// The operation's name.
    pub operation: String,
    /// Its input as JSON text, which arrives as it is given here.
    pub input: Option<String>,
    /// When it is to be done; none for at once.
    pub due: Option<Time>,
}

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The operation has no name.
    #[error("a signal needs the name of an operation")]
    NoOperation,
    /// The input is no JSON.
    #[error("the input is not JSON: {0}")]
    InvalidInput(String),
    /// The storage account did not answer as needed. Unless it is `queue.put` and not
    /// [`StorageError::was_refused`], nothing was sent; a second signal is done twice.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// An entity as its row shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityState {
    /// Its ID.
    pub id: EntityId,
    /// True if it has a state: deleted entities leave their rows behind.
    pub exists: bool,
    /// The state as JSON text; none if it does not exist, or was not asked for.
    pub state: Option<String>,
    /// The orchestration that holds a lock on it.
    pub locked_by: Option<String>,
    /// The number of operations that wait behind the lock.
    pub queue_size: u64,
    /// The time of the last batch of operations.
    pub last_operation: Option<Time>,
}

/// Why an entity cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EntityError {
    /// The row holds what no engine writes.
    #[error("the row of entity {0} does not hold an entity's state")]
    Damaged(String),
    /// The state lies in a blob that cannot be read.
    #[error("the state of entity {id} cannot be read: {error}")]
    State {
        /// Which one.
        id: String,
        /// Why.
        error: PayloadError,
    },
    /// The list cannot be had.
    #[error(transparent)]
    List(#[from] ListError),
    /// The storage account did not answer as needed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Which entities to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityListOptions {
    /// Of this name alone; in any case.
    pub name: Option<String>,
    /// With a last operation at this time or later.
    pub from: Option<Time>,
    /// With a last operation at this time or earlier.
    pub to: Option<Time>,
    /// With states. Without, they are not even transferred.
    pub show_state: bool,
    /// Those without state too.
    pub include_deleted: bool,
    /// The most rows of a page, 1 to 1,000; those without state count.
    pub page_size: u32,
    /// The token of the page before.
    pub continuation: Option<String>,
}

impl Default for EntityListOptions {
    /// The extension's defaults: all that exist, in pages of 100, without states.
    fn default() -> EntityListOptions {
        EntityListOptions {
            name: None,
            from: None,
            to: None,
            show_state: false,
            include_deleted: false,
            page_size: 100,
            continuation: None,
        }
    }
}

/// Some of the entities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityPage {
    /// The entities, in the order of their escaped IDs. Can be empty before the last page.
    pub entities: Vec<EntityState>,
    /// Token of the next page; none on the last one.
    pub continuation: Option<String>,
}

/// What to clean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanRequest {
    /// Remove entities that have had no state, lock or waiting operation for this long; none to remove none. Less than
    /// [`DEFAULT_EMPTY_FOR`] can let an operation that a network repeated be done twice.
    pub empty_for: Option<Duration>,
    /// Release locks of orchestrations that are gone or have ended.
    pub release_locks: bool,
    /// The most rows of a page, 1 to 1,000.
    pub page_size: u32,
    /// The token of the page before.
    pub continuation: Option<String>,
}

impl Default for CleanRequest {
    /// Both, in pages of 100.
    fn default() -> CleanRequest {
        CleanRequest { empty_for: Some(DEFAULT_EMPTY_FOR), release_locks: true, page_size: 100, continuation: None }
    }
}

/// What the cleaning of a page did.
#[derive(Debug)]
pub struct CleanedPage {
    /// The entities that were removed.
    pub removed: Vec<EntityId>,
    /// The entities whose lock was released.
    pub released: Vec<EntityId>,
    /// Those that were to be removed and were not, and why.
    pub failures: Vec<(EntityId, PurgeError)>,
    /// Token of the next page; none on the last one.
    pub continuation: Option<String>,
}

/// The entity's input: the state of its scheduler (task-hub.md 8.3).
#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Scheduler {
    exists: Option<bool>,
    state: Option<String>,
}

/// The entity's custom status.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    entity_exists: bool,
    queue_size: u64,
    locked_by: Option<String>,
}

impl TaskHub {
    /// Signals an entity, which is made if it does not exist. One request.
    ///
    /// # Errors
    /// [`SignalError`].
    pub async fn signal(&self, entity: &EntityId, signal: &Signal) -> Result<(), SignalError> {
        if signal.operation.is_empty() {
            return Err(SignalError::NoOperation);
        }
        if let Some(input) = &signal.input {
            serde_json::from_str::<serde::de::IgnoredAny>(input).map_err(|error| SignalError::InvalidInput(error.to_string()))?;
        }
        let now = Time::now();
        let visible_at = signal.due.map(|due| due.min(now.saturating_add(LONGEST_HIDDEN)));
        // The engine knows a delayed message by the time in its name.
        let name = visible_at.map_or("op".to_owned(), |time| format!("op@{}", time.to_table()));
        let message = event_to(entity, name, request(signal), now);
        // A single try: after an answer that was lost, another one would have the operation done twice.
        self.deliver_once(&message, visible_at.map_or(Duration::ZERO, |time| time.since(now))).await?;
        Ok(())
    }

    /// The entity with its state of at most `limit` bytes; none if it has no row. One request, or two.
    ///
    /// # Errors
    /// [`EntityError`].
    pub async fn entity(&self, id: &EntityId, limit: u64) -> Result<Option<EntityState>, EntityError> {
        match self.get(&id.to_string()).await? {
            Some(instance) => self.entity_of(instance, Some(limit)).await.map(Some),
            None => Ok(None),
        }
    }

    /// A page of entities. One request, and one per state that lies in a blob.
    ///
    /// # Errors
    /// [`EntityError`]; one damaged state makes the page fail, so that it is not taken for missing.
    pub async fn entities(&self, options: &EntityListOptions) -> Result<EntityPage, EntityError> {
        let prefix = options.name.as_ref().map_or("@".to_owned(), |name| format!("@{}@", name.to_lowercase()));
        // An entity is created anew with each batch (task-hub.md 8.3).
        let filter = Filter { id_prefix: prefix, created_from: options.from, created_to: options.to, ..Filter::default() };
        let page = self.list(&list_of(filter, options.show_state, options.page_size, &options.continuation)).await?;
        let mut entities = Vec::new();
        for instance in page.instances {
            let entity = self.entity_of(instance, options.show_state.then_some(MAX_STATE)).await?;
            if entity.exists || options.include_deleted {
                entities.push(entity);
            }
        }
        Ok(EntityPage { entities, continuation: page.continuation })
    }

    /// Cleans one page: releases locks of orchestrations that are gone, removes entities without state. Go on with
    /// [`CleanedPage::continuation`] until there is none.
    ///
    /// One request per page, two per lock that is looked at and released, and a purge per entity.
    ///
    /// # Errors
    /// [`EntityError`].
    pub async fn clean_entities(&self, request: &CleanRequest) -> Result<CleanedPage, EntityError> {
        let filter = Filter { id_prefix: "@".to_owned(), ..Filter::default() };
        let page = self.list(&list_of(filter, false, request.page_size, &request.continuation)).await?;
        let mut cleaned = CleanedPage { removed: Vec::new(), released: Vec::new(), failures: Vec::new(), continuation: page.continuation };
        for instance in page.instances {
            let Ok(id) = EntityId::of_instance(&instance.id) else { continue };
            let status = status_of(&instance);
            if let Some(owner) = &status.locked_by {
                if request.release_locks && self.has_ended(owner).await? {
                    let input = serde_json::json!({ "parent": owner, "id": "fix-orphaned-lock" });
                    self.deliver(&event_to(&id, "release".to_owned(), newtonsoft(&input), Time::now()), Duration::ZERO).await?;
                    cleaned.released.push(id);
                }
                continue;
            }
            let idle = instance.last_updated_time.map(|time| Time::now().since(time));
            let is_empty = !status.entity_exists && status.queue_size == 0 && instance.custom_status.is_some();
            if is_empty && request.empty_for.is_some_and(|window| idle.is_some_and(|idle| idle > window)) {
                // By the row's version: an operation that comes meanwhile keeps the entity.
                match self.remove_entity(instance).await {
                    Ok(()) => cleaned.removed.push(id),
                    Err(error) => cleaned.failures.push((id, error)),
                }
            }
        }
        Ok(cleaned)
    }

    async fn has_ended(&self, instance_id: &str) -> Result<bool, StorageError> {
        let owner = self.get_without_input(instance_id, &[]).await?;
        Ok(owner.is_none_or(|owner| owner.runtime_status.is_terminal()))
    }

    async fn entity_of(&self, instance: Instance, limit: Option<u64>) -> Result<EntityState, EntityError> {
        let id = EntityId::of_instance(&instance.id).map_err(|_| EntityError::Damaged(instance.id.clone()))?;
        let status = status_of(&instance);
        let mut entity = EntityState {
            id,
            exists: status.entity_exists,
            state: None,
            locked_by: status.locked_by,
            queue_size: status.queue_size,
            last_operation: instance.last_updated_time,
        };
        if let (Some(limit), Some(input)) = (limit, &instance.input) {
            let text = self.fetch(input, limit).await.map_err(|error| EntityError::State { id: instance.id.clone(), error })?;
            let scheduler: Scheduler = serde_json::from_str(&text).map_err(|_| EntityError::Damaged(instance.id.clone()))?;
            // Only the in-process extension writes `exists`; elsewhere a state is existence.
            entity.state = scheduler.state.filter(|_| scheduler.exists != Some(false));
            entity.exists = entity.state.is_some();
        }
        Ok(entity)
    }
}

fn list_of(filter: Filter, show_input: bool, page_size: u32, continuation: &Option<String>) -> ListOptions {
    ListOptions { filter, page_size, show_input, columns: Vec::new(), continuation: continuation.clone() }
}

fn status_of(instance: &Instance) -> Status {
    instance.custom_status.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn event_to(entity: &EntityId, name: String, input: String, now: Time) -> Message {
    let kind = EventKind::EventRaised { name: Some(name), input: Some(input), parent_trace_context: None };
    Message::new(&entity.to_string(), None, Event::new(now, kind), next_number())
}

/// The request as the in-process extension writes it (task-hub.md 8.2). No `parent`: its absence marks a client's message.
fn request(signal: &Signal) -> String {
    const NEVER: &str = "0001-01-01T00:00:00";
    let mut members = Map::new();
    let mut set = |name: &str, value: Json| drop(members.insert(name.to_owned(), value));
    set("op", signal.operation.as_str().into());
    set("signal", true.into());
    if let Some(input) = &signal.input {
        set("input", input.as_str().into());
    }
    set("id", Uuid::new_v4().hyphenated().to_string().into());
    if let Some(due) = signal.due {
        set("due", due.to_string().into());
    }
    set("Timestamp", NEVER.into());
    set("Predecessor", NEVER.into());
    newtonsoft(&Json::Object(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_case_and_keys_keep_it() {
        assert_eq!(EntityId::new("Counter", "My@Key").unwrap().to_string(), "@counter@My@Key");
        assert_eq!(EntityId::new("Counter", "").unwrap().to_string(), "@counter@");
        for (name, key, error) in [
            ("", "k", InvalidEntityId::Name),
            ("a@b", "k", InvalidEntityId::Name),
            ("a", "k/1", InvalidEntityId::ForbiddenCharacter),
            ("a", "k\u{7f}", InvalidEntityId::ForbiddenCharacter),
            ("a", &"k".repeat(254), InvalidEntityId::TooLong),
        ] {
            assert_eq!(EntityId::new(name, key), Err(error), "{name} {key}");
        }
        let read = EntityId::of_instance("@counter@a@b").unwrap();
        assert_eq!((read.name(), read.key()), ("counter", "a@b"));
        for id in ["counter", "@counter", "@@k", ""] {
            assert_eq!(EntityId::of_instance(id), Err(InvalidEntityId::Form), "{id}");
        }
    }

    #[test]
    fn requests_are_those_of_the_extension() {
        let signal =
            Signal { operation: "add".to_owned(), input: Some("{\"x\": 1.0}".to_owned()), due: Time::parse("2025-03-14T10:00:00Z").ok() };
        let text = request(&signal);
        let id = text.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert_eq!(
            text.replace(&id, "<id>"),
            r#"{"op":"add","signal":true,"input":"{\"x\": 1.0}","id":"<id>","due":"2025-03-14T10:00:00Z","Timestamp":"0001-01-01T00:00:00","Predecessor":"0001-01-01T00:00:00"}"#
        );
    }
}
