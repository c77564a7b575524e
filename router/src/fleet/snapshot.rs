//! The fleet at one moment: all workers, and which of them serve a model.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::models::Models;
use super::worker::Worker;

/// Immutable, and replaced as a whole when a worker comes, goes, or serves something else.
#[derive(Default)]
pub(super) struct Snapshot {
    workers: Arc<Vec<Arc<Worker>>>,
    names: HashSet<String>,
    groups: Groups,
}

#[derive(Default)]
enum Groups {
    /// No two workers name different models: every name is passed on, since it may be an alias or an adapter that workers know.
    #[default]
    One,
    Several {
        /// For every model the workers that name it, and those that name none.
        by_model: HashMap<String, Vec<Arc<Worker>>>,
        /// The workers that name no model: they may serve any.
        any: Vec<Arc<Worker>>,
    },
}

// ===== impl Snapshot =====

impl Snapshot {
    pub fn new(workers: Vec<Arc<Worker>>) -> Self {
        let models: Vec<Arc<Models>> = workers.iter().map(|worker| worker.models.load_full()).collect();
        let names = models.iter().flat_map(|models| models.names()).map(str::to_owned).collect();
        let groups = Groups::of(&workers, &models);
        Self { workers: Arc::new(workers), names, groups }
    }

    pub fn workers(&self) -> &Arc<Vec<Arc<Worker>>> {
        &self.workers
    }

    /// The workers that may serve a request for `model`, available or not; `None` if it is known that no worker does.
    /// A request that names no model may go anywhere.
    pub fn group(&self, model: Option<&str>) -> Option<&[Arc<Worker>]> {
        match (&self.groups, model) {
            (Groups::One, _) | (_, None) => Some(&self.workers),
            (Groups::Several { by_model, any }, Some(model)) => match by_model.get(model) {
                Some(group) => Some(group),
                None => (!any.is_empty()).then_some(any),
            },
        }
    }

    /// True when some worker names the model.
    pub fn serves(&self, model: &str) -> bool {
        self.names.contains(model)
    }

    /// Every model once, with what a worker says about it, in the order of names.
    pub fn models(&self) -> Vec<(String, Value)> {
        let models = self.workers.iter().map(|worker| worker.models.load_full());
        let mut models: Vec<(String, Value)> =
            models.flat_map(|models| models.0.clone()).map(|model| (model.name, model.card)).collect();
        models.sort_by(|a, b| a.0.cmp(&b.0));
        models.dedup_by(|a, b| a.0 == b.0);
        models
    }
}

impl Groups {
    fn of(workers: &[Arc<Worker>], models: &[Arc<Models>]) -> Self {
        let named: HashSet<Vec<&str>> = models
            .iter()
            .map(|models| models.names().collect())
            .filter(|names: &Vec<&str>| !names.is_empty())
            .collect();
        if named.len() <= 1 {
            return Self::One;
        }
        let with = |wanted: Option<&str>| {
            let serves = |(_, models): &(_, &Arc<Models>)| {
                models.0.is_empty() || wanted.is_some_and(|wanted| models.names().any(|name| name == wanted))
            };
            workers.iter().zip(models).filter(serves).map(|(worker, _)| worker.clone()).collect()
        };
        let names: HashSet<&str> = named.into_iter().flatten().collect();
        Self::Several {
            by_model: names.into_iter().map(|name| (name.to_owned(), with(Some(name)))).collect(),
            any: with(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::models::Model;
    use super::super::url::WorkerUrl;
    use super::*;

    fn snapshot(fleet: &[&[&str]]) -> Snapshot {
        let worker = |(id, names): (usize, &&[&str])| {
            let worker = Worker::new(id as u16, WorkerUrl::parse(&format!("worker-{id}")).unwrap());
            let model = |name: &&str| Model { name: (*name).to_owned(), card: json!({"id": name, "of": id}) };
            worker.models.store(Arc::new(Models(names.iter().map(model).collect())));
            Arc::new(worker)
        };
        Snapshot::new(fleet.iter().enumerate().map(worker).collect())
    }

    fn ids(snapshot: &Snapshot, model: Option<&str>) -> Option<Vec<u16>> {
        Some(snapshot.group(model)?.iter().map(|worker| worker.id()).collect())
    }

    #[test]
    fn workers_of_one_model_are_asked_for_whatever_name() {
        for fleet in [&[&["a"][..], &["a"]][..], &[&[], &[]], &[&["a", "b"], &["a", "b"]], &[&["a"], &[]]] {
            let snapshot = snapshot(fleet);
            for model in [None, Some("a"), Some("unheard of")] {
                assert_eq!(ids(&snapshot, model), Some(vec![0, 1]), "{fleet:?} {model:?}");
            }
        }
    }

    #[test]
    fn a_model_finds_the_workers_that_name_it() {
        let snapshot = snapshot(&[&["a"], &["b"], &["a", "c"]]);
        assert_eq!(ids(&snapshot, Some("a")), Some(vec![0, 2]));
        assert_eq!(ids(&snapshot, Some("b")), Some(vec![1]));
        assert_eq!(ids(&snapshot, Some("c")), Some(vec![2]));
        assert_eq!(ids(&snapshot, Some("d")), None);
        assert_eq!(ids(&snapshot, None), Some(vec![0, 1, 2]));
        let names: Vec<_> = snapshot.models().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }

    #[test]
    fn a_worker_that_names_no_model_takes_any() {
        let snapshot = snapshot(&[&["a"], &["b"], &[]]);
        assert_eq!(ids(&snapshot, Some("a")), Some(vec![0, 2]));
        assert_eq!(ids(&snapshot, Some("d")), Some(vec![2]));
    }
}
