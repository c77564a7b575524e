//! The router as clients and workers see it: real sockets, and small workers of the tests' own.

mod access;
mod affinity;
mod control;
mod everywhere;
mod failures;
mod framing;
mod hangs;
mod kubernetes;
mod membership;
mod metrics;
mod models;
mod pass_through;
mod slow_clients;
mod spans;
mod streaming;
mod support;
mod tls;
mod workers_api;
