//! What the prefix index takes from the allocator, everything counted, and that it never takes more than it says.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use radixfleet_router::prefix::{BLOCK_BYTES, Key, NODE_BYTES, PrefixIndex};

/// Counts for each thread by itself, so that tests can run side by side.
struct Counting;

#[derive(Clone, Copy)]
struct Counted {
    bytes: isize,
    peak: isize,
}

thread_local! {
    static COUNTED: Cell<Counted> = const { Cell::new(Counted { bytes: 0, peak: 0 }) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an allocation of `size` bytes takes with the allocator's own part: a word before it, in steps of 16 bytes, at least 32.
fn taken(size: usize) -> isize {
    (size + 8).next_multiple_of(16).max(32) as isize
}

fn count(bytes: isize) {
    COUNTED.with(|counted| {
        let Counted { bytes: before, peak } = counted.get();
        let bytes = before + bytes;
        counted.set(Counted { bytes, peak: peak.max(bytes) });
    });
}

// SAFETY: everything is handed to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout.size()));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-taken(layout.size()));
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Bytes that are allocated now.
fn allocated() -> isize {
    COUNTED.get().bytes
}

/// The most that was allocated at once since the last call.
fn peak() -> isize {
    let counted = COUNTED.get();
    COUNTED.set(Counted { peak: counted.bytes, ..counted });
    counted.peak
}

fn random_key(random: &mut fastrand::Rng, bytes: usize) -> Key {
    let mut text = vec![0; bytes];
    random.fill(&mut text);
    Key::new(&text)
}

#[test]
fn a_distinct_prompt_of_2_kb_takes_less_than_600_bytes() {
    const PROMPTS: usize = 10_000;
    let mut random = fastrand::Rng::with_seed(1);
    for workers in [1, 16] {
        let before = allocated();
        let index = PrefixIndex::new(1 << 34);
        for number in 0..PROMPTS {
            index.insert(&random_key(&mut random, 2048), (number % workers) as u16);
        }
        let each = (allocated() - before) / PROMPTS as isize;
        assert!((256..600).contains(&each), "{each} bytes for each prompt with {workers} workers");
    }
}

#[test]
fn what_is_taken_stays_below_what_workers_are_charged() {
    const MAX_BYTES: usize = 1 << 19;
    const WORKERS: u16 = 8;
    /// Shards, and the first chunk of nodes of each.
    const FIXED_BYTES: isize = 400 << 10;
    let system = vec![b's'; 4096];
    type MakeKey<'a> = &'a dyn Fn(&mut fastrand::Rng) -> Key;
    let cases: [(&str, MakeKey); 4] = [
        ("one block each", &|random| random_key(random, BLOCK_BYTES)),
        ("prompts of any length", &|random| {
            let bytes = random.usize(1..3_000);
            random_key(random, bytes)
        }),
        ("forks of one long prompt, a block each", &|random| {
            let at = random.usize(0..system.len() / BLOCK_BYTES) * BLOCK_BYTES;
            Key::new(&[&system[..at], &[random.u8(..); BLOCK_BYTES], &[random.u8(..); BLOCK_BYTES]].concat())
        }),
        ("few prompts that all hold", &|random| {
            let name = random.u16(..2000).to_le_bytes();
            Key::new(&name.repeat(BLOCK_BYTES))
        }),
    ];
    for (name, make_key) in cases {
        let mut random = fastrand::Rng::with_seed(2);
        let before = allocated();
        peak();
        let index = PrefixIndex::new(MAX_BYTES);
        for _ in 0..40_000 {
            let worker = random.u16(..WORKERS);
            index.insert(&make_key(&mut random), worker);
        }
        let (most, now) = (peak() - before, allocated() - before);
        let charged = MAX_BYTES * usize::from(WORKERS);
        assert!(most < charged as isize + FIXED_BYTES, "{name}: {most} bytes at most, {charged} charged");
        let said = index.total_bytes() as isize;
        assert!((said - now).abs() < now / 5 + FIXED_BYTES, "{name}: {said} said, {now} allocated");
        (0..WORKERS).for_each(|worker| index.forget(worker));
        let left = allocated() - before;
        assert!(left < FIXED_BYTES, "{name}: {left} bytes are left");
    }
}

#[test]
fn a_long_prompt_takes_an_eighth_of_its_text() {
    const MAX_BYTES: usize = 16 << 20;
    let mut random = fastrand::Rng::with_seed(3);
    let before = allocated();
    let index = PrefixIndex::new(MAX_BYTES);
    for _ in 0..80 {
        index.insert(&random_key(&mut random, 256 << 10), 0);
        assert!(index.bytes(0) + NODE_BYTES <= MAX_BYTES);
    }
    let taken = allocated() - before;
    assert!(taken < (MAX_BYTES / 7) as isize, "{taken}");
}
