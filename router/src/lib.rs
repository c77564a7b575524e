//! The radixfleet router: sends every request to the worker that will answer it soonest.

mod admission;
mod auth;
pub mod background;
mod body;
pub mod config;
mod connection;
mod control;
pub mod discovery;
mod error;
pub mod fleet;
mod forward;
mod http1;
pub mod logging;
pub mod metrics;
pub mod moment;
pub mod policy;
pub mod prefix;
pub mod prompt;
#[cfg(feature = "python")]
mod python;
pub mod secret;
pub mod server;
mod spans;
mod tls;
mod upstream;

pub use background::BackgroundRouter;
pub use config::RouterConfig;
pub use server::Router;
