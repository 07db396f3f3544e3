//! How much counters grew between two looks.

use std::collections::BTreeMap;

/// The series that grew, and by how much.
pub fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = after.iter().map(|(series, count)| (series.clone(), count - before.get(series).copied().unwrap_or_default()));
    grown.filter(|(_, count)| *count > 0).collect()
}
