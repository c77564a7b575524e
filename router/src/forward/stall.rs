//! An answer that has begun and then pauses for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Measures the pauses of one answer (`--stream-idle-timeout-secs`). Only time in which the worker is waited for counts, not a client that does not read.
pub(super) struct Stall {
    longest: Duration,
    timer: Pin<Box<Sleep>>,
    is_paused: bool,
}

impl Stall {
    pub fn new(longest: Duration) -> Self {
        Self { longest, timer: Box::pin(sleep(longest)), is_paused: false }
    }

    /// A piece came.
    pub fn moved(&mut self) {
        self.is_paused = false;
    }

    /// Called when no piece is there; ready when the pause has been too long.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.is_paused {
            self.is_paused = true;
            self.timer.as_mut().reset(Instant::now() + self.longest);
        }
        self.timer.as_mut().poll(context)
    }
}
