//! Who may ask for what: keys of clients, of administrators, and the router's own key for its workers.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use crate::config::RouterConfig;
use crate::error::RouterError;
use crate::secret::Secret;

/// What a route asks of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Access {
    /// Nothing: probes carry no key.
    Open,
    /// One of `--api-key`, if there are any.
    Client,
    /// The `--admin-api-key`; one of `--api-key` if that is not given.
    Admin,
}

impl Access {
    /// What the route at `path` asks.
    pub fn of(path: &str) -> Self {
        match path {
            "/health" | "/liveness" | "/readiness" => Self::Open,
            "/add_worker" | "/remove_worker" | "/list_workers" | "/workers" | "/flush_cache" => Self::Admin,
            "/update_weights_from_disk" | "/update_weights" | "/get_weights_by_name" => Self::Admin,
            "/release_memory_occupation" | "/resume_memory_occupation" => Self::Admin,
            "/start_profile" | "/stop_profile" => Self::Admin,
            path if path.starts_with("/workers/") => Self::Admin,
            _ => Self::Client,
        }
    }
}

/// The keys of a router.
pub struct Keys {
    clients: Vec<Secret>,
    admin: Option<Secret>,
    /// The `Authorization` header of requests to workers.
    worker: Option<HeaderValue>,
}

impl Keys {
    pub fn new(config: &RouterConfig) -> Self {
        Self {
            clients: config.api_key.clone(),
            admin: config.admin_api_key.clone(),
            worker: config.worker_authorization(),
        }
    }

    /// Refuses a request without a key that opens its route.
    pub fn check(&self, access: Access, headers: &HeaderMap) -> Result<(), RouterError> {
        let (keys, option) = match (access, &self.admin) {
            (Access::Open, _) => return Ok(()),
            (Access::Admin, Some(admin)) => (std::slice::from_ref(admin), "--admin-api-key"),
            _ => (self.clients.as_slice(), "--api-key"),
        };
        // Every key is looked at, so that the time tells nothing about which one was nearly right.
        let given = bearer(headers).unwrap_or_default();
        let known = keys.iter().fold(false, |known, key| key.is(given) | known);
        if known || keys.is_empty() { Ok(()) } else { Err(RouterError::Unauthorized(option)) }
    }

    /// What a client's request carries on to a worker: the router's own key if it has one, and never the key that opened the router.
    pub fn replace(&self, headers: &mut HeaderMap) {
        if let Some(worker) = &self.worker {
            headers.insert(AUTHORIZATION, worker.clone());
        } else if !self.clients.is_empty() || self.is_admin(headers) {
            headers.remove(AUTHORIZATION);
        }
    }

    fn is_admin(&self, headers: &HeaderMap) -> bool {
        self.admin.as_ref().is_some_and(|admin| bearer(headers).is_some_and(|given| admin.is(given)))
    }
}

/// The token of `Authorization: Bearer TOKEN`; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(clients: &[&str], admin: Option<&str>, worker: Option<&str>) -> Keys {
        Keys::new(&RouterConfig {
            api_key: clients.iter().map(|key| Secret::from(*key)).collect(),
            admin_api_key: admin.map(Secret::from),
            worker_api_key: worker.map(Secret::from),
            ..RouterConfig::default()
        })
    }

    fn with(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn each_route_asks_for_its_own_key() {
        let keys = keys(&["one", "two"], Some("root"), None);
        let opens = |access, value: &str| keys.check(access, &with(value)).is_ok();
        for (value, client, admin) in [
            ("Bearer one", true, false),
            ("bearer  two ", true, false),
            ("Bearer root", false, true),
            ("Bearer on", false, false),
            ("Bearer ", false, false),
            ("Basic one", false, false),
            ("one", false, false),
        ] {
            assert_eq!((opens(Access::Client, value), opens(Access::Admin, value)), (client, admin), "{value}");
            assert!(opens(Access::Open, value));
        }
        assert_eq!(keys.check(Access::Client, &HeaderMap::new()), Err(RouterError::Unauthorized("--api-key")));
        assert_eq!(keys.check(Access::Admin, &with("Bearer one")), Err(RouterError::Unauthorized("--admin-api-key")));
    }

    #[test]
    fn without_a_key_of_their_own_control_routes_take_a_clients() {
        assert!(keys(&["one"], None, None).check(Access::Admin, &with("Bearer one")).is_ok());
        assert!(keys(&["one"], None, None).check(Access::Admin, &HeaderMap::new()).is_err());
        assert!(keys(&[], None, None).check(Access::Admin, &HeaderMap::new()).is_ok());
        let guarded = keys(&[], Some("root"), None);
        assert!(guarded.check(Access::Client, &HeaderMap::new()).is_ok());
        assert!(guarded.check(Access::Admin, &HeaderMap::new()).is_err());
    }

    #[test]
    fn the_key_that_opened_the_router_stays_behind() {
        let carried = |keys: &Keys| {
            let mut headers = with("Bearer client");
            keys.replace(&mut headers);
            headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(carried(&keys(&[], None, None)).unwrap(), "Bearer client");
        assert_eq!(carried(&keys(&["client"], None, None)), None);
        assert_eq!(carried(&keys(&[], Some("root"), None)).unwrap(), "Bearer client");
        assert_eq!(carried(&keys(&[], Some("client"), None)), None);
        assert_eq!(carried(&keys(&["client"], None, Some("own"))).unwrap(), "Bearer own");
        assert_eq!(carried(&keys(&[], None, Some("own"))).unwrap(), "Bearer own");
    }

    #[test]
    fn paths_tell_who_may_ask() {
        for (path, access) in [
            ("/health", Access::Open),
            ("/v1/models", Access::Client),
            ("/generate", Access::Client),
            ("/workers", Access::Admin),
            ("/workers/3", Access::Admin),
            ("/flush_cache", Access::Admin),
            ("/healthy", Access::Client),
        ] {
            assert_eq!(Access::of(path), access, "{path}");
        }
    }
}
