//! Which models a worker serves, as it says itself.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tracing::info;

use super::inquiry::{Inquirer, Reply};
use super::worker::Worker;

/// How long a worker may take to name its models. It waits for its first requests meanwhile.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The models of one worker, by name; empty for a worker that names none, which then takes requests for any.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Models(pub Vec<Model>);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Model {
    pub name: String,
    /// The entry of the worker's `/v1/models`.
    pub card: Value,
}

impl Models {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|model| model.name.as_str())
    }

    /// Of the body of `/v1/models`; `None` if it is something else.
    fn from_list(body: &[u8]) -> Option<Self> {
        let list: Value = serde_json::from_slice(body).ok()?;
        let cards = list.get("data")?.as_array()?;
        let model = |card: &Value| Some(Model { name: card.get("id")?.as_str()?.to_owned(), card: card.clone() });
        Some(Self::sorted(cards.iter().filter_map(model).collect()))
    }

    /// Of the body of `/get_model_info`; `None` if it is something else.
    fn from_info(body: &[u8]) -> Option<Self> {
        let info: Map<String, Value> = serde_json::from_slice(body).ok()?;
        let name = info.get("model_path")?.as_str()?.to_owned();
        let card = json!({"id": name, "object": "model", "owned_by": "worker", "root": name});
        Some(Self(vec![Model { name, card }]))
    }

    fn sorted(mut models: Vec<Model>) -> Self {
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models.dedup_by(|a, b| a.name == b.name);
        Self(models)
    }
}

/// Asks a worker for its models; true if they are others than before. What cannot be asked now stays as it was.
pub(super) async fn learn(worker: &Worker, inquirer: &Inquirer) -> bool {
    let models = match inquirer.get(worker, "/v1/models", TIMEOUT).await {
        Reply::Ok(body) => Models::from_list(&body),
        Reply::Failed(_) => return false,
        Reply::Missing => None,
    };
    let models = match models {
        Some(models) => models,
        None => match inquirer.get(worker, "/get_model_info", TIMEOUT).await {
            Reply::Ok(body) => Models::from_info(&body).unwrap_or_default(),
            Reply::Failed(_) => return false,
            Reply::Missing => Models::default(),
        },
    };
    let before = worker.models.load_full();
    if *before == models {
        return false;
    }
    if !models.names().eq(before.names()) {
        info!(worker = %worker.url(), models = ?models.names().collect::<Vec<_>>(), "the worker's models");
    }
    worker.models.store(Arc::new(models));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_read_from_either_answer() {
        let list = Models::from_list(
            br#"{"object": "list", "data": [{"id": "b", "x": 1}, {"id": "a"}, {"id": 3}, {"id": "b"}]}"#,
        );
        let list = list.unwrap();
        assert_eq!(list.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(list.0[1].card, json!({"id": "b", "x": 1}));
        let info = Models::from_info(br#"{"model_path": "/models/llama", "is_generation": true}"#).unwrap();
        assert_eq!(info.names().collect::<Vec<_>>(), ["/models/llama"]);
        for body in ["", "[]", "{}", r#"{"data": 1, "model_path": 2}"#, "no JSON"] {
            assert_eq!(
                (Models::from_list(body.as_bytes()), Models::from_info(body.as_bytes())),
                (None, None),
                "{body}"
            );
        }
    }
}
