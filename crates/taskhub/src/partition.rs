//! Which control queue serves an instance (task-hub.md 2).
//!
//! Nothing in the engine checks the queue of a message: a wrong partition goes
//! unnoticed until two workers serve one instance. So this is the only place
//! that computes it.

/// The control queue of `instance_id` among `partitions`: FNV-1a over the UTF-8 bytes of the raw ID.
pub fn partition_of(instance_id: &str, partitions: PartitionCount) -> u32 {
    fnv1a(instance_id.as_bytes()) % partitions.get()
}

/// How many control queues a hub has: 1 to 16 (task-hub.md 1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionCount(u32);

impl PartitionCount {
    /// What engines use when nothing else is configured.
    pub const DEFAULT: PartitionCount = PartitionCount(4);

    /// `count`, if an engine accepts it.
    pub fn new(count: u32) -> Option<PartitionCount> {
        (1..=16).contains(&count).then_some(PartitionCount(count))
    }

    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }
}

fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_specification() {
        let four = PartitionCount::DEFAULT;
        let sixteen = PartitionCount::new(16).unwrap();
        for (id, hash, of_four, of_sixteen) in [
            ("", 2_166_136_261, 1, 5),
            ("a", 3_826_002_220, 0, 12),
            ("order-1001", 2_439_986_572, 0, 12),
            ("Order-1001", 1_887_717_164, 0, 12),
            ("0f8fad5bd9cb469fa16570867728950e", 268_986_579, 3, 3),
            ("7c9e6679-7425-40de-944b-e07fc1f90ae7", 151_384_211, 3, 3),
            ("my/instance", 534_733_839, 3, 15),
            ("@counter@myKey", 1_776_272_992, 0, 0),
            ("@counter@mykey", 3_429_522_944, 0, 0),
            ("übung-ß", 1_788_026_165, 1, 5),
            ("日本語", 2_153_733_351, 3, 7),
            ("😀", 866_293_256, 0, 8),
            ("a^b#c?d\\e", 4_156_206_006, 2, 6),
            ("instance 1", 4_000_437_253, 1, 5),
        ] {
            assert_eq!(fnv1a(id.as_bytes()), hash, "{id}");
            assert_eq!(partition_of(id, four), of_four, "{id}");
            assert_eq!(partition_of(id, sixteen), of_sixteen, "{id}");
        }
        let seven = PartitionCount::new(7).unwrap();
        assert_eq!(["order-1001", "my/instance", "日本語"].map(|id| partition_of(id, seven)), [2, 3, 0]);
    }

    #[test]
    fn counts_that_no_engine_accepts_are_refused() {
        assert_eq!(PartitionCount::new(0), None);
        assert_eq!(PartitionCount::new(17), None);
    }
}
