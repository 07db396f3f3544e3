//! Azure Storage, typed: what a task hub needs of queues, tables and blobs. Knows nothing of hubs.
