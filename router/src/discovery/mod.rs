//! Where workers come from: the list at the start, and while the router runs the HTTP API and the pods of a Kubernetes cluster.

mod http_api;
pub mod kubernetes;
mod static_list;

pub use self::http_api::{add_worker, list_workers, remove_worker};
pub use self::static_list::add_listed;
