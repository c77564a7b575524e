//! The prefix index does what its naive model does, whatever is done to it.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use radixfleet_router_fuzz::model::Model;
use radixfleet_router_fuzz::prefix::{BLOCK_BYTES, Key, PrefixIndex};

const WORKERS: u16 = 4;

#[derive(Arbitrary, Debug)]
struct Run {
    /// Below 16 nodes, where the order of eviction is exact.
    max_bytes: u16,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Insert { text: Text, worker: u8 },
    Match { text: Text },
    Forget { worker: u8 },
    Limit { worker: u8, bytes: u16 },
    Trim,
}

/// Blocks of few kinds, so that texts share prefixes, and what makes no whole block.
#[derive(Arbitrary, Debug)]
struct Text {
    blocks: Vec<bool>,
    repeat: u8,
    rest: u8,
}

impl Text {
    fn bytes(&self) -> Vec<u8> {
        let run = std::iter::repeat_n(false, usize::from(self.repeat % 64));
        let blocks = run.chain(self.blocks.iter().copied()).flat_map(|block| [b'a' + u8::from(block); BLOCK_BYTES]);
        blocks.chain(std::iter::repeat_n(b'.', usize::from(self.rest) % BLOCK_BYTES)).collect()
    }
}

fuzz_target!(|run: Run| {
    let max_bytes = usize::from(run.max_bytes % 2500);
    let (index, mut model) = (PrefixIndex::new(max_bytes), Model::new(max_bytes));
    for step in &run.steps {
        match step {
            Step::Insert { text, worker } => {
                let (text, worker) = (text.bytes(), u16::from(*worker) % WORKERS);
                index.insert(&Key::new(&text), worker);
                model.insert(&text, worker);
                compare(&index, &model, &text);
            }
            Step::Match { text } => compare(&index, &model, &text.bytes()),
            Step::Forget { worker } => {
                index.forget(u16::from(*worker) % WORKERS);
                model.forget(u16::from(*worker) % WORKERS);
            }
            Step::Limit { worker, bytes } => {
                let (worker, bytes) = (u16::from(*worker) % WORKERS, usize::from(*bytes) % 2500);
                index.set_limit(worker, bytes);
                model.set_limit(worker, bytes);
            }
            Step::Trim => {
                index.trim();
                model.trim();
            }
        }
        for worker in 0..WORKERS {
            assert_eq!(index.bytes(worker), model.bytes(worker));
            assert!(model.charged(worker) <= max_bytes);
        }
    }
});

fn compare(index: &PrefixIndex, model: &Model, text: &[u8]) {
    let matches = index.matches(&Key::new(text));
    assert_eq!(matches.key_bytes(), model.compared(text));
    for worker in 0..=WORKERS {
        assert_eq!(matches.bytes(worker), model.matched(text, worker));
    }
}
