//! Escaping of keys, and the partition of an instance.

use std::collections::HashMap;

use durable_taskhub::names::{HubName, InstanceId, escape_key, unescape_key};
use durable_taskhub::partition::{PartitionCount, partition_of};

use crate::random::Random;

/// What no key of the table service can hold (task-hub.md 4.1).
fn forbidden(character: char) -> bool {
    matches!(u32::from(character), 0..=0x1f | 0x7f..=0x9f) || "/\\#?".contains(character)
}

#[test]
fn each_character_is_escaped_to_a_key_of_its_own() {
    let mut keys = HashMap::new();
    // All of those that are escaped or look as if they were; of the others every 97th.
    for character in (0..0x3000).chain((0x3000..=0x10FFFF).step_by(97)).filter_map(char::from_u32) {
        let key = escape_key(&character.to_string());
        assert!(!key.chars().any(forbidden), "{character:?} {key:?}");
        assert_eq!(unescape_key(&key), character.to_string());
        assert_eq!(key.chars().count(), if forbidden(character) || character == '^' { 2 } else { 1 });
        assert_eq!(keys.insert(key, character), None, "{character:?}");
    }
}

#[test]
fn each_id_is_escaped_to_a_key_of_its_own() {
    let mut ids = HashMap::new();
    for seed in 0..5_000 {
        let id = Random::new(seed).text(12);
        let key = escape_key(&id);
        assert!(!key.chars().any(forbidden), "seed {seed}: {key:?}");
        assert_eq!(unescape_key(&key), id, "seed {seed}");
        if let Some(other) = ids.insert(key, id.clone()) {
            assert_eq!(other, id, "seed {seed}");
        }
    }
    // Texts of few characters, all of them: here two IDs would meet first.
    let alphabet = ['^', '/', '0', '\0', '\u{c0}', 'a'];
    let mut keys = HashMap::new();
    for number in 0..alphabet.len().pow(4) {
        let id: String = (0..4).map(|place| alphabet[number / alphabet.len().pow(place) % alphabet.len()]).collect();
        assert_eq!(keys.insert(escape_key(&id), id), None);
    }
}

#[test]
fn any_text_is_accepted_as_a_key_or_a_name_or_refused() {
    for seed in 0..5_000 {
        let mut random = Random::new(seed);
        let most = *random.one_of(&[60, 300]);
        let text = random.text(most);
        let _ = unescape_key(&text);
        if let Ok(id) = InstanceId::new(&text) {
            assert_eq!(id.as_str(), text);
            assert!(
                !text.chars().any(forbidden) && !text.starts_with('@') && (1..=256).contains(&text.encode_utf16().count()),
                "seed {seed}"
            );
        }
        if let Ok(name) = HubName::new(&text) {
            assert!(name.instances_table().bytes().all(|byte| byte.is_ascii_alphanumeric()), "seed {seed}");
        }
    }
}

/// FNV-1a as its authors define it, by long multiplication modulo 2^32, apart from the library's.
fn fnv(text: &str) -> u64 {
    let mut hash: u64 = 2_166_136_261;
    for byte in text.bytes() {
        let low = (hash & 0xff) ^ u64::from(byte);
        hash = (((hash >> 8) << 8) + low) * 16_777_619 % 4_294_967_296;
    }
    hash
}

#[test]
fn an_instance_has_one_partition_and_the_hub_has_that_one() {
    let mut used = [false; 16];
    for seed in 0..5_000 {
        let mut random = Random::new(seed);
        let count = u32::try_from(random.below(16) + 1).unwrap();
        let id = random.text(40);
        let partition = partition_of(&id, PartitionCount::new(count).unwrap());
        assert!(partition < count, "seed {seed}");
        assert_eq!(u64::from(partition), fnv(&id) % u64::from(count), "seed {seed}");
        used[usize::try_from(partition).unwrap()] = true;
    }
    assert_eq!(used, [true; 16]);
}
