//! Filters of hostile texts stay the filters that they are; transactions of a purge.

use std::time::Duration;

use durable_taskhub::inspection::{continuation_token, odata, removal};
use durable_taskhub::list::Filter;
use durable_taskhub::names::escape_key;
use durable_taskhub::storage::{Entity, quote};
use durable_taskhub::{RuntimeStatus, Time};

use crate::random::Random;

/// One word of an OData filter.
#[derive(Debug, PartialEq, Eq)]
enum Token {
    /// A name, an operator or a parenthesis.
    Word(String),
    /// A text, unquoted.
    Literal(String),
}

/// Reads a filter as the service does: a quote ends a text unless another one follows.
fn tokens(filter: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = filter.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            ' ' => {}
            '(' | ')' => tokens.push(Token::Word(character.to_string())),
            '\'' => {
                let mut text = String::new();
                loop {
                    match (rest.next(), rest.peek()) {
                        (Some('\''), Some('\'')) => {
                            text.push('\'');
                            rest.next();
                        }
                        (Some('\''), _) => break,
                        (Some(other), _) => text.push(other),
                        (None, _) => panic!("the text never ends: {filter}"),
                    }
                }
                tokens.push(Token::Literal(text));
            }
            first => {
                let mut word = String::from(first);
                while let Some(next) = rest.next_if(|next| !" ()'".contains(*next)) {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    tokens
}

#[test]
fn a_quoted_text_is_one_literal() {
    for seed in 0..4_000 {
        let text = Random::new(seed).text(20);
        let filter = format!("A eq {} and B eq {}", quote(&text), quote("b"));
        let word = |word: &str| Token::Word(word.to_owned());
        let expected = [word("A"), word("eq"), Token::Literal(text), word("and"), word("B"), word("eq"), Token::Literal("b".to_owned())];
        assert_eq!(tokens(&filter), expected, "seed {seed}");
    }
}

#[test]
fn a_filter_holds_the_texts_of_the_caller_as_literals_alone() {
    let hostile = ["' or 'a' eq 'a", "''", "'", "x') or (PartitionKey ge '", "\u{2019}", "%27", "a' and RuntimeStatus ne 'x"];
    for seed in 0..4_000 {
        let mut random = Random::new(seed);
        let text = |random: &mut Random| if random.yes() { (*random.one_of(&hostile)).to_owned() } else { random.text(12) };
        let (id_prefix, name, entities) = (text(&mut random), random.maybe(text), random.yes());
        let tags = (0..random.below(3)).map(|_| (text(&mut random), text(&mut random))).collect();
        let times = [(); 4].map(|()| random.maybe(|random| Time::now().saturating_add(Duration::from_nanos(random.next()))));
        let statuses = (0..random.below(3)).map(|_| *random.one_of(&[RuntimeStatus::Running, RuntimeStatus::Failed])).collect::<Vec<_>>();
        let [created_from, created_to, updated_from, updated_to] = times;
        let filter = Filter {
            created_from,
            created_to,
            updated_from,
            updated_to,
            statuses: statuses.clone(),
            id_prefix: id_prefix.clone(),
            name: name.clone(),
            tags,
            entities,
        };
        let Some(text) = odata(&filter).unwrap() else {
            assert!(id_prefix.is_empty() && name.is_none() && entities && statuses.is_empty() && times == [None; 4], "seed {seed}");
            continue;
        };
        let (words, literals): (Vec<Token>, Vec<Token>) = tokens(&text).into_iter().partition(|token| matches!(token, Token::Word(_)));
        for word in &words {
            let Token::Word(word) = word else { unreachable!() };
            let known = "( ) and or eq ge le lt datetime CreatedTime LastUpdatedTime RuntimeStatus Name PartitionKey";
            assert!(known.split(' ').any(|known| known == word), "seed {seed}: {word} in {text}");
        }
        let mut expected: Vec<String> = times.iter().flatten().map(|time| time.to_table()).collect();
        expected.extend(statuses.iter().map(|status| status.name().to_owned()));
        expected.extend(name);
        match (id_prefix.is_empty(), entities) {
            (true, true) => {}
            (true, false) => expected.extend(["@".to_owned(), "A".to_owned()]),
            (false, _) => expected.push(escape_key(&id_prefix)),
        }
        let mut found: Vec<String> =
            literals.into_iter().map(|token| if let Token::Literal(text) = token { text } else { unreachable!() }).collect();
        if !id_prefix.is_empty() && found.len() > expected.len() {
            // The bound above the prefix: it is above, and the prefix does not begin it.
            let bound = found.pop().unwrap();
            let units = |text: &str| text.encode_utf16().collect::<Vec<_>>();
            assert!(units(&bound) > units(&escape_key(&id_prefix)) && !bound.starts_with(&escape_key(&id_prefix)), "seed {seed}");
        }
        assert_eq!(found, expected, "seed {seed}: {text}");
    }
}

#[test]
fn a_token_that_is_read_is_written_as_one_that_reads_the_same() {
    let mut read = 0;
    for seed in 0..4_000 {
        let text = Random::new(seed).text(16);
        if let Some(token) = continuation_token(&text) {
            assert_eq!(continuation_token(&token).as_ref(), Some(&token), "seed {seed}: {text:?}");
            assert!(!token.chars().any(char::is_control), "seed {seed}");
            read += 1;
        }
    }
    assert!(read > 100, "{read}");
}

#[test]
fn a_purge_removes_each_row_once_and_the_end_with_the_sentinel() {
    let row = |key: String, event_type: &str| Entity::new("i", key).with("EventType", event_type).with("ExecutionId", "E");
    for count in (0..450).chain([999, 1000, 1001, 20_000]) {
        let mut random = Random::new(count as u64);
        let leftovers = random.below(count + 1);
        let key = |ordinal: usize| format!("{ordinal:016X}");
        let mut current: Vec<Entity> = (leftovers..count).map(|ordinal| row(key(ordinal), "TaskCompleted")).collect();
        if let Some(last) = current.last_mut() {
            last.set("EventType", "ExecutionCompleted");
        }
        let ends = current.last().map(|row| row.row_key.clone());
        let sentinel = random.yes().then(|| Entity::new("i", "sentinel"));
        let mut expected: Vec<String> = (0..count).map(key).chain(sentinel.iter().map(|row| row.row_key.clone())).collect();
        let leftovers = (0..leftovers).map(|ordinal| row(key(ordinal), "TaskCompleted")).collect();
        let transactions = removal(current, leftovers, sentinel.clone());
        assert!(transactions.iter().all(|keys| (1..=100).contains(&keys.len())), "{count}");
        assert_eq!(transactions.len(), expected.len().div_ceil(100), "as many requests as the module's formula says");
        if let (Some(end), Some(_)) = (ends, sentinel) {
            let last = transactions.last().unwrap();
            assert!(last.contains(&end) && last.contains(&"sentinel".to_owned()), "{count}");
        }
        let mut removed: Vec<String> = transactions.into_iter().flatten().collect();
        removed.sort();
        expected.sort();
        assert_eq!(removed, expected, "{count}");
    }
}
