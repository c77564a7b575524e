//! Where workers come from: the list at the start, and while the router runs the HTTP APIs and the pods of a Kubernetes cluster.

pub mod http_api;
pub mod kubernetes;
pub mod rest_api;
mod static_list;

pub use self::static_list::add_listed;
