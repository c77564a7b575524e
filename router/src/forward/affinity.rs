//! What keeps a client's requests on one worker under `consistent_hash`: a header, else a field of the body.

use http::{HeaderMap, HeaderName};

use crate::config::RouterConfig;
use crate::prompt::{self, Scanned};

/// Where to look; nowhere under policies that do not ask.
pub(super) struct Affinity {
    places: Option<(HeaderName, String)>,
}

impl Affinity {
    pub fn new(config: &RouterConfig) -> Self {
        let header = || HeaderName::try_from(&config.consistent_hash_header).expect("the name is validated");
        let is_asked = config.policy == "consistent_hash";
        Self { places: is_asked.then(|| (header(), config.consistent_hash_field.clone())) }
    }

    /// A request's affinity, if it has one, and what else its body says.
    pub fn find<'a>(&self, headers: &HeaderMap, body: &'a [u8]) -> (Option<Box<[u8]>>, Scanned<'a>) {
        let Some((header, field)) = &self.places else { return (None, prompt::scan(body, None)) };
        let scanned = prompt::scan(body, Some(field));
        let affinity = headers.get(header).map(|value| value.as_bytes()).or(scanned.affinity);
        (affinity.filter(|affinity| !affinity.is_empty()).map(Box::from), scanned)
    }
}
