//! How many requests run at the same time, and who waits for a place: first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{RouterConfig, seconds};
use crate::error::RouterError;

/// Lets `--max-concurrent-requests` run, `--queue-size` wait for at most `--queue-timeout-secs`, and refuses the rest.
pub struct Admission {
    /// `None` lets everybody in.
    running: Option<Arc<Semaphore>>,
    limit: usize,
    waiting: AtomicUsize,
    queue_size: usize,
    timeout: Duration,
}

/// A place among the running requests, given back on drop.
pub struct Permit(#[expect(dead_code, reason = "held, never looked at")] Option<OwnedSemaphorePermit>);

/// A place in the queue, given back on drop: a client that goes away leaves the queue.
struct QueuePlace<'a>(&'a AtomicUsize);

// ===== impl Admission =====

impl Admission {
    pub fn new(config: &RouterConfig) -> Self {
        let limit = config.max_concurrent_requests;
        Self {
            running: (limit > 0).then(|| Arc::new(Semaphore::new(limit))),
            limit,
            waiting: AtomicUsize::new(0),
            queue_size: config.queue_size,
            timeout: seconds(config.queue_timeout_secs),
        }
    }

    /// Returns when the request may run. `RateLimited` when the queue is full, or did not move in time.
    pub async fn admit(&self) -> Result<Permit, RouterError> {
        let Some(running) = &self.running else { return Ok(Permit::none()) };
        // Never past those who wait: a permit that comes back goes to the first of them.
        if let Ok(permit) = running.clone().try_acquire_owned() {
            return Ok(Permit(Some(permit)));
        }
        let _place = self.queue().ok_or_else(|| {
            RouterError::RateLimited(format!(
                "the router is busy: {} requests are running (--max-concurrent-requests) and {} are waiting \
                 (--queue-size); retry later",
                self.limit, self.queue_size
            ))
        })?;
        match tokio::time::timeout(self.timeout, running.clone().acquire_owned()).await {
            Ok(permit) => Ok(Permit(Some(permit.expect("the semaphore is never closed")))),
            Err(_) => Err(RouterError::RateLimited(format!(
                "the router is busy: none of {} running requests (--max-concurrent-requests) ended for this one within \
                 {} s (--queue-timeout-secs); retry later",
                self.limit,
                self.timeout.as_secs_f64()
            ))),
        }
    }

    /// Requests that wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn queue(&self) -> Option<QueuePlace<'_>> {
        let place = |waiting| (waiting < self.queue_size).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).ok()?;
        Some(QueuePlace(&self.waiting))
    }
}

// ===== impl Permit =====

impl Permit {
    /// For what runs beside the limit.
    pub fn none() -> Self {
        Self(None)
    }
}

// ===== impl QueuePlace =====

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn admission(running: usize, waiting: usize) -> Admission {
        let config = RouterConfig { max_concurrent_requests: running, queue_size: waiting, ..RouterConfig::default() };
        Admission::new(&config)
    }

    #[tokio::test]
    async fn places_are_given_in_the_order_of_arrival() {
        let admission = admission(1, 2);
        let first = admission.admit().await.unwrap();
        let (mut second, mut third) = (Box::pin(admission.admit()), Box::pin(admission.admit()));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        assert_eq!(admission.waiting(), 2);
        let Err(RouterError::RateLimited(reason)) = admission.admit().await else { panic!("the queue is full") };
        assert!(reason.contains("1 requests are running") && reason.contains("2 are waiting"), "{reason}");
        drop(first);
        assert!((&mut third).now_or_never().is_none(), "second in the queue");
        let permit = second.await.unwrap();
        drop(permit);
        third.await.unwrap();
        assert_eq!(admission.waiting(), 0);
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_queue() {
        let admission = admission(1, 1);
        let running = admission.admit().await.unwrap();
        let mut gone = Box::pin(admission.admit());
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        assert_eq!(admission.waiting(), 0);
        let mut next = Box::pin(admission.admit());
        assert!((&mut next).now_or_never().is_none(), "its place in the queue is free again");
        drop(running);
        next.await.unwrap();
    }

    #[tokio::test]
    async fn without_a_limit_everybody_runs() {
        let admission = admission(0, 0);
        let permits = [admission.admit().await, admission.admit().await, admission.admit().await];
        assert!(permits.iter().all(Result::is_ok));
    }
}
