//! What can be checked without servers: the committed CRDs, the documentation's examples, what GitOps tools say, and who imports whom.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod alerts;
mod charts;
mod crds;
mod docs;
mod gitops;
mod layering;
