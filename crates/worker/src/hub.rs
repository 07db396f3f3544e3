//! The artifacts of the hub that this worker serves, and what all of its tasks share.

use std::sync::atomic::{AtomicI64, Ordering};

use durable_taskhub::message::{Message, Sender};
use durable_taskhub::names::HubName;
use durable_taskhub::partition::{PartitionCount, partition_of};
use durable_taskhub::storage::{Queue, Storage, StorageError, Table};

use crate::large::LargeValues;
use crate::poll::Bell;
use crate::samples::activities::Markers;

/// The queues and tables of one hub, by their use.
pub struct Hub {
    /// The hub's name with its configured case.
    pub name: HubName,
    /// How many control queues there are.
    pub partitions: PartitionCount,
    /// The Instances table.
    pub instances: Table,
    /// The History table.
    pub history: Table,
    /// The Partitions table.
    pub leases: Table,
    /// The control queues in the order of their partitions, each with the bell that wakes its reader.
    pub control: Vec<(Queue, Bell)>,
    /// The work-item queue with the bell of its reader.
    pub work_items: (Queue, Bell),
    /// Messages and values that lie in blobs.
    pub large: LargeValues,
    /// The marker files of the sample activities.
    pub markers: Markers,
    sequence: AtomicI64,
}

impl Hub {
    /// The hub `name` with `partitions` control queues. Sends nothing.
    pub fn new(storage: &Storage, name: HubName, partitions: PartitionCount, markers: Markers) -> Hub {
        Hub {
            instances: storage.table(&name.instances_table()),
            history: storage.table(&name.history_table()),
            leases: storage.table(&name.partitions_table()),
            control: (0..partitions.get()).map(|index| (storage.queue(&name.control_queue(index)), Bell::default())).collect(),
            work_items: (storage.queue(&name.work_item_queue()), Bell::default()),
            large: LargeValues::new(storage, &name),
            markers,
            sequence: AtomicI64::new(0),
            partitions,
            name,
        }
    }

    /// A message of the orchestration `sender`, numbered after all earlier ones of this process (task-hub.md 7.6).
    pub fn number(&self, message: Message, sender: Sender) -> Message {
        Message { sequence_number: self.sequence.fetch_add(1, Ordering::Relaxed) + 1, sender: Some(sender), ..message }
    }

    /// Puts a message for an instance into its control queue; `delay` is whole seconds.
    ///
    /// # Errors
    /// Storage failed.
    pub async fn send_to_instance(&self, message: &Message, delay: std::time::Duration) -> Result<(), StorageError> {
        let index = partition_of(&message.instance_id, self.partitions) as usize;
        // `partition_of` is below the count that made the list; there is nothing else to do for an empty one.
        let Some((queue, bell)) = self.control.get(index) else { return Ok(()) };
        queue.put(&self.large.queue_text(message).await?, delay).await?;
        if delay.is_zero() {
            bell.ring();
        }
        Ok(())
    }

    /// Puts a message for an activity into the work-item queue.
    ///
    /// # Errors
    /// Storage failed.
    pub async fn send_work_item(&self, message: &Message) -> Result<(), StorageError> {
        self.work_items.0.put(&self.large.queue_text(message).await?, std::time::Duration::ZERO).await?;
        self.work_items.1.ring();
        Ok(())
    }
}
