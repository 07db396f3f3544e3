//! Queues, on the official crate.
//!
//! Owns the rules of messages that the crate leaves open: never expiring, hidden for whole
//! seconds rounded up, text that XML can hold. Knows no encoding of a message's text.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use azure_core::http::headers::HeaderName;
use azure_core::time::OffsetDateTime;
use azure_storage_queue::models::{
    QueueClientClearOptions, QueueClientCreateOptions, QueueClientDeleteMessageOptions, QueueClientDeleteOptions,
    QueueClientGetPropertiesOptions, QueueClientGetPropertiesResultHeaders, QueueClientPeekMessagesOptions,
    QueueClientReceiveMessagesOptions, QueueClientSendMessageOptions, QueueClientUpdateMessageOptions, QueueMessage as Content,
    QueueServiceClientListQueuesOptions,
};
use azure_storage_queue::{QueueClient, QueueServiceClient, QueueServiceClientOptions};
use futures::TryStreamExt;

use super::error::{Failure, StorageError};
use super::pipeline::{Call, Caller};
use crate::Time;

/// Has all that is used here. The crate's own default is months old, which the emulator refuses and older stamps may.
const VERSION: &str = "2019-07-07";
const POP_RECEIPT: HeaderName = HeaderName::from_static("x-ms-popreceipt");
/// The service hides a message no longer.
const LONGEST_HIDDEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The service takes no longer text, in bytes of UTF-8.
const MAX_TEXT: usize = 64 << 10;
const MAX_LISTED: usize = 100_000;

/// A message that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentMessage {
    /// The service's id of the message.
    pub id: String,
    /// What an update or a delete needs, until the message is received.
    pub pop_receipt: String,
}

/// A message that was received or peeked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMessage {
    /// The service's id of the message.
    pub id: String,
    /// What an update or a delete needs; empty when peeked.
    pub pop_receipt: String,
    /// The text as it was put.
    pub text: String,
    /// How often it was received, this time included.
    pub dequeue_count: u64,
    /// When it was put, to the second.
    pub inserted_at: Option<Time>,
    /// When it expires, to the second; the year 9999 if never.
    pub expires_at: Option<Time>,
    /// Until when it is hidden from others, to the second; `None` when peeked.
    pub next_visible_at: Option<Time>,
}

pub(super) struct QueueService {
    caller: Caller,
    client: QueueServiceClient,
}

impl std::fmt::Debug for QueueService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueService").finish_non_exhaustive()
    }
}

impl QueueService {
    pub(super) fn new(caller: Caller) -> Result<QueueService, StorageError> {
        let options = QueueServiceClientOptions { client_options: caller.client_options(), version: VERSION.to_owned() };
        let client = QueueServiceClient::new(caller.url().clone(), None, Some(options))
            .map_err(|error| caller.call("queue.connect", "the account").origin.error(error))?;
        Ok(QueueService { caller, client })
    }

    pub(super) fn queue(self: &Arc<Self>, name: &str) -> Queue {
        Queue { service: self.clone(), name: name.to_owned() }
    }

    pub(super) async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let call = self.caller.call("queue.list_queues", "the account");
        let options = QueueServiceClientListQueuesOptions {
            prefix: (!prefix.is_empty()).then(|| prefix.to_owned()),
            method_options: call.pager_options(),
            ..QueueServiceClientListQueuesOptions::default()
        };
        let mut pages = self.client.list_queues(Some(options)).map_err(|error| call.origin.error(error))?.into_pages();
        let mut names = Vec::new();
        while let Some(page) = call.run(pages.try_next()).await? {
            let page = call.model(page, "<EnumerationResults")?;
            names.extend(page.queue_items.into_iter().filter_map(|item| item.name));
            if names.len() > MAX_LISTED {
                return Err(call.origin.invalid("more than 100,000 queues begin with this prefix"));
            }
        }
        Ok(names)
    }
}

/// A queue. Clones are cheap; it need not exist: then calls fail with `ContainerNotFound`.
#[derive(Clone, Debug)]
pub struct Queue {
    service: Arc<QueueService>,
    name: String,
}

impl Queue {
    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the queue; `false` if it was there.
    ///
    /// # Errors
    /// Those of any call; `BeingDeleted` for about a minute after a delete.
    pub async fn create_if_missing(&self) -> Result<bool, StorageError> {
        let (call, client) = self.begin("queue.create_queue")?;
        let options = QueueClientCreateOptions { method_options: call.options(), ..QueueClientCreateOptions::default() };
        match call.run(client.create(Some(options))).await {
            // The service answers 204 for a queue that is there with the same metadata.
            Ok(response) => Ok(u16::from(response.status()) == 201),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the queue and its messages; `false` if it was not there.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn delete_queue(&self) -> Result<bool, StorageError> {
        let (call, client) = self.begin("queue.delete_queue")?;
        let options = QueueClientDeleteOptions { method_options: call.options(), ..QueueClientDeleteOptions::default() };
        match call.run(client.delete(Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// How many messages the queue holds, hidden ones included; not exact.
    ///
    /// # Errors
    /// `ContainerNotFound` if the queue is not there.
    pub async fn approximate_count(&self) -> Result<u64, StorageError> {
        let (call, client) = self.begin("queue.count")?;
        let options = QueueClientGetPropertiesOptions { method_options: call.options(), ..QueueClientGetPropertiesOptions::default() };
        let response = call.run(client.get_properties(Some(options))).await?;
        let count = response.approximate_messages_count().ok().flatten().and_then(|count| u64::try_from(count).ok());
        count.ok_or_else(|| call.origin.unexpected("the answer has no number of messages"))
    }

    /// Puts a message that never expires and stays hidden for `visible_after`, rounded up to seconds, at most 7 days.
    ///
    /// # Errors
    /// `TooLarge` over 64 KiB; `InvalidInput` for characters that XML cannot hold, or a longer delay.
    /// After an error in transport the message may have been put, and a retry may have put it twice.
    pub async fn put(&self, text: &str, visible_after: Duration) -> Result<SentMessage, StorageError> {
        let (call, client) = self.begin("queue.put")?;
        put(call, &client, text, visible_after).await
    }

    /// As [`Queue::put`], with a single try: a message whose answer alone was lost would be put twice by another one.
    ///
    /// # Errors
    /// As [`Queue::put`]; unless [`StorageError::was_refused`], the message may have been put.
    pub async fn put_once(&self, text: &str, visible_after: Duration) -> Result<SentMessage, StorageError> {
        let (call, client) = self.begin("queue.put")?;
        put(call.once(), &client, text, visible_after).await
    }

    /// Takes up to `max` messages (1 to 32) and hides them from others for `visibility`, rounded up to seconds, at least one.
    ///
    /// # Errors
    /// `ContainerNotFound` if the queue is not there. After an error in transport messages may be hidden that no one has.
    pub async fn receive(&self, max: u32, visibility: Duration) -> Result<Vec<QueueMessage>, StorageError> {
        let (call, client) = self.begin("queue.receive")?;
        let options = QueueClientReceiveMessagesOptions {
            number_of_messages: Some(batch_size(max)),
            visibility_timeout: Some(whole_seconds(&call, visibility)?.max(1)),
            method_options: call.options(),
            ..QueueClientReceiveMessagesOptions::default()
        };
        let response = call.run(client.receive_messages(Some(options))).await?;
        let messages = call.model(response, "<QueueMessagesList")?.items.unwrap_or_default();
        let messages = messages.into_iter().map(|message| {
            Some(QueueMessage {
                id: message.message_id?,
                pop_receipt: message.pop_receipt?,
                text: message.message_text.unwrap_or_default(),
                dequeue_count: count(message.dequeue_count),
                inserted_at: time(message.insertion_time),
                expires_at: time(message.expiration_time),
                next_visible_at: time(message.time_next_visible),
            })
        });
        messages.collect::<Option<_>>().ok_or_else(|| call.origin.unexpected("a message has no id or pop receipt"))
    }

    /// Reads up to `max` visible messages (1 to 32) from the front, and changes nothing.
    ///
    /// # Errors
    /// `ContainerNotFound` if the queue is not there.
    pub async fn peek(&self, max: u32) -> Result<Vec<QueueMessage>, StorageError> {
        let (call, client) = self.begin("queue.peek")?;
        let options = QueueClientPeekMessagesOptions {
            number_of_messages: Some(batch_size(max)),
            method_options: call.options(),
            ..QueueClientPeekMessagesOptions::default()
        };
        let response = call.run(client.peek_messages(Some(options))).await?;
        let messages = call.model(response, "<QueueMessagesList")?.items.unwrap_or_default();
        let messages = messages.into_iter().map(|message| {
            Some(QueueMessage {
                id: message.message_id?,
                pop_receipt: String::new(),
                text: message.message_text.unwrap_or_default(),
                dequeue_count: count(message.dequeue_count),
                inserted_at: time(message.insertion_time),
                expires_at: time(message.expiration_time),
                next_visible_at: None,
            })
        });
        messages.collect::<Option<_>>().ok_or_else(|| call.origin.unexpected("a message has no id"))
    }

    /// Hides a received message for `visibility` from now, rounded up to seconds, and replaces its text if one is given.
    /// Returns the new pop receipt; the old one is void.
    ///
    /// # Errors
    /// `NotFound` or `PreconditionFailed` if the message is gone or was taken by another.
    pub async fn update(&self, id: &str, pop_receipt: &str, text: Option<&str>, visibility: Duration) -> Result<String, StorageError> {
        let (call, client) = self.begin("queue.update")?;
        check_id(&call, id)?;
        let seconds = whole_seconds(&call, visibility)?;
        let content = match text {
            Some(text) => Some(content(&call, text)?.try_into().map_err(|error| call.origin.error(error))?),
            None => None,
        };
        let options = QueueClientUpdateMessageOptions {
            queue_message: content,
            method_options: call.options(),
            ..QueueClientUpdateMessageOptions::default()
        };
        let response = call.run(client.update_message(id, pop_receipt, seconds, Some(options))).await?;
        let receipt = response.headers().get_optional_string(&POP_RECEIPT);
        receipt.ok_or_else(|| call.origin.unexpected("the answer has no pop receipt"))
    }

    /// Deletes a received message; `false` if it is gone or was taken by another.
    ///
    /// # Errors
    /// `ContainerNotFound` if the queue is not there.
    pub async fn delete(&self, id: &str, pop_receipt: &str) -> Result<bool, StorageError> {
        let (call, client) = self.begin("queue.delete")?;
        check_id(&call, id)?;
        let options = QueueClientDeleteMessageOptions { method_options: call.options(), ..QueueClientDeleteMessageOptions::default() };
        match call.run(client.delete_message(id, pop_receipt, Some(options))).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_precondition_failed() => Ok(false),
            Err(error) if error.is_not_found() && !error.is_container_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes all messages.
    ///
    /// # Errors
    /// `ContainerNotFound` if the queue is not there.
    pub async fn clear(&self) -> Result<(), StorageError> {
        let (call, client) = self.begin("queue.clear")?;
        let options = QueueClientClearOptions { method_options: call.options(), ..QueueClientClearOptions::default() };
        call.run(client.clear(Some(options))).await.map(|_| ())
    }

    fn begin(&self, operation: &'static str) -> Result<(Call, QueueClient), StorageError> {
        let call = self.service.caller.call(operation, &self.name);
        if !is_container_name(&self.name) {
            return Err(call.origin.invalid("this cannot be a queue's name: 3 to 63 lower-case letters, digits and hyphens"));
        }
        let client = self.service.client.queue_client(&self.name).map_err(|error| call.origin.error(error))?;
        Ok((call, client))
    }
}

async fn put(call: Call, client: &QueueClient, text: &str, visible_after: Duration) -> Result<SentMessage, StorageError> {
    let content = content(&call, text)?;
    let seconds = whole_seconds(&call, visible_after)?;
    let options = QueueClientSendMessageOptions {
        message_time_to_live: Some(-1),
        visibility_timeout: (seconds > 0).then_some(seconds),
        method_options: call.options(),
        ..QueueClientSendMessageOptions::default()
    };
    let content = content.try_into().map_err(|error| call.origin.error(error))?;
    let response = call.run(client.send_message(content, Some(options))).await?;
    let sent = response.into_model().and_then(|list| list.into_message()).map_err(|error| call.origin.error(error))?;
    match (sent.message_id, sent.pop_receipt) {
        (Some(id), Some(pop_receipt)) => Ok(SentMessage { id, pop_receipt }),
        _ => Err(call.origin.unexpected("the answer names no message")),
    }
}

/// The rule of queues and blob containers alike.
pub(super) fn is_container_name(name: &str) -> bool {
    (3..=63).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn content(call: &Call, text: &str) -> Result<Content, StorageError> {
    if text.len() > MAX_TEXT {
        return Err(call.origin.failed(Failure::TooLarge(MAX_TEXT as u64)));
    }
    let refused = |character: char| matches!(character, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}');
    if text.chars().any(refused) {
        return Err(call.origin.invalid("the text holds characters that XML cannot: send it as Base64"));
    }
    Ok(Content { message_text: Some(text.to_owned()) })
}

/// The crate puts the id into the path as it is; ids of the service are GUIDs.
fn check_id(call: &Call, id: &str) -> Result<(), StorageError> {
    let valid = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if valid { Ok(()) } else { Err(call.origin.invalid("this cannot be the id of a message")) }
}

fn whole_seconds(call: &Call, duration: Duration) -> Result<i32, StorageError> {
    if duration > LONGEST_HIDDEN {
        return Err(call.origin.invalid("a message can be hidden for at most 7 days"));
    }
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds).map_err(|_| call.origin.invalid("a message can be hidden for at most 7 days"))
}

fn batch_size(max: u32) -> i32 {
    i32::try_from(max.clamp(1, 32)).unwrap_or(32)
}

fn count(value: Option<i64>) -> u64 {
    value.and_then(|count| u64::try_from(count).ok()).unwrap_or_default()
}

fn time(value: Option<OffsetDateTime>) -> Option<Time> {
    value.map(|time| SystemTime::from(time).into())
}
