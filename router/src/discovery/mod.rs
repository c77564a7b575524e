//! Where workers come from: the list at the start, and the HTTP API while the router runs.

mod http_api;
mod static_list;

pub use self::http_api::{add_worker, list_workers, remove_worker};
pub use self::static_list::add_listed;
