//! `consistent_hash`: affinity, the share that moves, and the bound on loads.

use super::*;

fn policy() -> ConsistentHash {
    ConsistentHash::new(&config("consistent_hash"))
}

/// Where a client's request with this affinity goes.
fn home<'a>(policy: &ConsistentHash, affinity: &str, workers: &'a [Arc<Worker>]) -> Choice<'a> {
    let key = Key::new(b"any prompt");
    policy.choose(Query { affinity: Some(affinity.as_bytes()), ..query(&key) }, workers).unwrap()
}

#[test]
fn a_worker_that_goes_moves_its_own_share_only_and_gets_it_back() {
    let (policy, workers) = (policy(), workers(8));
    let clients: Vec<String> = (0..800).map(|client| format!("client-{client}")).collect();
    let homes =
        || -> Vec<WorkerId> { clients.iter().map(|client| home(&policy, client, &workers).worker.id()).collect() };
    let before = homes();
    let share = before.iter().filter(|id| **id == 3).count();
    // Six standard deviations around 100.
    assert!((44..=156).contains(&share), "{share}");
    workers[3].mark_unhealthy("test");
    for (was, is) in before.iter().zip(homes()) {
        assert!(is != 3 && (*was == 3 || *was == is));
    }
    workers[3].mark_healthy();
    assert_eq!(homes(), before);
}

#[test]
fn no_worker_gets_more_than_the_factor_times_the_mean() {
    let (policy, workers) = (policy(), workers(4));
    let mut running = Vec::new();
    let mut reasons = std::collections::BTreeSet::new();
    for total in 1..=100_usize {
        let choice = home(&policy, "one client", &workers);
        reasons.insert(choice.reason);
        running.push(choice.worker.begin().unwrap());
        let most = (1.25 * total as f64 / 4.0).ceil() as usize;
        assert!(workers.iter().all(|worker| worker.load() <= most), "{total}");
    }
    assert_eq!(reasons.into_iter().collect::<Vec<_>>(), ["affinity", "overflow"]);
}

#[test]
fn without_affinity_the_beginning_of_the_prompt_decides() {
    let (policy, workers) = (policy(), workers(8));
    let mut used = std::collections::BTreeSet::new();
    for chat in 0..40_u8 {
        let key = |turn: u8| [vec![chat; 1100], vec![turn; 50]].concat();
        let first = choose(&policy, &key(0), &workers).unwrap().id();
        assert!((1..5).all(|turn| choose(&policy, &key(turn), &workers).unwrap().id() == first));
        used.insert(first);
    }
    assert!(used.len() > 4, "{used:?}");
}
