//! What the artifacts of a task hub are called, and how an instance ID becomes a key.
//!
//! Owns the names of task-hub.md 1.1 and the escaping of 4.1. Invariant: an ID
//! is escaped exactly once, here; the escaping is not idempotent.

use std::fmt;

/// The name of a task hub: a letter, then letters and digits, 3 to 50 characters (task-hub.md 1.2).
///
/// Tables keep its case, queues and containers are named in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HubName(String);

/// A text that cannot be the name of a task hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a task hub's name has 3 to 50 characters, only ASCII letters and digits, and starts with a letter")]
pub struct InvalidHubName;

impl HubName {
    /// Checks `name` by the rules of the Durable Functions extension.
    ///
    /// # Errors
    /// [`InvalidHubName`] if it breaks one.
    pub fn new(name: &str) -> Result<HubName, InvalidHubName> {
        let starts_with_letter = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if starts_with_letter && (3..=50).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(HubName(name.to_owned()))
        } else {
            Err(InvalidHubName)
        }
    }

    /// The name as configured, with its case.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `{Hub}Instances`: one row per instance.
    pub fn instances_table(&self) -> String {
        format!("{}Instances", self.0)
    }

    /// `{Hub}History`: the events of each instance.
    pub fn history_table(&self) -> String {
        format!("{}History", self.0)
    }

    /// `{Hub}Partitions`: who serves which control queue, in hubs managed by table.
    pub fn partitions_table(&self) -> String {
        format!("{}Partitions", self.0)
    }

    /// `{hub}-control-NN`: where the messages to the instances of a partition go.
    pub fn control_queue(&self, partition: u32) -> String {
        format!("{}-control-{partition:02}", self.lower())
    }

    /// `{hub}-control-`: what all control queues begin with.
    pub fn control_queue_prefix(&self) -> String {
        format!("{}-control-", self.lower())
    }

    /// `{hub}-workitems`: where workers take activities from.
    pub fn work_item_queue(&self) -> String {
        format!("{}-workitems", self.lower())
    }

    /// `{hub}-leases`: partition leases and `taskhub.json`, in hubs managed by blob.
    pub fn leases_container(&self) -> String {
        format!("{}-leases", self.lower())
    }

    /// `{hub}-applease`: the lease of the app. A client never takes it.
    pub fn app_lease_container(&self) -> String {
        format!("{}-applease", self.lower())
    }

    /// `{hub}-appleaseinfo`, in the container of the app's lease.
    pub fn app_lease_blob(&self) -> String {
        format!("{}-appleaseinfo", self.lower())
    }

    /// `{hub}-largemessages`: payloads that fit neither a message nor a column. Made on demand.
    pub fn large_messages_container(&self) -> String {
        format!("{}-largemessages", self.lower())
    }

    fn lower(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The most characters that an instance ID given to a client may have (task-hub.md 4.1).
pub const MAX_INSTANCE_ID_CHARACTERS: usize = 256;

/// The ID of an instance that a client may start: what the Durable Functions extension accepts.
///
/// Engines run IDs beyond these rules (sub-orchestrations, foreign clients),
/// so reading takes any text; only starting takes this type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceId(String);

/// Why a text cannot be the ID of a new instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstanceId {
    /// It has no character.
    #[error("an instance ID must not be empty")]
    Empty,
    /// It has more than 256 characters.
    #[error("an instance ID has at most {MAX_INSTANCE_ID_CHARACTERS} characters")]
    TooLong,
    /// It begins with `@`, as the IDs of entities do.
    #[error("an instance ID must not start with @, which marks entities")]
    Entity,
    /// It holds a character that keys of the table service cannot hold.
    #[error("an instance ID must not contain / \\ # ? or control characters")]
    ForbiddenCharacter,
}

impl InstanceId {
    /// Checks `id` by the rules of the Durable Functions extension (task-hub.md 4.1).
    ///
    /// # Errors
    /// [`InvalidInstanceId`] names the first rule that it breaks.
    pub fn new(id: &str) -> Result<InstanceId, InvalidInstanceId> {
        if id.is_empty() {
            return Err(InvalidInstanceId::Empty);
        }
        if id.encode_utf16().count() > MAX_INSTANCE_ID_CHARACTERS {
            return Err(InvalidInstanceId::TooLong);
        }
        if id.starts_with('@') {
            return Err(InvalidInstanceId::Entity);
        }
        if id.chars().any(|c| matches!(c, '/' | '\\' | '#' | '?') || c.is_control()) {
            return Err(InvalidInstanceId::ForbiddenCharacter);
        }
        Ok(InstanceId(id.to_owned()))
    }

    /// A random ID: 32 hexadecimal digits, as the .NET clients make them.
    pub fn random() -> InstanceId {
        InstanceId(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The ID as given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The partition key of an instance (task-hub.md 4.1). Not idempotent: escape once.
pub fn escape_key(instance_id: &str) -> String {
    let mut key = String::with_capacity(instance_id.len());
    for character in instance_id.chars() {
        match character {
            '^' => key.push_str("^^"),
            '/' => key.push_str("^0"),
            '\\' => key.push_str("^1"),
            '#' => key.push_str("^2"),
            '?' => key.push_str("^3"),
            c if c.is_control() => {
                key.push('^');
                key.extend(char::from_u32(u32::from(c) + 0xC0));
            }
            c => key.push(c),
        }
    }
    key
}

/// The instance ID of a partition key: the inverse of [`escape_key`].
pub fn unescape_key(key: &str) -> String {
    let mut id = String::with_capacity(key.len());
    let mut characters = key.chars();
    while let Some(character) = characters.next() {
        if character != '^' {
            id.push(character);
            continue;
        }
        match characters.next() {
            Some('0') => id.push('/'),
            Some('1') => id.push('\\'),
            Some('2') => id.push('#'),
            Some('3') => id.push('?'),
            Some(c) if u32::from(c) < 0xC0 => id.push(c),
            Some(c) => id.extend(char::from_u32(u32::from(c) - 0xC0)),
            None => {}
        }
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_names_follow_the_extension() {
        for good in ["abc", "OrdersHub", "a00", &"h".repeat(50)] {
            assert!(HubName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "ab", "1abc", "orders-hub", "hüb", "a b", &"h".repeat(51)] {
            assert_eq!(HubName::new(bad), Err(InvalidHubName), "{bad}");
        }
    }

    #[test]
    fn tables_keep_the_case_and_queues_lose_it() {
        let hub = HubName::new("OrdersHub").unwrap();
        assert_eq!(hub.instances_table(), "OrdersHubInstances");
        assert_eq!(hub.control_queue(3), "ordershub-control-03");
        assert_eq!(hub.control_queue(15), "ordershub-control-15");
        assert_eq!(hub.large_messages_container(), "ordershub-largemessages");
    }

    #[test]
    fn keys_escape_as_the_engine_does() {
        // The examples of task-hub.md 4.1.
        for (id, key) in [
            ("a/b", "a^0b"),
            ("a^b", "a^^b"),
            ("a^^b", "a^^^^b"),
            ("100%/x", "100%^0x"),
            ("a\tb", "a^Éb"),
            ("a\u{7f}", "a^Ŀ"),
            ("a\u{9f}", "a^ş"),
            ("\0", "^À"),
            ("o'brien % é 日本 @x", "o'brien % é 日本 @x"),
            ("a\\b#c?d", "a^1b^2c^3d"),
        ] {
            assert_eq!(escape_key(id), key);
            assert_eq!(unescape_key(key), id);
        }
    }

    #[test]
    fn instance_ids_that_the_extension_refuses_are_refused() {
        use InvalidInstanceId::*;
        for (id, reason) in [("", Empty), ("@counter@a", Entity), ("a/b", ForbiddenCharacter), ("a\u{7f}", ForbiddenCharacter)] {
            assert_eq!(InstanceId::new(id), Err(reason), "{id:?}");
        }
        assert_eq!(InstanceId::new(&"x".repeat(257)), Err(TooLong));
        for id in ["order-4711", "a b", "a@b", "ü:%'^", &"x".repeat(256)] {
            assert!(InstanceId::new(id).is_ok(), "{id:?}");
        }
    }
}
