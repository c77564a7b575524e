//! `round_robin`: available workers in turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Choice, Entry, Policy, Query, available};
use crate::fleet::Worker;

pub(super) const ENTRY: Entry = Entry { name: "round_robin", build: |_| Box::new(RoundRobin::default()) };

#[derive(Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

impl Policy for RoundRobin {
    fn choose<'a>(&self, _query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        // In turn among the available ones, so that the neighbour of a dead worker does not get the dead one's turns too.
        let available = available(workers);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(available.len())?;
        Some(Choice::new(available[turn], "turn"))
    }
}
