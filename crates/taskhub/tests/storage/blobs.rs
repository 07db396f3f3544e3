use durable_taskhub::storage::{BlobEntry, Container, StorageErrorKind};

use crate::emulator::{storage, unique};

async fn container() -> Container {
    let container = storage().container(&unique("blobs-"));
    assert!(container.create_if_missing().await.unwrap());
    container
}

#[tokio::test]
async fn containers_are_made_and_deleted_once() {
    let container = storage().container(&unique("blobs-"));
    assert!(container.create_if_missing().await.unwrap());
    assert!(!container.create_if_missing().await.unwrap());
    assert!(container.delete_container().await.unwrap());
    assert!(!container.delete_container().await.unwrap());
}

#[tokio::test]
async fn blobs_come_back_as_stored() {
    let container = container().await;
    // The head of a gzip stream: whoever decompresses must get it as it is.
    let gzip = [&[0x1f_u8, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &[7; 100]].concat();
    for name in ["plain", "a/b/it's 100% +é.json.gz", "message-x%2Fy", "^0", "a:b@c"] {
        assert_eq!(container.get(name, 1000).await.unwrap(), None);
        assert!(container.put(name, gzip.clone(), false).await.unwrap());
        assert!(!container.put(name, vec![1], false).await.unwrap());
        assert_eq!(container.get(name, 1000).await.unwrap().unwrap(), gzip, "{name}");
        assert!(container.put(name, vec![2], true).await.unwrap());
        assert_eq!(container.get(name, 1000).await.unwrap().unwrap(), [2]);
        assert_eq!(container.list(name).await.unwrap(), [BlobEntry { name: name.to_owned(), size: 1, leased: false }]);
        assert!(container.delete(name).await.unwrap());
        assert!(!container.delete(name).await.unwrap());
    }
    container.put("empty", Vec::new(), true).await.unwrap();
    assert_eq!(container.get("empty", 0).await.unwrap().unwrap(), Vec::<u8>::new());
    assert_eq!(container.get("empty", 10).await.unwrap().unwrap(), Vec::<u8>::new());
}

#[tokio::test]
async fn a_read_is_bounded() {
    let container = container().await;
    container.put("ten", vec![1; 10], true).await.unwrap();
    assert_eq!(container.get("ten", 10).await.unwrap().unwrap().len(), 10);
    for limit in [0, 1, 9] {
        let error = container.get("ten", limit).await.unwrap_err();
        assert_eq!(error.kind(), StorageErrorKind::TooLarge, "{error}");
    }
    // Larger than one part on the way up and down.
    let large: Vec<u8> = (0..9_000_000_u32).map(|index| (index % 251) as u8).collect();
    container.put("large", large.clone(), false).await.unwrap();
    assert!(!container.put("large", large.clone(), false).await.unwrap());
    assert!(container.get("large", 9_000_000).await.unwrap().unwrap() == large);
    assert_eq!(container.get("large", 8_999_999).await.unwrap_err().kind(), StorageErrorKind::TooLarge);
}

#[tokio::test]
async fn lists_are_by_prefix_and_ordered() {
    let container = container().await;
    for (index, name) in ["b/2", "b/1", "a/1", "b<&>"].into_iter().enumerate() {
        container.put(name, vec![0; index], false).await.unwrap();
    }
    let names = |entries: Vec<BlobEntry>| entries.into_iter().map(|entry| (entry.name, entry.size)).collect::<Vec<_>>();
    assert_eq!(names(container.list("b/").await.unwrap()), [("b/1".to_owned(), 1), ("b/2".to_owned(), 0)]);
    assert_eq!(names(container.list("").await.unwrap()).len(), 4);
    assert_eq!(names(container.list("b<").await.unwrap()), [("b<&>".to_owned(), 3)]);
    assert!(container.list("none").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_container_is_an_error() {
    let container = storage().container(&unique("missing-"));
    let errors = [
        container.get("x", 10).await.unwrap_err(),
        container.put("x", vec![1], true).await.unwrap_err(),
        container.list("").await.unwrap_err(),
        container.delete("x").await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.code()), (StorageErrorKind::ContainerNotFound, Some("ContainerNotFound")), "{error}");
    }
    assert_eq!(storage().container("..").list("").await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
    assert_eq!(storage().container("abc").get("..", 1).await.unwrap_err().kind(), StorageErrorKind::InvalidInput);
}
