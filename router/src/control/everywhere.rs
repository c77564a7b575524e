//! Routes that concern every worker: all that are available are asked, and their answers become one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use bytes::Bytes;
use futures_util::future::join_all;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, Uri};
use serde_json::{Map, Value};

use super::Control;
use crate::error::RouterError;
use crate::fleet::Worker;
use crate::forward::{WORKER, origin_form};
use crate::upstream::fetch;

/// A worker, and what it answered.
pub(super) type Told = (Arc<Worker>, io::Result<http::Response<Bytes>>);

/// Sends a request with `headers` as its client's key has left them to every available worker.
pub(super) async fn ask(
    control: &Control,
    mut request: Request<Bytes>,
    headers: &HeaderMap,
    timeout: Duration,
) -> Result<Vec<Told>, RouterError> {
    for name in [AUTHORIZATION, CONTENT_TYPE] {
        if let Some(value) = headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    let workers = control.fleet.workers();
    let available: Vec<Arc<Worker>> = workers.iter().filter(|worker| worker.is_available()).cloned().collect();
    if available.is_empty() {
        return Err(RouterError::NoHealthyWorker { workers: workers.len() });
    }
    let answers = join_all(available.iter().map(|worker| fetch(&request, worker.url(), timeout))).await;
    Ok(available.into_iter().zip(answers).collect())
}

/// Passes the request on. If a worker refuses it, the client gets its answer; else that of the first worker, with the `sum` of all.
pub async fn ask_all(
    State(control): State<Control>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, RouterError> {
    let mut request = Request::new(body.map_err(|error| RouterError::BadRequest(error.body_text()))?);
    *request.method_mut() = method;
    *request.uri_mut() = origin_form(&uri);
    let told = ask(&control, request, &headers, control.request_timeout).await?;
    if ["/update_weights_from_disk", "/update_weights"].contains(&uri.path()) {
        control.fleet.forget_prefixes();
    }
    let mut answers = Vec::with_capacity(told.len());
    for (worker, answer) in told {
        let answer = answer.map_err(|error| RouterError::WorkersFailed(format!("{}: {error}", worker.url())))?;
        answers.push((worker, answer));
    }
    let refusal = answers.iter().find(|(_, answer)| !answer.status().is_success());
    let (worker, answer) = refusal.unwrap_or(&answers[0]);
    let total = if refusal.is_none() { sum(answers.iter().map(|(_, answer)| answer.body())) } else { None };
    let mut response = Response::new(Body::from(total.unwrap_or_else(|| answer.body().clone())));
    *response.status_mut() = answer.status();
    if let Some(kind) = answer.headers().get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, kind.clone());
    }
    response.headers_mut().insert(WORKER, worker.url().text_header().clone());
    Ok(response)
}

/// The first of these JSON objects, each integer in it replaced by the sum of all objects', each array by theirs joined; `None` if one
/// of them is something else.
fn sum<'a>(bodies: impl Iterator<Item = &'a Bytes>) -> Option<Bytes> {
    let objects = bodies.map(|body| serde_json::from_slice(body).ok());
    let mut objects = objects.collect::<Option<Vec<Map<String, Value>>>>()?.into_iter();
    let mut total = objects.next()?;
    for mut object in objects {
        for (name, value) in &mut total {
            match (value, object.remove(name)) {
                (Value::Number(sum), Some(Value::Number(number))) => {
                    if let (Some(a), Some(b)) = (sum.as_i64(), number.as_i64()) {
                        *sum = a.saturating_add(b).into();
                    }
                }
                (Value::Array(all), Some(Value::Array(more))) => all.extend(more),
                _ => {}
            }
        }
    }
    Some(Value::Object(total).to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_summed_arrays_joined_and_the_rest_is_the_first_workers() {
        let of = |bodies: &[&'static str]| {
            sum(bodies.iter().map(|body| Bytes::from_static(body.as_bytes())).collect::<Vec<_>>().iter())
        };
        assert_eq!(
            of(&[r#"{"aborted":2,"message":"a"}"#, r#"{"aborted":3,"message":"b"}"#]).unwrap(),
            r#"{"aborted":5,"message":"a"}"#
        );
        assert_eq!(
            of(&[r#"{"files":["a","b"]}"#, r#"{}"#, r#"{"files":["c"],"success":true}"#]).unwrap(),
            r#"{"files":["a","b","c"]}"#
        );
        assert_eq!(of(&[r#"{"aborted":1}"#, "Flushed"]), None);
    }
}
