//! The router's rooms that are fuzzed, compiled by themselves.

#[path = "../../src/prefix/mod.rs"]
pub mod prefix;
#[path = "../../src/prompt/mod.rs"]
pub mod prompt;

#[path = "../../src/prefix/model.rs"]
pub mod model;

/// As in the router.
pub mod fleet {
    pub type WorkerId = u16;
}
