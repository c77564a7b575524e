//! `GET /v1/models` and `/v1/models/{id}`: what all workers together serve.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::Value;

use super::Control;
use crate::error::RouterError;

#[derive(Serialize)]
pub struct ModelList {
    object: &'static str,
    data: Vec<Value>,
}

/// Every model once, in the order of names.
pub async fn list(State(control): State<Control>) -> Result<Json<ModelList>, RouterError> {
    let data = known(&control)?.into_iter().map(|(_, card)| card).collect();
    Ok(Json(ModelList { object: "list", data }))
}

/// One model; its id may contain slashes.
pub async fn show(State(control): State<Control>, Path(id): Path<String>) -> Result<Json<Value>, RouterError> {
    let mut models = known(&control)?;
    match models.iter().position(|(name, _)| *name == id) {
        Some(position) => Ok(Json(models.swap_remove(position).1)),
        None => Err(RouterError::UnknownModel { model: id, known: models.into_iter().map(|(name, _)| name).collect() }),
    }
}

/// The models with what workers say about them. Unavailable when no worker is there to serve one.
fn known(control: &Control) -> Result<Vec<(String, Value)>, RouterError> {
    match control.fleet.has_healthy_worker() {
        true => Ok(control.fleet.models()),
        false => Err(RouterError::NoHealthyWorker { workers: control.fleet.workers().len() }),
    }
}
