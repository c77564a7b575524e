//! Kubernetes discovery: the fleet follows the pods, whatever happens to the API server and to the way to it.

mod api_server;
mod cluster;
mod envtest;
mod process;

use std::sync::Arc;
use std::time::Duration;

use radixfleet_router::discovery::kubernetes::Timing;
use serde_json::json;

use self::cluster::{Cluster, on_every_server};
use crate::support::eventually;

/// Quick to try again; a watch that lasts as long as the test.
const PATIENT: Timing =
    Timing { answer: Duration::from_secs(20), watch: Duration::from_secs(60), max_pause: Duration::from_millis(100) };

#[tokio::test]
async fn ready_pods_are_workers_until_they_terminate() {
    on_every_server(async |cluster| {
        cluster.create("default", "early", "worker").await;
        cluster.run("default", "early", "10.1.0.1", true).await;
        let watching = cluster.watch(Some("default"), PATIENT);
        watching.becomes(&["10.1.0.1"]).await;
        cluster.create("default", "late", "worker").await;
        cluster.run("default", "late", "fd00::2", false).await;
        cluster.create("default", "other", "database").await;
        cluster.run("default", "other", "10.1.0.3", true).await;
        cluster.run("default", "late", "fd00::2", true).await;
        watching.becomes(&["10.1.0.1", "[fd00::2]"]).await;
        cluster.terminate("default", "early").await;
        watching.becomes(&["[fd00::2]"]).await;
        cluster.delete("default", "early").await;
        cluster.run("default", "late", "fd00::2", false).await;
        watching.becomes(&[]).await;
        cluster.run("default", "late", "fd00::2", true).await;
        watching.becomes(&["[fd00::2]"]).await;
        cluster.patch("default", "late", json!({"metadata": {"labels": {"app": "retired"}}})).await;
        cluster.patch("default", "other", json!({"metadata": {"labels": {"app": "worker"}}})).await;
        watching.becomes(&["10.1.0.3"]).await;
    })
    .await;
}

#[tokio::test]
async fn one_namespace_or_all() {
    on_every_server(async |cluster| {
        for (namespace, address) in [("blue", "10.1.0.1"), ("green", "10.1.0.2")] {
            cluster.create_namespace(namespace).await;
            cluster.create(namespace, "worker", "worker").await;
            cluster.run(namespace, "worker", address, true).await;
        }
        let (one, all) = (cluster.watch(Some("green"), PATIENT), cluster.watch(None, PATIENT));
        all.becomes(&["10.1.0.1", "10.1.0.2"]).await;
        one.becomes(&["10.1.0.2"]).await;
    })
    .await;
}

#[tokio::test]
async fn what_changed_while_the_watch_was_lost_is_seen_afterwards() {
    on_every_server(async |cluster| {
        for (name, address) in [("stays", "10.1.0.1"), ("goes", "10.1.0.2"), ("is-replaced", "10.1.0.3")] {
            cluster.create("default", name, "worker").await;
            cluster.run("default", name, address, true).await;
        }
        let watching = cluster.watch(Some("default"), PATIENT);
        watching.becomes(&["10.1.0.1", "10.1.0.2", "10.1.0.3"]).await;
        let before = watching.fleet.workers();
        cluster.link.cut().await;
        cluster.delete("default", "goes").await;
        cluster.delete("default", "is-replaced").await;
        for (name, address) in [("comes", "10.1.0.4"), ("has-the-same-address", "10.1.0.3")] {
            cluster.create("default", name, "worker").await;
            cluster.run("default", name, address, true).await;
        }
        assert_eq!(watching.urls().len(), 3, "the fleet stays as it is while nothing is known");
        cluster.link.restore().await;
        watching.becomes(&["10.1.0.1", "10.1.0.3", "10.1.0.4"]).await;
        let after = watching.fleet.workers();
        let survivors = after.iter().filter(|worker| before.iter().any(|old| Arc::ptr_eq(worker, old)));
        let survivors: Vec<&str> = survivors.map(|worker| worker.url().as_str()).collect();
        assert_eq!(survivors, ["http://10.1.0.1:8000"], "another pod is another worker, at the same address too");
    })
    .await;
}

#[tokio::test]
async fn an_api_server_that_restarts_is_followed_again() {
    on_every_server(async |cluster| {
        cluster.create("default", "old", "worker").await;
        cluster.run("default", "old", "10.1.0.1", true).await;
        let watching = cluster.watch(None, PATIENT);
        watching.becomes(&["10.1.0.1"]).await;
        cluster.kill().await;
        cluster.restart().await;
        cluster.create("default", "new", "worker").await;
        cluster.run("default", "new", "10.1.0.2", true).await;
        cluster.delete("default", "old").await;
        watching.becomes(&["10.1.0.2"]).await;
    })
    .await;
}

#[tokio::test]
async fn an_api_server_that_comes_up_late_is_waited_for() {
    on_every_server(async |cluster| {
        cluster.create("default", "worker", "worker").await;
        cluster.run("default", "worker", "10.1.0.1", true).await;
        cluster.link.cut().await;
        let watching = cluster.watch(None, PATIENT);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(watching.urls().is_empty());
        cluster.link.restore().await;
        watching.becomes(&["10.1.0.1"]).await;
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_died_silently_hides_changes_no_longer_than_a_watch_lasts() {
    on_every_server(async |cluster| {
        cluster.create("default", "worker", "worker").await;
        cluster.run("default", "worker", "10.1.0.1", true).await;
        let watching =
            cluster.watch(None, Timing { answer: Duration::from_secs(2), watch: Duration::from_secs(2), ..PATIENT });
        watching.becomes(&["10.1.0.1"]).await;
        cluster.link.go_silent();
        cluster.delete("default", "worker").await;
        watching.becomes(&[]).await;
    })
    .await;
}

#[tokio::test]
async fn an_api_server_with_another_history_is_believed() {
    let mut cluster = Cluster::small().await;
    cluster.create("default", "old", "worker").await;
    cluster.run("default", "old", "10.1.0.1", true).await;
    let watching = cluster.watch(None, PATIENT);
    watching.becomes(&["10.1.0.1"]).await;
    cluster.kill().await;
    cluster.small_server().1.lock().lose_everything();
    cluster.restart().await;
    watching.becomes(&[]).await;
    cluster.create("default", "new", "worker").await;
    cluster.run("default", "new", "10.1.0.2", true).await;
    watching.becomes(&["10.1.0.2"]).await;
}

#[tokio::test]
async fn a_version_that_is_gone_means_another_list() {
    let cluster = Cluster::small().await;
    cluster.small_server().1.lock().gone = 3;
    let watching = cluster.watch(None, PATIENT);
    eventually("three watches were refused", || cluster.small_server().1.lock().gone == 0).await;
    cluster.create("default", "worker", "worker").await;
    cluster.run("default", "worker", "10.1.0.1", true).await;
    watching.becomes(&["10.1.0.1"]).await;
}

#[tokio::test]
async fn an_api_server_that_does_not_answer_is_asked_again() {
    let cluster = Cluster::small().await;
    cluster.create("default", "worker", "worker").await;
    cluster.run("default", "worker", "10.1.0.1", true).await;
    cluster.small_server().1.lock().hangs = true;
    let watching = cluster.watch(None, Timing { answer: Duration::from_millis(300), ..PATIENT });
    let (server, state) = cluster.small_server();
    eventually("a list was given up and tried again", || lists(server.asked()) >= 2).await;
    state.lock().hangs = false;
    watching.becomes(&["10.1.0.1"]).await;
}

fn lists(asked: Vec<crate::support::Asked>) -> usize {
    asked.iter().filter(|asked| asked.method == http::Method::GET).count()
}

#[tokio::test]
async fn only_the_selected_pods_are_asked_for_and_only_by_list_and_watch() {
    let cluster = Cluster::small().await;
    cluster.create("default", "worker", "worker").await;
    cluster.run("default", "worker", "10.1.0.1", true).await;
    let before = cluster.small_server().0.asked().len();
    let watching = cluster.watch(Some("default"), PATIENT);
    watching.becomes(&["10.1.0.1"]).await;
    let (server, _) = cluster.small_server();
    eventually("the watch began", || server.asked().len() >= before + 2).await;
    let asked: Vec<String> =
        server.asked().drain(before..).map(|asked| format!("{} {}", asked.method, asked.uri)).collect();
    assert_eq!(asked[0], "GET /api/v1/namespaces/default/pods?&labelSelector=app%3Dworker");
    for part in
        ["GET /api/v1/namespaces/default/pods?", "watch=true", "labelSelector=app%3Dworker", "resourceVersion=2"]
    {
        assert!(asked[1].contains(part), "{part}: {}", asked[1]);
    }
    assert_eq!(asked.len(), 2);
}
