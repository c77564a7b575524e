//! The policies against simple models.

mod by_load;
mod consistent_hash;

use proptest::prelude::*;

use super::*;
use crate::fleet::{LoadGuard, WorkerUrl};
use crate::prefix::BLOCK_BYTES;

/// Workers with ids from 0, healthy and idle.
pub(super) fn workers(count: WorkerId) -> Vec<Arc<Worker>> {
    (0..count)
        .map(|id| {
            let worker = Worker::new(id, WorkerUrl::parse(&format!("worker-{id}:80")).unwrap());
            worker.mark_healthy();
            Arc::new(worker)
        })
        .collect()
}

pub(super) fn config(policy: &str) -> RouterConfig {
    RouterConfig { policy: policy.to_owned(), ..RouterConfig::default() }
}

pub(super) fn query(key: &Key) -> Query<'_> {
    Query { key, affinity: None, stream: true, now: Moment::now() }
}

/// Chooses, counts in and tells the policy, as the fleet does.
fn assign(policy: &dyn Policy, key: &[u8], workers: &[Arc<Worker>]) -> Option<LoadGuard> {
    let key = Key::new(key);
    let query = query(&key);
    let choice = policy.choose(query, workers)?;
    let guard = choice.worker.begin().unwrap();
    policy.assigned(query, &Assignment::new(&query, &choice));
    Some(guard)
}

/// Tells the policy that `worker` got a request, whoever chose it.
fn told(policy: &dyn Policy, key: &[u8], worker: WorkerId) {
    let key = Key::new(key);
    let query = query(&key);
    let ahead = Ahead::default();
    let assignment =
        Assignment { worker, key_bytes: key.bytes(), held_bytes: 0, ahead, stream: true, begun: query.now };
    policy.assigned(query, &assignment);
}

/// Only chooses.
fn choose<'a>(policy: &dyn Policy, key: &[u8], workers: &'a [Arc<Worker>]) -> Option<&'a Arc<Worker>> {
    let key = Key::new(key);
    Some(policy.choose(query(&key), workers)?.worker)
}

#[test]
fn no_policy_chooses_a_worker_that_is_not_available() {
    for name in names() {
        let policy = build(&config(name));
        let workers = workers(3);
        assert!(choose(&*policy, b"key", &[]).is_none(), "{name}");
        workers[0].mark_unhealthy("test");
        workers[2].mark_unhealthy("test");
        for key in [&b""[..], b"key"] {
            assert!((0..20).all(|_| choose(&*policy, key, &workers).unwrap().id() == 1), "{name}");
        }
        workers[1].mark_unhealthy("test");
        assert!(choose(&*policy, b"key", &workers).is_none(), "{name}");
    }
}

#[test]
fn round_robin_takes_turns_among_the_available() {
    let policy = RoundRobin::default();
    let workers = workers(4);
    workers[1].mark_unhealthy("test");
    let chosen: Vec<WorkerId> = (0..6).map(|_| choose(&policy, b"", &workers).unwrap().id()).collect();
    assert_eq!(chosen, [0, 2, 3, 0, 2, 3]);
}

#[test]
fn random_is_fair() {
    fastrand::seed(7);
    let workers = workers(4);
    let mut counts = [0; 4];
    for _ in 0..4000 {
        counts[usize::from(choose(&Random, b"", &workers).unwrap().id())] += 1;
    }
    // Seven standard deviations around 1000.
    assert!(counts.iter().all(|count| (808..=1192).contains(count)), "{counts:?}");
}

#[test]
fn a_prompt_goes_where_its_prefix_is() {
    let policy = CacheAware::new(&config("cache_aware"));
    let workers = workers(4);
    let system = "You are a helpful assistant that answers in rhyme. ";
    let first = assign(&policy, format!("{system}Hello").as_bytes(), &workers).unwrap().worker().id();
    for turn in 0..10 {
        let chosen = assign(&policy, format!("{system}Turn {turn}").as_bytes(), &workers).unwrap();
        assert_eq!(chosen.worker().id(), first);
    }
}

#[test]
fn a_cold_fleet_spreads() {
    let policy = CacheAware::new(&config("cache_aware"));
    let workers = workers(4);
    for key_of in [|_: u8| vec![], |name: u8| vec![name; 100]] {
        let mut counts = [0; 4];
        for name in 0..40 {
            counts[usize::from(assign(&policy, &key_of(name), &workers).unwrap().worker().id())] += 1;
        }
        assert_eq!(counts, [10; 4]);
    }
}

#[test]
fn a_worker_that_was_forgotten_holds_nothing() {
    let policy = CacheAware::new(&config("cache_aware"));
    let workers = workers(2);
    let holder = assign(&policy, &[b'x'; 100], &workers).unwrap().worker().id();
    told(&policy, &[b'y'; 10], 1 - holder);
    policy.forget(holder);
    // The other one holds ten bytes; the one that was forgotten has the smallest tree.
    assert_eq!(choose(&policy, &[b'x'; 100], &workers).unwrap().id(), holder);
    assert_eq!(choose(&policy, &[b'y'; 10], &workers).unwrap().id(), 1 - holder);
}

/// What the documentation of `cache_aware` says, written down naively: every worker that it would allow.
fn allowed(key: &[u8], held: &[Vec<Vec<u8>>], loads: &[usize], config: &RouterConfig) -> Vec<usize> {
    let (min, max) = (*loads.iter().min().unwrap(), *loads.iter().max().unwrap());
    let imbalanced = max - min > config.balance_abs_threshold && max as f64 > config.balance_rel_threshold * min as f64;
    let all = 0..held.len();
    let least = |rank: &dyn Fn(usize) -> (usize, usize)| {
        let best = all.clone().map(rank).min().unwrap();
        all.clone().filter(|worker| rank(*worker) == best).collect::<Vec<_>>()
    };
    if imbalanced || key.is_empty() {
        return least(&|worker| (loads[worker], 0));
    }
    let common = |a: &[u8], b: &[u8]| a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let matched = |worker: usize| held[worker].iter().map(|other| common(key, other)).max().unwrap_or(0);
    let longest = all.clone().map(matched).max().unwrap();
    if longest as f64 > config.cache_threshold * key.len() as f64 {
        return least(&|worker| (key.len() - matched(worker), loads[worker]));
    }
    let tree = |worker: usize| {
        let prefixes = held[worker].iter().flat_map(|key| (1..=key.len()).map(|end| &key[..end]));
        prefixes.collect::<std::collections::BTreeSet<_>>().len()
    };
    least(&|worker| (tree(worker), loads[worker]))
}

proptest! {
    #[test]
    fn cache_aware_does_what_is_published(
        steps in prop::collection::vec(("[ab]{0,12}", prop::option::of(0..64_usize)), 1..60),
        count in 1..5_u16,
        cache_threshold in 0.0..1.0_f64,
        balance_abs_threshold in 0..6_usize,
        balance_rel_threshold in 1.0..2.0_f64,
    ) {
        let config =
            RouterConfig { cache_threshold, balance_abs_threshold, balance_rel_threshold, ..config("cache_aware") };
        let policy = CacheAware::new(&config);
        let workers = workers(count);
        let mut held = vec![Vec::new(); usize::from(count)];
        let mut running = Vec::new();
        for (key, ends) in steps {
            // The prefix index looks at blocks: each letter is one.
            let key = key.bytes().flat_map(|letter| [letter; BLOCK_BYTES]).collect::<Vec<u8>>();
            let loads: Vec<usize> = workers.iter().map(|worker| worker.load()).collect();
            let guard = assign(&policy, &key, &workers).unwrap();
            let chosen = usize::from(guard.worker().id());
            let allowed = allowed(&key, &held, &loads, &config);
            prop_assert!(allowed.contains(&chosen), "{chosen} is not among {allowed:?} for {key:?}; loads {loads:?}");
            held[chosen].push(key);
            running.push(guard);
            if let Some(index) = ends {
                running.swap_remove(index % running.len());
            }
        }
        drop(running);
        prop_assert!(workers.iter().all(|worker| worker.load() == 0));
    }
}
