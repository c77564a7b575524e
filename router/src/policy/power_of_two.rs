//! `power_of_two`: two available workers at random, then the one with fewer requests in progress.
//!
//! Close to the shortest queue without looking at every worker (Mitzenmacher, "The power of two choices in randomized load
//! balancing", 2001), and without the herd that follows when several routers all see the same shortest queue.

use std::sync::Arc;

use super::{Choice, Entry, Policy, Query, available, total_load};
use crate::fleet::Worker;

pub(super) const ENTRY: Entry = Entry { name: "power_of_two", build: |_| Box::new(PowerOfTwo) };

pub struct PowerOfTwo;

impl Policy for PowerOfTwo {
    fn choose<'a>(&self, _query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        let available = available(workers);
        let first = fastrand::usize(..available.len().max(1));
        let second = match available.len() {
            0 => return None,
            1 => first,
            // Another one than the first: a step of 1 to all but one.
            count => (first + fastrand::usize(1..count)) % count,
        };
        let (first, second) = (available[first], available[second]);
        let worker = if total_load(second) < total_load(first) { second } else { first };
        Some(Choice::new(worker, "fewer_requests"))
    }
}
