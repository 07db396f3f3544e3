//! What can be checked without servers: the committed CRDs, and who imports whom.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crds;
mod layering;
