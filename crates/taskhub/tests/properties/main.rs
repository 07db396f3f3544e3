//! What must hold for any input, tried on thousands that a seeded generator makes; and decoders fed with damaged recordings.
//!
//! No server. A failure names the seed: the same seed gives the same input.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod damaged;
mod events;
mod filters;
mod keys;
mod messages;
mod mutation;
mod random;
mod starts;
