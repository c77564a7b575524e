//! The prefix index: matching, inserting and evicting at a thousand to a million prompts of 2 KB, on 1 to 256 workers.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use radixfleet_router::fleet::WorkerId;
use radixfleet_router::prefix::{Key, NODE_BYTES, PrefixIndex};

const PROMPT_BYTES: usize = 2048;
const UNBOUNDED: usize = 1 << 34;
/// Prompts and workers.
const SIZES: [(u64, WorkerId); 8] = [
    (1_000, 1),
    (1_000, 16),
    (10_000, 16),
    (100_000, 1),
    (100_000, 16),
    (100_000, 256),
    (1_000_000, 16),
    (1_000_000, 256),
];

/// The prompt number `name`, which shares nothing with others.
fn prompt(name: u64) -> Key {
    Key::new(&text(name, PROMPT_BYTES))
}

fn text(name: u64, bytes: usize) -> Vec<u8> {
    let mut text = vec![0; bytes];
    Rng::with_seed(name).fill(&mut text);
    text
}

/// `prompts` prompts, in turn on `workers` workers.
fn filled(index: PrefixIndex, prompts: u64, workers: WorkerId) -> PrefixIndex {
    for name in 0..prompts {
        index.insert(&prompt(name), (name % u64::from(workers)) as WorkerId);
    }
    index
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group
}

/// Finding who holds a prompt, and noting it again for the worker that has it.
fn hits(criterion: &mut Criterion) {
    let mut group = group(criterion, "hit");
    for (prompts, workers) in SIZES {
        let index = filled(PrefixIndex::new(UNBOUNDED), prompts, workers);
        let mut random = Rng::with_seed(1);
        let mut key = || {
            let name = random.u64(..prompts);
            (prompt(name), (name % u64::from(workers)) as WorkerId)
        };
        let size = format!("{prompts} prompts, {workers} workers");
        group.bench_function(BenchmarkId::new("match", &size), |bench| {
            bench.iter_batched_ref(&mut key, |(key, worker)| index.matches(key).bytes(*worker), BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("match and insert", &size), |bench| {
            let match_and_insert = |(key, worker): &mut (Key, WorkerId)| {
                black_box(index.matches(key));
                index.insert(key, *worker);
            };
            bench.iter_batched_ref(&mut key, match_and_insert, BatchSize::SmallInput);
        });
    }
}

/// A prompt that is new, in an index whose bound is reached: each insertion evicts.
fn new_prompts(criterion: &mut Criterion) {
    let mut group = group(criterion, "new");
    for (prompts, workers) in SIZES {
        let max_bytes = (prompts / u64::from(workers)) as usize * (PROMPT_BYTES + NODE_BYTES);
        let index = filled(PrefixIndex::new(max_bytes), prompts, workers);
        let mut name = prompts;
        let mut key = || {
            name += 1;
            (prompt(name), (name % u64::from(workers)) as WorkerId)
        };
        let size = format!("{prompts} prompts, {workers} workers");
        group.bench_function(BenchmarkId::new("match, insert, evict", size), |bench| {
            let match_and_insert = |(key, worker): &mut (Key, WorkerId)| {
                black_box(index.matches(key));
                index.insert(key, *worker);
            };
            bench.iter_batched_ref(&mut key, match_and_insert, BatchSize::SmallInput);
        });
    }
}

/// An empty index that gets a hundred thousand prompts, and one that loses them.
fn fill_and_forget(criterion: &mut Criterion) {
    const PROMPTS: u64 = 100_000;
    let mut group = group(criterion, "100,000 prompts");
    group.throughput(Throughput::Elements(PROMPTS));
    let keys: Vec<Key> = (0..PROMPTS).map(prompt).collect();
    let full = || {
        let index = PrefixIndex::new(UNBOUNDED);
        keys.iter().for_each(|key| index.insert(key, 0));
        index
    };
    group.bench_function("insert", |bench| bench.iter_with_large_drop(full));
    group.bench_function("forget", |bench| {
        bench.iter_batched_ref(full, |index| index.forget(0), BatchSize::PerIteration);
    });
}

/// Prompts of one application: a system prompt of 2 KB that every worker holds, then 2 KB of their own.
fn shared_prefix(criterion: &mut Criterion) {
    let mut group = group(criterion, "shared system prompt");
    let system = text(0, PROMPT_BYTES);
    let prompt = |name| Key::new(&[&system[..], &text(name, PROMPT_BYTES)].concat());
    for workers in [1, 16, 256_u16] {
        let index = PrefixIndex::new(1 << 24);
        (1..20_000).for_each(|name| index.insert(&prompt(name), (name % u64::from(workers)) as WorkerId));
        let mut name = 20_000;
        let mut new = || {
            name += 1;
            (prompt(name), (name % u64::from(workers)) as WorkerId)
        };
        group.bench_function(BenchmarkId::new("match", workers), |bench| {
            bench.iter_batched_ref(&mut new, |(key, _)| index.matches(key), BatchSize::SmallInput);
        });
        group.bench_function(BenchmarkId::new("match and insert", workers), |bench| {
            let match_and_insert = |(key, worker): &mut (Key, WorkerId)| {
                black_box(index.matches(key));
                index.insert(key, *worker);
            };
            bench.iter_batched_ref(&mut new, match_and_insert, BatchSize::SmallInput);
        });
    }
}

/// A prompt of 256 KB, from its text on.
fn long_prompts(criterion: &mut Criterion) {
    const BYTES: usize = 256 << 10;
    let mut group = group(criterion, "256 KB");
    group.throughput(Throughput::Bytes(BYTES as u64));
    let index = PrefixIndex::new(1 << 24);
    let mut name = 0;
    let mut new = || {
        name += 1;
        text(name, BYTES)
    };
    group.bench_function("key", |bench| {
        bench.iter_batched_ref(&mut new, |text| Key::new(text), BatchSize::SmallInput);
    });
    group.bench_function("key, match, insert", |bench| {
        let route = |text: &mut Vec<u8>| {
            let key = Key::new(text);
            black_box(index.matches(&key));
            index.insert(&key, 0);
        };
        bench.iter_batched_ref(&mut new, route, BatchSize::SmallInput);
    });
    let held = Key::new(&new());
    index.insert(&held, 0);
    group.bench_function("match of all", |bench| bench.iter(|| index.matches(&held)));
}

/// Several threads on one shard: prompts that share their beginning, each matched and inserted.
fn contended(criterion: &mut Criterion) {
    let mut group = group(criterion, "threads on one shard");
    let system = text(0, PROMPT_BYTES);
    let available = thread::available_parallelism().map_or(1, usize::from);
    for threads in (0..).map(|power| 1 << power).take_while(|threads| *threads <= available) {
        let index = PrefixIndex::new(1 << 24);
        let name = AtomicU64::new(1);
        group.throughput(Throughput::Elements(threads as u64));
        group.bench_function(BenchmarkId::from_parameter(threads), |bench| {
            bench.iter_custom(|rounds| {
                let slowest = thread::scope(|scope| {
                    let run = || {
                        let names = name.fetch_add(rounds, Ordering::Relaxed)..;
                        let keys = names.take(rounds as usize).map(|name| {
                            let worker = (name % 16) as WorkerId;
                            (Key::new(&[&system[..], &text(name, PROMPT_BYTES)].concat()), worker)
                        });
                        let keys: Vec<(Key, WorkerId)> = keys.collect();
                        let begun = Instant::now();
                        for (key, worker) in &keys {
                            black_box(index.matches(key));
                            index.insert(key, *worker);
                        }
                        begun.elapsed()
                    };
                    let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
                    threads.into_iter().map(|thread| thread.join().expect("it does not panic")).max()
                });
                slowest.unwrap_or_default()
            });
        });
    }
}

criterion_group!(benches, hits, new_prompts, fill_and_forget, shared_prefix, long_prompts, contended);
criterion_main!(benches);
