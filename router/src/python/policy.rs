//! A routing policy by itself, for programs that bring their own clock and workers: the fleet simulator.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use crate::config::RouterConfig;
use crate::fleet::{LoadGuard, Worker, WorkerId, WorkerUrl};
use crate::moment::Moment;
use crate::policy::{self, Assignment, Policy, Query};
use crate::prefix::Key;

/// The router's own policy over workers that exist only as names. Times are seconds of the caller's clock and never go back.
#[pyclass(name = "Policy", unsendable)]
pub struct PyPolicy {
    policy: Box<dyn Policy>,
    workers: Vec<Arc<Worker>>,
    running: HashMap<u64, Running>,
    next_ticket: u64,
}

/// A request between `choose` and `ended`.
struct Running {
    guard: LoadGuard,
    assignment: Assignment,
    answered: bool,
}

#[pymethods]
impl PyPolicy {
    /// The policy that the configuration names; `seed` makes its random choices repeatable on this thread.
    #[new]
    fn new(config_json: &str, seed: u64) -> PyResult<Self> {
        let config = RouterConfig::from_json(config_json).map_err(PyValueError::new_err)?;
        fastrand::seed(seed);
        let policy = policy::build(&config);
        Ok(Self { policy, workers: Vec::new(), running: HashMap::new(), next_ticket: 0 })
    }

    /// Add a healthy worker; returns its id: 0, 1, and so on.
    fn add_worker(&mut self) -> PyResult<WorkerId> {
        let id = WorkerId::try_from(self.workers.len()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let url = WorkerUrl::parse(&format!("http://worker-{id}")).expect("a valid URL");
        let worker = Worker::new(id, url);
        worker.mark_healthy();
        self.workers.push(Arc::new(worker));
        Ok(id)
    }

    /// From now on the worker may, or may not, be chosen.
    fn set_available(&self, worker: WorkerId, available: bool) -> PyResult<()> {
        let worker = self.worker(worker)?;
        if available {
            worker.mark_healthy()
        } else {
            worker.mark_unhealthy("set by the caller")
        }
        Ok(())
    }

    /// The worker has lost its cache, and may be another machine.
    fn forget(&self, worker: WorkerId) -> PyResult<()> {
        self.policy.forget(self.worker(worker)?.id());
        Ok(())
    }

    /// Give a request to a worker. Its prompt is the first `prompt_bytes` bytes of a text in blocks of `block_bytes`, one for each of
    /// `blocks`; equal ids are equal text. Returns the worker, a ticket for the calls that follow, the reason of the choice, and
    /// the bytes that the worker is taken to hold. RuntimeError when no worker is available.
    #[pyo3(signature = (blocks, block_bytes, prompt_bytes, now, affinity = None, stream = true))]
    fn assign(
        &mut self,
        blocks: Vec<u64>,
        block_bytes: usize,
        prompt_bytes: usize,
        now: f64,
        affinity: Option<&str>,
        stream: bool,
    ) -> PyResult<(WorkerId, u64, &'static str, usize)> {
        if prompt_bytes > blocks.len().saturating_mul(block_bytes) {
            return Err(PyValueError::new_err(format!(
                "prompt_bytes {prompt_bytes}: more than {} blocks of {block_bytes} bytes",
                blocks.len()
            )));
        }
        let key = text(&blocks, block_bytes, prompt_bytes);
        let query = Query { key: &key, affinity: affinity.map(str::as_bytes), stream, now: moment(now)? };
        let choice = self.policy.choose(query, &self.workers);
        let choice = choice.ok_or_else(|| PyRuntimeError::new_err("no worker is available"))?;
        let guard = choice.worker.begin().expect("no worker drains");
        let assignment = Assignment::new(&query, &choice);
        self.policy.assigned(query, &assignment);
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let answer = (choice.worker.id(), ticket, choice.reason, choice.held_bytes);
        self.running.insert(ticket, Running { guard, assignment, answered: false });
        Ok(answer)
    }

    /// The first byte of a request's answer came.
    fn answered(&mut self, ticket: u64, now: f64) -> PyResult<()> {
        let now = moment(now)?;
        let running = self.running.get_mut(&ticket).ok_or_else(|| no_ticket(ticket))?;
        if !running.answered {
            running.answered = true;
            self.policy.answered(&running.assignment, now);
        }
        Ok(())
    }

    /// A request's answer ended, or never came.
    fn ended(&mut self, ticket: u64, now: f64) -> PyResult<()> {
        let now = moment(now)?;
        let Running { guard, assignment, answered } = self.running.remove(&ticket).ok_or_else(|| no_ticket(ticket))?;
        self.policy.ended(&assignment, answered, now);
        drop(guard);
        Ok(())
    }

    /// The housekeeping that the router does every `eviction_interval` seconds.
    fn maintain(&self) {
        self.policy.maintain();
    }

    /// Requests between `assign` and `ended`, by worker.
    #[getter]
    fn loads(&self) -> Vec<usize> {
        self.workers.iter().map(|worker| worker.load()).collect()
    }
}

impl PyPolicy {
    fn worker(&self, id: WorkerId) -> PyResult<&Arc<Worker>> {
        self.workers.get(usize::from(id)).ok_or_else(|| PyKeyError::new_err(format!("no worker {id}")))
    }
}

fn no_ticket(ticket: u64) -> PyErr {
    PyKeyError::new_err(format!("no running request has ticket {ticket}"))
}

fn moment(seconds: f64) -> PyResult<Moment> {
    let duration = Duration::try_from_secs_f64(seconds);
    duration.map(Moment::after).map_err(|error| PyValueError::new_err(format!("time {seconds}: {error}")))
}

/// Text that differs from block to block from its first bytes on.
fn text(blocks: &[u64], block_bytes: usize, prompt_bytes: usize) -> Key {
    let mut text = Vec::with_capacity(prompt_bytes + block_bytes);
    for block in blocks {
        let end = text.len() + block_bytes;
        let mut state = block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        while text.len() < end {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            text.extend_from_slice(&(word ^ (word >> 27)).to_le_bytes());
        }
        text.truncate(end);
    }
    text.truncate(prompt_bytes);
    Key::new(&text)
}
