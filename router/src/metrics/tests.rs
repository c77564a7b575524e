//! What is counted under which labels, and that labels stay few.

use std::collections::HashSet;

use http::StatusCode;

use super::labels::{route_index, status_index};
use super::*;

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).unwrap()
}

fn answers(metrics: &Metrics, model: &str, route: &str) -> u64 {
    let models = metrics.models.load();
    let model = models.iter().find(|known| *known.name == *model).unwrap();
    model.routes[route_index(route)].answers.iter().map(Counter::get).sum()
}

#[test]
fn paths_have_few_labels() {
    for (index, route) in ROUTES.iter().enumerate() {
        if route.starts_with('/') {
            assert_eq!(route_index(route), index, "{route}");
        }
    }
    for (path, route) in [
        ("/workers/7", "/workers"),
        ("/v1/files/7/content", "/v1/files"),
        ("/v1/models/x/y", "/v1/models"),
        ("/v1/modelsx", "/v1/other"),
        ("/v1/", "/v1/other"),
        ("/v1", "other"),
        ("/", "other"),
        ("/generated", "other"),
        ("/etc/passwd", "other"),
    ] {
        assert_eq!(ROUTES[route_index(path)], route, "{path}");
    }
}

#[test]
fn statuses_have_their_class() {
    for (status, class) in
        [(0, "aborted"), (100, "1xx"), (200, "2xx"), (308, "3xx"), (429, "4xx"), (599, "5xx"), (600, "aborted")]
    {
        assert_eq!(STATUSES[status_index(status)], class, "{status}");
    }
}

#[test]
fn an_observation_counts_once_wherever_it_ends() {
    let metrics = Metrics::new(None);
    let mut dropped = metrics.begin(&request("/generate"));
    assert_eq!(metrics.in_progress.get(), 1);
    let mut handed_over = dropped.hand_over();
    drop(dropped);
    assert_eq!((metrics.in_progress.get(), answers(&metrics, "", "/generate")), (1, 0));
    handed_over.has_status(StatusCode::OK);
    drop(handed_over);
    assert_eq!((metrics.in_progress.get(), answers(&metrics, "", "/generate")), (0, 1));
    assert_eq!(metrics.models.load()[0].routes[route_index("/generate")].answers[1].get(), 1);
}

#[test]
fn only_models_that_are_served_have_labels() {
    let metrics = Metrics::new(None);
    for name in ["served", "made-up-1", "served", "made-up-2"] {
        metrics.begin(&request("/v1/completions")).names_model(name, |name| name == "served");
    }
    let names: Vec<String> = metrics.models.load().iter().map(|model| model.name.to_string()).collect();
    assert_eq!(names, ["", OTHER, "served"]);
    assert_eq!(answers(&metrics, "served", "/v1/completions"), 2);
    assert_eq!(answers(&metrics, OTHER, "/v1/completions"), 2);
    for number in 0..1000 {
        metrics.model(&format!("adapter-{number}"), |_| true);
    }
    assert_eq!(metrics.models.load().len(), MAX_MODELS);
}

#[test]
fn threads_that_see_a_model_first_agree_on_where_it_is_counted() {
    let metrics = Metrics::new(None);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..100 {
                    let mut observation = metrics.begin(&request("/generate"));
                    observation.names_model(&format!("model-{number}"), |_| true);
                }
            });
        }
    });
    assert_eq!(metrics.models.load().len(), 102);
    for number in 0..100 {
        assert_eq!(answers(&metrics, &format!("model-{number}"), "/generate"), 4);
    }
}

#[test]
fn decisions_are_counted_by_reason() {
    let decisions = Decisions::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for reason in ["prefix", "imbalance", "prefix"] {
                    decisions.count(reason);
                }
            });
        }
    });
    let counted: HashSet<(&str, u64)> = decisions.by_reason().collect();
    assert_eq!(counted, HashSet::from([("prefix", 8), ("imbalance", 4)]));
}
