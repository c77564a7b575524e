//! The prefix index against a naive model, at its bounds, and under threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;

use super::*;

const UNBOUNDED: usize = 1 << 30;

/// Per worker every prefix that it holds, written out.
#[derive(Default)]
struct Model {
    prefixes: BTreeMap<WorkerId, BTreeSet<Vec<u8>>>,
}

impl Model {
    fn insert(&mut self, key: &[u8], worker: WorkerId) {
        let prefixes = self.prefixes.entry(worker).or_default();
        prefixes.extend((1..=key.len()).map(|end| key[..end].to_vec()));
    }

    fn matched(&self, key: &[u8], worker: WorkerId) -> usize {
        let Some(prefixes) = self.prefixes.get(&worker) else { return 0 };
        (1..=key.len()).take_while(|end| prefixes.contains(&key[..*end])).count()
    }

    fn bytes(&self, worker: WorkerId) -> usize {
        self.prefixes.get(&worker).map_or(0, BTreeSet::len)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, WorkerId),
    Forget(WorkerId),
    Match(Vec<u8>),
}

/// Keys over a small alphabet, so that they share prefixes; sometimes arbitrary bytes.
fn any_key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop::sample::select(vec![b'a', b'b', 0xe2]), 0..24),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (0..150_usize, any::<u8>()).prop_map(|(length, last)| [vec![b'a'; length], vec![last]].concat()),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any_key(), 0..5_u16).prop_map(|(key, worker)| Step::Insert(key, worker)),
        1 => (0..5_u16).prop_map(Step::Forget),
        4 => any_key().prop_map(Step::Match),
    ]
}

/// Walks the whole tree, checks the invariants of `node.rs`, and returns the bytes that each worker holds, and the nodes.
fn inspect(index: &PrefixIndex) -> (BTreeMap<WorkerId, usize>, usize) {
    let mut bytes = BTreeMap::new();
    let mut nodes = 0;
    let mut links = vec![index.root.clone()];
    while let Some(link) = links.pop() {
        let node = link.read();
        let children: Vec<Link> = (0..=255).filter_map(|first| node.child(first).cloned()).collect();
        for holder in node.holders() {
            let worker = holder.worker();
            *bytes.entry(worker).or_default() += node.label().len();
            let held_children = children.iter().filter(|child| child.read().holder(worker).is_some()).count();
            assert_eq!(holder.is_leaf(), held_children == 0);
            assert!(!holder.is_leaf() || holder.set_queued(true), "a leaf that is not queued is never evicted");
        }
        for child in &children {
            let child = child.read();
            nodes += 1;
            assert!(!child.label().is_empty() && !child.holders().is_empty());
            assert!(child.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &link)));
            assert!(node.is_root() || child.holders().iter().all(|holder| node.holder(holder.worker()).is_some()));
        }
        links.extend(children);
    }
    (bytes, nodes)
}

/// The invariants, and that the counters say what the tree holds.
fn check(index: &PrefixIndex) {
    let (bytes, _) = inspect(index);
    for worker in 0..16 {
        assert_eq!(index.bytes(worker), bytes.get(&worker).copied().unwrap_or(0), "worker {worker}");
    }
}

fn assert_empty(index: &PrefixIndex) {
    assert_eq!(inspect(index), (BTreeMap::new(), 0));
    assert!(index.held.load().iter().all(|held| held.bytes() == 0 && held.queued() == 0));
}

proptest! {
    #[test]
    fn it_is_the_naive_model_when_nothing_is_evicted(steps in prop::collection::vec(any_step(), 1..80)) {
        let index = PrefixIndex::new(UNBOUNDED);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Insert(key, worker) => {
                    index.insert(&Key::new(&key), worker);
                    model.insert(&key, worker);
                }
                Step::Forget(worker) => {
                    index.forget(worker);
                    model.prefixes.remove(&worker);
                }
                Step::Match(key) => {
                    let matches = index.matches(&Key::new(&key));
                    for worker in 0..6 {
                        prop_assert_eq!(matches.bytes(worker), model.matched(&key, worker));
                    }
                }
            }
            for worker in 0..6 {
                prop_assert_eq!(index.bytes(worker), model.bytes(worker));
            }
        }
        check(&index);
    }

    #[test]
    fn it_never_passes_its_bound_and_never_invents(
        keys in prop::collection::vec((any_key(), 0..3_u16, any::<bool>()), 1..120),
        max_bytes in 1..300_usize,
    ) {
        let index = PrefixIndex::new(max_bytes);
        let mut model = Model::default();
        for (key, worker, trim) in keys {
            index.insert(&Key::new(&key), worker);
            model.insert(&key, worker);
            prop_assert!(index.bytes(worker) <= max_bytes + max_bytes / 8);
            let kept = key.len().min(max_bytes);
            prop_assert_eq!(index.matches(&Key::new(&key)).bytes(worker), kept, "the key just inserted is held");
            if trim {
                index.trim();
                for worker in 0..3 {
                    prop_assert!(index.bytes(worker) <= max_bytes);
                    prop_assert!(index.matches(&Key::new(&key)).bytes(worker) <= model.matched(&key, worker));
                }
            }
        }
        check(&index);
        for worker in 0..3 {
            index.forget(worker);
        }
        assert_empty(&index);
    }

    #[test]
    fn the_least_recently_used_go_first(uses in prop::collection::vec(0..12_u8, 1..60), max_keys in 1..10_usize) {
        // Keys that share nothing, of one length: whole keys are evicted, in the order of their last use.
        let key = |name: u8| vec![name; 10];
        let index = PrefixIndex::new(max_keys * 10);
        let mut recent: Vec<u8> = Vec::new();
        for name in uses {
            index.insert(&Key::new(&key(name)), 0);
            index.trim();
            recent.retain(|other| *other != name);
            recent.push(name);
            let kept = recent.len().saturating_sub(max_keys);
            for (position, name) in recent.iter().enumerate() {
                let expected = if position < kept { 0 } else { 10 };
                prop_assert_eq!(index.matches(&Key::new(&key(*name))).bytes(0), expected);
            }
        }
    }
}

#[test]
fn a_shared_prefix_outlives_the_turns_that_used_it_once() {
    let index = PrefixIndex::new(200);
    let system = [b's'; 100];
    for turn in 0..50_u8 {
        index.insert(&Key::new(&[&system[..], &[turn; 50]].concat()), 0);
        assert_eq!(index.matches(&Key::new(&system)).bytes(0), 100, "turn {turn}");
    }
}

#[test]
fn one_workers_eviction_leaves_the_others_alone() {
    let index = PrefixIndex::new(100);
    index.insert(&Key::new(&[b'k'; 80]), 1);
    for name in 0..20_u8 {
        index.insert(&Key::new(&[&[b'k'; 40][..], &[name; 50]].concat()), 0);
    }
    assert_eq!(index.matches(&Key::new(&[b'k'; 80])).bytes(1), 80);
    check(&index);
}

#[test]
fn a_worker_can_be_bounded_more_tightly_than_the_others() {
    let index = PrefixIndex::new(4000);
    let keys: Vec<Key> = (0..30_u8).map(|name| Key::new(&[name; 100])).collect();
    index.set_limit(0, 1000);
    for key in &keys {
        index.insert(key, 0);
        index.insert(key, 1);
    }
    index.trim();
    assert_eq!((index.bytes(0), index.bytes(1)), (1000, 3000));
    assert_eq!(index.matches(&keys[29]).bytes(0), 100);
    assert_eq!(index.matches(&keys[0]).bytes(0), 0);
    index.forget(0);
    keys.iter().for_each(|key| index.insert(key, 0));
    assert_eq!(index.bytes(0), 3000, "the limit is forgotten too");
}

#[test]
fn keys_longer_than_the_bound_count_up_to_it() {
    let index = PrefixIndex::new(64);
    let key = [b'x'; 1000];
    index.insert(&Key::new(&key), 0);
    let matches = index.matches(&Key::new(&key));
    assert_eq!((matches.bytes(0), matches.key_bytes()), (64, 64));
    assert_eq!(index.bytes(0), 64);
}

#[test]
fn a_tree_as_deep_as_a_key_is_long_can_be_dropped() {
    let index = PrefixIndex::new(UNBOUNDED);
    let key = vec![b'd'; 40_000];
    // Each prefix splits the edge at the top, so that the nodes end up below one another.
    for end in (1..=key.len()).rev() {
        index.insert(&Key::new(&key[..end]), 0);
    }
    assert_eq!(inspect(&index).1, key.len());
    assert_eq!(index.matches(&Key::new(&key)).bytes(0), key.len());
    drop(index);
}

#[test]
fn a_worker_id_used_again_begins_with_nothing() {
    let index = PrefixIndex::new(UNBOUNDED);
    index.insert(&Key::new(b"once upon a time"), 0);
    index.insert(&Key::new(b"once more"), 1);
    index.forget(0);
    assert_eq!((index.bytes(0), index.matches(&Key::new(b"once upon")).bytes(0)), (0, 0));
    assert_eq!(index.matches(&Key::new(b"once upon")).bytes(1), 5);
    index.insert(&Key::new(b"once upon"), 0);
    assert_eq!(index.bytes(0), 9);
    check(&index);
}

#[test]
fn threads_that_insert_match_evict_and_forget_leave_it_consistent() {
    const KEYS: usize = 4_000;
    let index = PrefixIndex::new(2_000);
    thread::scope(|scope| {
        for worker in 0..4_u16 {
            let index = &index;
            // Two threads for each worker, over keys that fork often: every race of split, claim, growth and eviction comes up.
            for half in 0..2 {
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(u64::from(worker) * 2 + half);
                    for _ in 0..KEYS {
                        let length = random.usize(1..200);
                        let key: Vec<u8> = (0..length).map(|_| if random.u8(..) < 32 { b'b' } else { b'a' }).collect();
                        index.insert(&Key::new(&key), worker);
                        let matches = index.matches(&Key::new(&key));
                        assert!((0..4).all(|worker| matches.bytes(worker) <= key.len()));
                    }
                });
            }
        }
        scope.spawn(|| {
            for round in 0..200 {
                index.trim();
                // A worker of its own, since none may insert while it is forgotten.
                index.insert(&Key::new(&[b'a'; 100]), 9);
                index.insert(&Key::new(&vec![b'a'; round + 1]), 9);
                index.forget(9);
                assert_eq!(index.bytes(9), 0);
            }
        });
    });
    check(&index);
    index.trim();
    for worker in 0..4 {
        assert!(index.bytes(worker) <= 2_000);
        index.forget(worker);
    }
    assert_empty(&index);
}
