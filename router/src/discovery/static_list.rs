//! The workers of `--worker-urls`: there from the start, used as soon as they answer.

use crate::fleet::{Fleet, WorkerUrl};

/// Adds the workers of a validated list to an empty fleet, without waiting for them.
pub fn add_listed(fleet: &Fleet, urls: Vec<WorkerUrl>) {
    for url in urls {
        fleet.add(url).expect("validated: no URL is listed twice");
    }
}
