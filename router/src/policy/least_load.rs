//! `least_load`: the available worker with the fewest requests in progress; among equal ones each is equally likely.

use std::sync::Arc;

use super::{Choice, Entry, Policy, Query, least, total_load};
use crate::fleet::Worker;

pub(super) const ENTRY: Entry = Entry { name: "least_load", build: |_| Box::new(LeastLoad) };

pub struct LeastLoad;

impl Policy for LeastLoad {
    fn choose<'a>(&self, _query: Query<'_>, workers: &'a [Arc<Worker>]) -> Option<Choice<'a>> {
        let worker = least(workers.iter().filter(|worker| worker.is_available()), total_load)?;
        Some(Choice::new(worker, "fewest_requests"))
    }
}
