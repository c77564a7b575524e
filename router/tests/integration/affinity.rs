//! `consistent_hash` end to end: a header or a body field keeps a client's requests on one worker.

use std::collections::BTreeSet;

use http::Method;
use radixfleet_router::RouterConfig;

use crate::support::{TestWorker, config, request, router, send};

/// Workers that answered eight requests of one client, whose prompts differ from their first byte on.
async fn workers_of(url: &str, header: Option<(&'static str, &str)>, user: Option<&str>) -> BTreeSet<String> {
    let mut workers = BTreeSet::new();
    for turn in 0..8 {
        let mut body = serde_json::json!({"text": format!("{turn} is the turn")});
        if let Some(user) = user {
            body["user"] = user.into();
        }
        let mut request = request(Method::POST, "/generate", body.to_string());
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        workers.insert(send(url, request).await.unwrap().worker().to_owned());
    }
    workers
}

#[tokio::test]
async fn a_header_or_a_field_of_the_body_keeps_a_client_on_one_worker() {
    let fleet: Vec<TestWorker> =
        vec![TestWorker::naming_itself().await, TestWorker::naming_itself().await, TestWorker::naming_itself().await];
    let options = RouterConfig { policy: "consistent_hash".to_owned(), ..config(&fleet.iter().collect::<Vec<_>>()) };
    let router = router(options).await;
    let url = router.url();
    let mut by_header = BTreeSet::new();
    let mut by_field = BTreeSet::new();
    for client in 0..12 {
        let name = format!("client-{client}");
        let home = workers_of(&url, Some(("x-session-id", &name)), None).await;
        assert_eq!(home.len(), 1, "the header decides");
        // The body field of another client does not matter beside the header.
        assert_eq!(workers_of(&url, Some(("x-session-id", &name)), Some("somebody")).await, home);
        by_header.extend(home);
        let home = workers_of(&url, None, Some(&name)).await;
        assert_eq!(home.len(), 1, "the field decides");
        by_field.extend(home);
    }
    assert!(by_header.len() > 1 && by_field.len() > 1, "clients differ");
    assert!(workers_of(&url, None, None).await.len() > 1, "without either, prompts do");
}
