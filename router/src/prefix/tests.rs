//! The prefix index against a naive model, at its bounds, and under threads.

use std::collections::{BTreeMap, HashMap};
use std::thread;

use proptest::prelude::*;

use super::model::Model;
use super::*;

const UNBOUNDED: usize = 1 << 30;
const WORKERS: WorkerId = 5;

/// A text with a block for each of `letters`, and a few bytes that make no block.
fn text(letters: &[u8], rest: usize) -> Vec<u8> {
    let blocks = letters.iter().flat_map(|letter| [*letter; BLOCK_BYTES]);
    blocks.chain((0..rest).map(|_| b'.')).collect()
}

fn key(letters: &[u8]) -> Key {
    Key::new(&text(letters, 0))
}

/// What `letters` cost as one node.
fn node_bytes(letters: usize) -> usize {
    letters * BLOCK_BYTES + NODE_BYTES
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, WorkerId),
    Forget(WorkerId),
    Match(Vec<u8>),
    Limit(WorkerId, usize),
    Trim,
}

/// Texts over a small alphabet, so that they share prefixes; some shorter than a block, some long.
fn any_text() -> impl Strategy<Value = Vec<u8>> {
    let letters = |most| prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..most);
    prop_oneof![
        6 => (letters(7), 0..BLOCK_BYTES).prop_map(|(letters, rest)| text(&letters, rest)),
        1 => (0..150_usize, any::<u8>()).prop_map(|(length, last)| text(&[vec![b'a'; length], vec![last]].concat(), 0)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any_text(), 0..WORKERS).prop_map(|(text, worker)| Step::Insert(text, worker)),
        1 => (0..WORKERS).prop_map(Step::Forget),
        4 => any_text().prop_map(Step::Match),
        1 => (0..WORKERS, 0..1000_usize).prop_map(|(worker, bytes)| Step::Limit(worker, bytes)),
        1 => Just(Step::Trim),
    ]
}

/// Checks the invariants of `tree.rs` and `account.rs`; returns the number of nodes.
fn check(index: &PrefixIndex) -> usize {
    let mut held: BTreeMap<WorkerId, Amount> = BTreeMap::new();
    let mut nodes = 0;
    for (number, shard) in index.shards.iter().enumerate() {
        let mut tree = shard.0.write();
        nodes += tree.nodes.len();
        assert_eq!(tree.children.len(), tree.nodes.len());
        let mut claims: HashMap<(WorkerId, u32), Time> = HashMap::new();
        let mut outside_bytes = 0;
        for ((parent, first), id) in &tree.children {
            let node = &tree.nodes[*id];
            assert_eq!((node.parent, node.label[0]), (*parent, *first));
            assert!(!node.holders.is_empty() && node.holders.workers().is_sorted());
            outside_bytes += node.outside_bytes();
            let above = (*parent != node::ROOT).then(|| &tree.nodes[*parent]);
            assert_eq!(node.end as usize, above.map_or(0, |above| above.end as usize) + node.label.len());
            for (worker, time) in node.holders.uses() {
                assert!(above.is_none_or(|above| above.holders.last_used(worker).is_some_and(|above| above >= time)));
                held.entry(worker).or_default().add_node(node.label.len());
                claims.insert((worker, *id), time);
            }
        }
        assert_eq!(outside_bytes, tree.outside_bytes);
        for (worker, account) in index.accounts.load().iter().enumerate() {
            let oldest = tree.queues.get(worker).and_then(|queue| queue.first_time());
            assert_eq!(index.accounts.load()[worker].oldest_in(number), oldest.unwrap_or(account::NEVER));
            assert!(account.held().bytes() <= index.max_bytes);
        }
        let Tree { nodes, queues, .. } = &mut *tree;
        for (worker, queue) in queues.iter_mut().enumerate() {
            for entry in queue.take() {
                let used = claims.remove(&(worker as WorkerId, entry.node)).expect("one entry for each claim");
                assert!(entry.time <= used && entry.end == nodes[entry.node].end);
                queue.push(entry);
            }
        }
        assert!(claims.is_empty());
    }
    for (worker, account) in index.accounts.load().iter().enumerate() {
        assert_eq!(account.held(), held.get(&(worker as WorkerId)).copied().unwrap_or_default(), "worker {worker}");
    }
    nodes
}

fn compare(index: &PrefixIndex, model: &Model, text: &[u8]) -> Result<(), TestCaseError> {
    let matches = index.matches(&Key::new(text));
    prop_assert_eq!(matches.key_bytes(), model.compared(text));
    for worker in 0..=WORKERS {
        prop_assert_eq!(matches.bytes(worker), model.matched(text, worker), "worker {}", worker);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// With a bound below 16 nodes the order of eviction is exact: which leaves are left has to be the same in the model.
    #[test]
    fn it_does_what_the_naive_model_does(
        steps in prop::collection::vec(any_step(), 1..60),
        max_bytes in prop_oneof![3 => 1..2500_usize, 1 => Just(UNBOUNDED)],
    ) {
        let index = PrefixIndex::new(max_bytes);
        let mut model = Model::new(max_bytes);
        for step in steps {
            match step {
                Step::Insert(text, worker) => {
                    index.insert(&Key::new(&text), worker);
                    model.insert(&text, worker);
                    compare(&index, &model, &text)?;
                }
                Step::Forget(worker) => {
                    index.forget(worker);
                    model.forget(worker);
                }
                Step::Match(text) => compare(&index, &model, &text)?,
                Step::Limit(worker, bytes) => {
                    index.set_limit(worker, bytes);
                    model.set_limit(worker, bytes);
                }
                Step::Trim => {
                    index.trim();
                    model.trim();
                }
            }
            for worker in 0..=WORKERS {
                prop_assert_eq!(index.bytes(worker), model.bytes(worker));
                prop_assert!(model.charged(worker) <= max_bytes);
            }
        }
        check(&index);
        for worker in 0..WORKERS {
            index.forget(worker);
        }
        prop_assert_eq!(check(&index), 0);
    }

    #[test]
    fn the_least_recently_used_go_first(uses in prop::collection::vec(0..12_u8, 1..60), max_keys in 1..10_usize) {
        // Keys that share nothing, of one length: whole keys are evicted, in the order of their last use.
        let index = PrefixIndex::new(max_keys * node_bytes(3));
        let mut recent: Vec<u8> = Vec::new();
        for name in uses {
            index.insert(&key(&[name; 3]), 0);
            recent.retain(|other| *other != name);
            recent.push(name);
            let kept = recent.len().saturating_sub(max_keys);
            for (position, name) in recent.iter().enumerate() {
                let expected = if position < kept { 0 } else { 3 * BLOCK_BYTES };
                prop_assert_eq!(index.matches(&key(&[*name; 3])).bytes(0), expected);
            }
        }
    }
}

#[test]
fn among_many_nodes_the_order_of_use_is_exact_but_for_the_most_recent() {
    let names: Vec<Key> = (0..1000_u32).map(|name| Key::new(&name.to_le_bytes().repeat(8))).collect();
    let index = PrefixIndex::new(names.len() * node_bytes(1));
    names.iter().for_each(|name| index.insert(name, 0));
    // The first 300 are used again, so that the next 300 are the oldest.
    names[..300].iter().for_each(|name| index.insert(name, 0));
    (0..300_u32).for_each(|new| index.insert(&Key::new(&(new + 5000).to_le_bytes().repeat(8)), 0));
    let held = |range: std::ops::Range<usize>| names[range].iter().all(|name| index.matches(name).bytes(0) == 32);
    let gone = |range: std::ops::Range<usize>| names[range].iter().all(|name| index.matches(name).bytes(0) == 0);
    assert!(held(0..300) && gone(300..600) && held(600..1000));
}

#[test]
fn a_shared_prefix_outlives_the_turns_that_used_it_once() {
    let index = PrefixIndex::new(1000);
    let system = [b's'; 4];
    for turn in 0..50_u8 {
        index.insert(&key(&[&system[..], &[turn; 2]].concat()), 0);
        assert_eq!(index.matches(&key(&system)).bytes(0), 4 * BLOCK_BYTES, "turn {turn}");
    }
}

#[test]
fn a_fork_is_no_use_of_what_lies_below_it() {
    let index = PrefixIndex::new(3 * node_bytes(2) + node_bytes(1));
    for letters in [&b"abbb"[..], b"x", b"abaa", b"y"] {
        index.insert(&key(letters), 0);
    }
    let held = |letters: &[u8]| index.matches(&key(letters)).bytes(0) / BLOCK_BYTES;
    assert_eq!((held(b"abbb"), held(b"x"), held(b"abaa"), held(b"y")), (2, 1, 4, 1));
}

#[test]
fn one_workers_eviction_leaves_the_others_alone() {
    let index = PrefixIndex::new(1000);
    index.insert(&key(&[b'k'; 20]), 1);
    for name in 0..20_u8 {
        index.insert(&key(&[&[b'k'; 10][..], &[name; 5]].concat()), 0);
    }
    assert_eq!(index.matches(&key(&[b'k'; 20])).bytes(1), 20 * BLOCK_BYTES);
    check(&index);
}

#[test]
fn a_split_is_charged_to_everyone_who_holds_the_node() {
    let index = PrefixIndex::new(4 * node_bytes(4));
    for worker in 0..300 {
        for name in [b'x', b'a', b'b', b'c'] {
            index.insert(&key(&[name; 4]), worker);
        }
        assert_eq!(index.bytes(worker), 4 * 4 * BLOCK_BYTES);
    }
    // Nobody has room for one node more: the oldest one of each has to go, and only that.
    index.insert(&key(b"ccdd"), 300);
    check(&index);
    for worker in 0..300 {
        assert_eq!(index.matches(&key(b"cccc")).bytes(worker), 4 * BLOCK_BYTES);
        assert_eq!(index.matches(&key(b"xxxx")).bytes(worker), 0);
        assert_eq!(index.bytes(worker), 3 * 4 * BLOCK_BYTES);
    }
    assert_eq!(index.matches(&key(b"ccdd")).bytes(300), 4 * BLOCK_BYTES);
}

#[test]
fn a_worker_can_be_bounded_more_tightly_than_the_others() {
    let index = PrefixIndex::new(UNBOUNDED);
    let keys: Vec<Key> = (0..30_u8).map(|name| key(&[name; 3])).collect();
    keys.iter().for_each(|key| index.insert(key, 0));
    index.set_limit(0, 1000);
    index.trim();
    assert_eq!(index.bytes(0), 10 * 3 * BLOCK_BYTES);
    for key in &keys {
        index.insert(key, 0);
        index.insert(key, 1);
        assert!(index.bytes(0) <= 1000);
    }
    assert_eq!((index.bytes(0), index.bytes(1)), (960, 2880));
    assert_eq!(index.matches(&keys[29]).bytes(0), 96);
    assert_eq!(index.matches(&keys[0]).bytes(0), 0);
    index.insert(&key(&[b'l'; 100]), 0);
    assert_eq!(index.matches(&key(&[b'l'; 100])).bytes(0), 992, "a key that is too long counts as far as it fits");
    index.forget(0);
    keys.iter().for_each(|key| index.insert(key, 0));
    assert_eq!(index.bytes(0), 2880, "the limit is forgotten too");
}

#[test]
fn keys_longer_than_the_bound_count_up_to_it() {
    let index = PrefixIndex::new(node_bytes(2) + 31);
    let long = key(&[b'x'; 40]);
    index.insert(&long, 0);
    let matches = index.matches(&long);
    assert_eq!((matches.bytes(0), matches.key_bytes()), (64, 64));
    assert_eq!(index.bytes(0), 64);
}

#[test]
fn a_key_shorter_than_a_block_matches_only_itself() {
    let index = PrefixIndex::new(UNBOUNDED);
    index.insert(&Key::new(b"Hello"), 0);
    let bytes = |text: &[u8]| (index.matches(&Key::new(text)).bytes(0), index.matches(&Key::new(text)).key_bytes());
    assert_eq!(bytes(b"Hello"), (5, 5));
    assert_eq!(bytes(b"Hello!"), (0, 6));
    assert_eq!(bytes(b"Hello and thirty-two bytes and more"), (0, 32));
    assert_eq!(index.bytes(0), BLOCK_BYTES);
    index.insert(&Key::default(), 0);
    assert_eq!(check(&index), 1);
}

#[test]
fn the_end_of_a_key_that_is_no_whole_block_does_not_count() {
    let index = PrefixIndex::new(UNBOUNDED);
    index.insert(&Key::new(&text(b"ab", 20)), 0);
    assert_eq!(index.bytes(0), 64);
    let matches = index.matches(&Key::new(&text(b"abc", 5)));
    assert_eq!((matches.bytes(0), matches.key_bytes()), (64, 96));
    index.insert(&Key::new(&text(b"ab", 3)), 0);
    assert_eq!(check(&index), 1);
}

#[test]
fn a_tree_as_deep_as_a_key_is_long_is_no_harm() {
    let index = PrefixIndex::new(UNBOUNDED);
    let letters = vec![b'd'; 1_000];
    // Each prefix ends a node, so that the nodes end up below one another.
    for end in 1..=letters.len() {
        index.insert(&key(&letters[..end]), (end % 2) as WorkerId);
    }
    assert_eq!(check(&index), letters.len());
    assert_eq!(index.matches(&key(&letters)).bytes(0), letters.len() * BLOCK_BYTES);
    index.forget(0);
    index.forget(1);
    assert_eq!(check(&index), 0);
}

#[test]
fn what_has_just_been_used_is_not_written_again() {
    let index = PrefixIndex::new(UNBOUNDED);
    for name in 0..100_u8 {
        index.insert(&key(&[name; 2]), 0);
    }
    let before = index.clock.load(Ordering::Relaxed);
    index.insert(&key(&[99; 2]), 0);
    index.insert(&key(&[99; 1]), 0);
    assert_eq!(index.clock.load(Ordering::Relaxed), before);
    index.insert(&key(&[0; 2]), 0);
    assert_eq!(index.clock.load(Ordering::Relaxed), before + 1);
}

#[test]
fn a_worker_id_used_again_begins_with_nothing() {
    let index = PrefixIndex::new(UNBOUNDED);
    index.insert(&key(b"once upon a time"), 0);
    index.insert(&key(b"once more"), 1);
    index.forget(0);
    assert_eq!((index.bytes(0), index.matches(&key(b"once upon")).bytes(0)), (0, 0));
    assert_eq!(index.matches(&key(b"once upon")).bytes(1), 5 * BLOCK_BYTES);
    index.insert(&key(b"once upon"), 0);
    assert_eq!(index.bytes(0), 9 * BLOCK_BYTES);
    check(&index);
}

#[test]
fn the_memory_of_what_was_evicted_is_given_back() {
    let index = PrefixIndex::new(UNBOUNDED);
    let empty = index.total_bytes();
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..5_000 {
        let letters: Vec<u8> = (0..20).map(|_| random.u8(..)).collect();
        index.insert(&key(&letters), random.u16(..3));
    }
    let full = index.total_bytes();
    assert!(full > empty + 5_000 * 20 * 4);
    assert!(full < (0..3).map(|worker| index.accounts.load()[worker].held().bytes()).sum());
    (0..3).for_each(|worker| index.forget(worker));
    assert!(index.total_bytes() < empty + 100_000, "{empty} {full} {}", index.total_bytes());
}

#[test]
fn threads_that_insert_match_evict_and_forget_leave_it_consistent() {
    const KEYS: usize = 4_000;
    const MAX_BYTES: usize = 10_000;
    let index = PrefixIndex::new(MAX_BYTES);
    thread::scope(|scope| {
        for worker in 0..4_u16 {
            let index = &index;
            // Two threads for each worker, over keys that fork often: every race of split, claim, growth and eviction comes up.
            for half in 0..2 {
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(u64::from(worker) * 2 + half);
                    for _ in 0..KEYS {
                        let letters: Vec<u8> =
                            (0..random.usize(1..30)).map(|_| if random.u8(..) < 32 { b'b' } else { b'a' }).collect();
                        let key = key(&letters);
                        index.insert(&key, worker);
                        let matches = index.matches(&key);
                        assert!((0..4).all(|worker| matches.bytes(worker) <= key.bytes()));
                        let accounts = index.accounts.load();
                        assert!(accounts.iter().all(|account| account.held().bytes() <= MAX_BYTES));
                    }
                });
            }
        }
        scope.spawn(|| {
            for round in 0..200 {
                index.trim();
                // A worker of its own, since none may insert while it is forgotten.
                index.insert(&key(&[b'a'; 10]), 9);
                index.insert(&key(&vec![b'a'; round % 50 + 1]), 9);
                index.forget(9);
                assert_eq!(index.bytes(9), 0);
            }
        });
    });
    check(&index);
    for worker in 0..4 {
        assert!(index.bytes(worker) > 0);
        index.forget(worker);
    }
    assert_eq!(check(&index), 0);
}
