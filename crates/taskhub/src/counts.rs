//! How many instances there are by status: a scan of the Instances table.
//!
//! There is no cheaper way: the table service cannot count. So it is bounded,
//! and says whether it saw all.

use std::collections::HashMap;

use crate::hub::TaskHub;
use crate::instance::RuntimeStatus;
use crate::list::{Filter, ListError};
use crate::storage::Query;

/// How many instances have which status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    by_status: HashMap<RuntimeStatus, u64>,
    /// False if the scan ended at its bound: there are at least these.
    pub complete: bool,
}

impl Counts {
    /// The number with that status.
    pub fn of(&self, status: RuntimeStatus) -> u64 {
        self.by_status.get(&status).copied().unwrap_or_default()
    }

    /// The number of all.
    pub fn total(&self) -> u64 {
        self.by_status.values().sum()
    }
}

impl TaskHub {
    /// Counts the instances that the filter finds, looking at `max_pages` pages of 1,000 at most. One request per page.
    ///
    /// # Errors
    /// [`ListError`], but not for page sizes or tokens.
    pub async fn counts(&self, filter: &Filter, max_pages: u32) -> Result<Counts, ListError> {
        let mut select = vec!["RuntimeStatus".to_owned()];
        if !filter.tags.is_empty() {
            select.push("Tags".to_owned());
        }
        let mut query = Query { filter: filter.to_odata()?, select, ..Query::default() };
        let mut counts = Counts::default();
        for _ in 0..max_pages {
            let page = self.instances().query(&query).await?;
            for row in page.entities {
                let instance = self.instance(row);
                if filter.has_tags(&instance) {
                    *counts.by_status.entry(instance.runtime_status).or_default() += 1;
                }
            }
            match page.continuation {
                Some(continuation) => query.continuation = Some(continuation),
                None => {
                    counts.complete = true;
                    break;
                }
            }
        }
        Ok(counts)
    }
}
