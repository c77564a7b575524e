//! `GET /metrics`: what all workers measure, as one text for Prometheus. The router's own metrics have a port of their own.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, StatusCode};

use super::Control;
use super::everywhere::ask;
use crate::error::RouterError;

/// How long a worker may take: less than Prometheus waits by default.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// The metrics of all workers that answer, each sample with the label `worker`.
pub async fn metrics(State(control): State<Control>, headers: HeaderMap) -> Result<Response, RouterError> {
    let request = Request::get("/metrics").body(Bytes::new()).expect("the parts are valid");
    let mut merged = Merged::default();
    let mut refusal = None;
    for (worker, answer) in ask(&control, request, &headers, SCRAPE_TIMEOUT).await? {
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => {
                merged.add(worker.url().as_str(), &String::from_utf8_lossy(answer.body()));
            }
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => {
                let reason = format!("{} has no metrics; start workers with --enable-metrics", worker.url());
                refusal = refusal.or(Some(RouterError::NotFound(reason)));
            }
            Ok(answer) => {
                refusal = Some(RouterError::WorkersFailed(format!("{}: status {}", worker.url(), answer.status())))
            }
            Err(error) => refusal = Some(RouterError::WorkersFailed(format!("{}: {error}", worker.url()))),
        }
    }
    match refusal {
        Some(refusal) if merged.families.is_empty() => Err(refusal),
        _ => Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], merged.text()).into_response()),
    }
}

/// Texts of several workers: the samples of a family stand together, as the format asks.
#[derive(Default)]
struct Merged {
    families: Vec<Family>,
    index: HashMap<String, usize>,
}

/// The lines of one metric.
#[derive(Default)]
struct Family {
    /// `HELP` and `TYPE`, of the worker that came first.
    about: Vec<String>,
    samples: Vec<String>,
}

// ===== impl Merged =====

impl Merged {
    /// Adds what the worker at `url` measured. Samples belong to the family whose `HELP` or `TYPE` stands before them.
    fn add(&mut self, url: &str, text: &str) {
        let mut current = None;
        let known = self.families.len();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if line.starts_with('#') {
                let Some(name) = line.split_ascii_whitespace().nth(2) else { continue };
                let index = *self.index.entry(name.to_owned()).or_insert_with(|| {
                    self.families.push(Family::default());
                    self.families.len() - 1
                });
                if index >= known {
                    self.families[index].about.push(line.to_owned());
                }
                current = Some(index);
            } else if let Some(index) = current {
                self.families[index].samples.push(labelled(line, url));
            }
        }
    }

    fn text(&self) -> String {
        let lines = self.families.iter().flat_map(|family| family.about.iter().chain(&family.samples));
        lines.flat_map(|line| [line.as_str(), "\n"]).collect()
    }
}

/// A sample's line with one more label.
fn labelled(line: &str, worker: &str) -> String {
    let end = line.find(['{', ' ']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    match rest.strip_prefix('{') {
        Some(rest) if rest.starts_with('}') => format!("{name}{{worker=\"{worker}\"{rest}"),
        Some(rest) => format!("{name}{{worker=\"{worker}\",{rest}"),
        None => format!("{name}{{worker=\"{worker}\"}}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stay_together_and_samples_say_whose_they_are() {
        let mut merged = Merged::default();
        merged.add(
            "http://a",
            "# HELP x An x.\n# TYPE x counter\nx{model=\"m\"} 1.0\n# HELP y A y.\n# TYPE y gauge\ny 2\n",
        );
        merged.add("http://b", "# HELP y Other words.\n# TYPE y gauge\ny{} 3\n# HELP x An x.\n# TYPE x counter\nx{model=\"{ \"} 4\n# TYPE z gauge\nz 5\n");
        let expected = [
            "# HELP x An x.",
            "# TYPE x counter",
            "x{worker=\"http://a\",model=\"m\"} 1.0",
            "x{worker=\"http://b\",model=\"{ \"} 4",
            "# HELP y A y.",
            "# TYPE y gauge",
            "y{worker=\"http://a\"} 2",
            "y{worker=\"http://b\"} 3",
            "# TYPE z gauge",
            "z{worker=\"http://b\"} 5",
            "",
        ];
        assert_eq!(merged.text(), expected.join("\n"));
    }
}
