//! Why a reconcile could not do its work. Waiting is not among it.

use std::error::Error;
use std::fmt;

/// A reconcile that failed: it is tried again, after a growing time.
#[derive(Debug)]
pub struct Failure {
    category: &'static str,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure of `category`, a word for metrics, because of `source`.
    pub fn new(category: &'static str, source: impl Error + Send + Sync + 'static) -> Failure {
        Failure { category, source: Some(Box::new(source)) }
    }

    /// A failure that its category explains.
    pub fn of(category: &'static str) -> Failure {
        Failure { category, source: None }
    }

    /// The word for metrics.
    pub fn category(&self) -> &'static str {
        self.category
    }
}

/// The category and the whole chain of causes.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.category)?;
        let mut cause = self.source.as_ref().map(|source| -> &dyn Error { source.as_ref() });
        let mut before = String::new();
        while let Some(error) = cause {
            let text = error.to_string();
            // Transparent errors repeat their source.
            if text != before {
                write!(f, ": {text}")?;
            }
            before = text;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {}
