//! The idle connections of one worker.

use parking_lot::Mutex;

use super::Connection;

/// The most idle connections that are kept.
const MAX_IDLE: usize = 512;

/// Idle connections, the most recently used on top, so that a burst's surplus falls idle and is closed.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// An idle connection that was open a moment ago.
    pub fn take(&self) -> Option<Connection> {
        loop {
            let mut connection = self.idle.lock().pop()?;
            if connection.is_idle() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose exchange is complete; drops one that cannot be used again.
    pub fn put(&self, mut connection: Connection) {
        if connection.is_idle() {
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(connection);
            }
        }
    }

    /// Drops the connections that the worker has closed.
    pub fn prune(&self) {
        self.idle.lock().retain_mut(Connection::is_idle);
    }

    /// Drops all idle connections.
    pub fn clear(&self) {
        let dropped = std::mem::take(&mut *self.idle.lock());
        drop(dropped);
    }
}
