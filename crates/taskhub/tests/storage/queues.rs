use std::time::Duration;

use durable_taskhub::Time;
use durable_taskhub::storage::{Queue, StorageErrorKind};

use crate::emulator::{storage, unique};

async fn queue() -> Queue {
    let queue = storage().queue(&unique("queue-"));
    assert!(queue.create_if_missing().await.unwrap());
    queue
}

#[tokio::test]
async fn queues_are_made_listed_and_deleted_once() {
    let storage = storage();
    let prefix = unique("list-");
    assert_eq!(storage.list_queues(&prefix).await.unwrap(), Vec::<String>::new());
    let names = ["b", "a", "c"].map(|name| format!("{prefix}-{name}"));
    for name in &names {
        assert!(storage.queue(name).create_if_missing().await.unwrap());
        assert!(!storage.queue(name).create_if_missing().await.unwrap());
    }
    let mut sorted = names.to_vec();
    sorted.sort();
    assert_eq!(storage.list_queues(&prefix).await.unwrap(), sorted);
    for name in &names {
        assert!(storage.queue(name).delete_queue().await.unwrap());
        assert!(!storage.queue(name).delete_queue().await.unwrap());
    }
}

#[tokio::test]
async fn a_message_goes_through_its_life() {
    let queue = queue().await;
    let text = "{\"a\":\"<b> & 'c' \\r\\n \u{1f600}\"}";
    let sent = queue.put(text, Duration::ZERO).await.unwrap();
    assert!(!sent.id.is_empty() && !sent.pop_receipt.is_empty());
    assert_eq!(queue.approximate_count().await.unwrap(), 1);

    let peeked = queue.peek(32).await.unwrap();
    assert_eq!(peeked.len(), 1);
    assert_eq!((peeked[0].id.as_str(), peeked[0].text.as_str(), peeked[0].dequeue_count), (sent.id.as_str(), text, 0));
    assert!(peeked[0].expires_at.unwrap() > Time::parse("9999-12-01T00:00:00Z").unwrap());
    assert!(Time::now().since(peeked[0].inserted_at.unwrap()).as_secs() < 60);

    let received = queue.receive(32, Duration::from_secs(60)).await.unwrap();
    assert_eq!((received[0].text.as_str(), received[0].dequeue_count), (text, 1));
    assert!(received[0].next_visible_at.unwrap() > Time::now());
    assert!(queue.receive(1, Duration::from_secs(60)).await.unwrap().is_empty());
    assert!(queue.peek(1).await.unwrap().is_empty());

    // The receipt of the put is stale since the receive, that of the receive since the update.
    assert!(!queue.delete(&sent.id, &sent.pop_receipt).await.unwrap());
    let newer = queue.update(&sent.id, &received[0].pop_receipt, Some("changed"), Duration::ZERO).await.unwrap();
    assert_ne!(newer, received[0].pop_receipt);
    let error = queue.update(&sent.id, &received[0].pop_receipt, None, Duration::ZERO).await.unwrap_err();
    assert!(error.is_precondition_failed() || error.is_not_found(), "{error}");
    assert!(!queue.delete(&sent.id, &received[0].pop_receipt).await.unwrap());
    assert_eq!(queue.peek(1).await.unwrap()[0].text, "changed");

    let kept = queue.update(&sent.id, &newer, None, Duration::ZERO).await.unwrap();
    assert_eq!(queue.peek(1).await.unwrap()[0].text, "changed");
    assert!(queue.delete(&sent.id, &kept).await.unwrap());
    assert!(!queue.delete(&sent.id, &kept).await.unwrap());
    assert_eq!(queue.approximate_count().await.unwrap(), 0);
}

#[tokio::test]
async fn texts_come_back_as_they_went() {
    let queue = queue().await;
    let texts = ["", " ", "  {\"a\":1}  ", "\n{}\n", "a\tb", "]]>&amp;", "eyJhIjoxfQ=="];
    for text in texts {
        queue.put(text, Duration::ZERO).await.unwrap();
    }
    let read: Vec<String> = queue.peek(32).await.unwrap().into_iter().map(|message| message.text).collect();
    assert_eq!(read, texts);
    queue.clear().await.unwrap();
    let large = "x".repeat(60_000);
    queue.put(&large, Duration::ZERO).await.unwrap();
    assert_eq!(queue.peek(1).await.unwrap()[0].text, large);
}

#[tokio::test]
async fn a_delay_is_rounded_up() {
    let queue = queue().await;
    let started = std::time::Instant::now();
    queue.put("later", Duration::from_millis(1100)).await.unwrap();
    while queue.receive(1, Duration::from_secs(30)).await.unwrap().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(1200), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_missing_queue_is_an_error() {
    let queue = storage().queue(&unique("missing-"));
    let errors = [
        queue.put("x", Duration::ZERO).await.unwrap_err(),
        queue.peek(1).await.unwrap_err(),
        queue.receive(1, Duration::from_secs(1)).await.unwrap_err(),
        queue.approximate_count().await.unwrap_err(),
        queue.clear().await.unwrap_err(),
        queue.delete("11111111-2222-3333-4444-555555555555", "AgAAAAMAAAAAAAAA").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.code()), (StorageErrorKind::ContainerNotFound, Some("QueueNotFound")), "{error}");
        assert!(error.is_not_found());
    }
}

#[tokio::test]
async fn what_no_queue_can_hold_is_not_sent() {
    let (recorder, options) = crate::emulator::Recorder::options();
    let storage = durable_taskhub::storage::Storage::new(crate::emulator::account(), options).unwrap();
    let queue = storage.queue("anything");
    assert_eq!(queue.put("\u{1}", Duration::ZERO).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    assert_eq!(queue.put(&"x".repeat(65_537), Duration::ZERO).await.unwrap_err().kind(), StorageErrorKind::TooLarge);
    let eight_days = Duration::from_secs(8 * 24 * 3600);
    assert_eq!(queue.put("x", eight_days).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    assert_eq!(queue.delete("../other", "r").await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    assert_eq!(storage.queue("..").peek(1).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    assert!(recorder.take().is_empty());
}
