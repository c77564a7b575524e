//! Ids, draining and what is left of a worker when it has gone.

use super::*;

/// An empty fleet; its workers exist only in it, and probes find nobody.
fn fleet() -> Arc<Fleet> {
    Fleet::new(&RouterConfig::default())
}

fn url(port: u16) -> WorkerUrl {
    WorkerUrl::parse(&format!("http://127.0.0.1:{port}")).unwrap()
}

fn assign(fleet: &Fleet) -> Result<Placement, Unassigned> {
    fleet.assign(Wanted { model: None, key: &Key::new(b"a prompt"), affinity: None, stream: true, home: None })
}

fn id_in_use(fleet: &Fleet, id: WorkerId) -> bool {
    fleet.ids.lock()[usize::from(id)]
}

/// Lets other tasks run until `condition` holds; panics if it never does.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never happened");
}

#[tokio::test]
async fn an_id_is_used_again_only_when_the_last_request_has_ended() {
    let fleet = fleet();
    let first = fleet.add(url(1)).unwrap();
    first.mark_healthy();
    let guard = assign(&fleet).unwrap();
    fleet.remove(first.url()).unwrap();
    assert!(first.begin().is_none(), "a draining worker takes nothing new");
    assert!(assign(&fleet).is_err());
    tokio::task::yield_now().await;
    let second = fleet.add(url(2)).unwrap();
    assert_eq!((first.id(), second.id()), (0, 1));
    assert!(id_in_use(&fleet, 0));
    drop(guard);
    until(|| !id_in_use(&fleet, 0)).await;
    assert_eq!(first.load(), 0);
    assert_eq!(fleet.add(url(3)).unwrap().id(), 0);
}

#[tokio::test]
async fn a_worker_with_nothing_to_do_goes_at_once_and_can_come_back() {
    let fleet = fleet();
    for _ in 0..3 {
        let worker = fleet.add(url(1)).unwrap();
        assert_eq!(worker.id(), 0);
        assert!(fleet.add(url(1)).err().unwrap().contains("is in the fleet already"));
        fleet.remove(worker.url()).unwrap();
        assert!(fleet.remove(worker.url()).unwrap_err().contains("is not in the fleet"));
        until(|| !id_in_use(&fleet, 0)).await;
    }
}

#[tokio::test]
async fn a_snapshot_taken_before_a_removal_stays_as_it_was() {
    let fleet = fleet();
    let worker = fleet.add(url(1)).unwrap();
    let before = fleet.workers();
    fleet.remove(worker.url()).unwrap();
    assert_eq!((before.len(), fleet.workers().len()), (1, 0));
    assert!(!before[0].is_available());
}
