//! `random`: every available worker is equally likely.

use std::sync::Arc;

use super::{Entry, Policy, available};
use crate::fleet::Worker;

pub(super) const ENTRY: Entry = Entry { name: "random", build: |_| Box::new(Random) };

pub struct Random;

impl Policy for Random {
    fn choose<'a>(&self, _key: &[u8], workers: &'a [Arc<Worker>]) -> Option<&'a Arc<Worker>> {
        fastrand::choice(available(workers))
    }
}
