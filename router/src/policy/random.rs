//! `random`: every available worker is equally likely.

use std::sync::Arc;

use super::{Choice, Entry, Policy, Query, available};
use crate::fleet::Worker;

pub(super) const ENTRY: Entry = Entry { name: "random", build: |_| Box::new(Random) };

pub struct Random;

impl Policy for Random {
    fn choose<'a>(&self, _query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        let worker = fastrand::choice(available(workers))?;
        Some(Choice::new(worker, "random"))
    }
}
