//! How often prefixes were hit lately: a table of fixed size in which frequent ones stay.
//!
//! A prefix that many requests share (a system prompt) is worth a copy on another worker, since its next request is near; the prefix of
//! a conversation is hit once, and then it has become longer.

/// Hits of prefixes, each named by a hash.
pub(super) struct Popularity {
    slots: Box<[Slot]>,
    /// Counts all hits: the time of the table.
    clock: u32,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u64,
    hits: f32,
    at: u32,
}

const SLOTS: usize = 2048;
/// Hits of all prefixes together after which one counts 1/e.
const FADING: f32 = 4096.0;

// ===== impl Popularity =====

impl Default for Popularity {
    fn default() -> Self {
        Self { slots: vec![Slot::default(); SLOTS].into(), clock: 0 }
    }
}

impl Popularity {
    /// Counts a hit, and says how many there were before it.
    pub fn hit(&mut self, hash: u64) -> f64 {
        self.clock = self.clock.wrapping_add(1);
        let slot = &mut self.slots[(hash >> 32) as usize % SLOTS];
        let hits = slot.hits * (-(self.clock.wrapping_sub(slot.at) as f32) / FADING).exp();
        slot.at = self.clock;
        if slot.hash == hash {
            slot.hits = hits + 1.0;
            return f64::from(hits);
        }
        // Another prefix has the slot, and keeps it while it is the more frequent one.
        if hits > 1.0 {
            slot.hits = hits - 1.0;
        } else {
            (slot.hash, slot.hits) = (hash, 1.0);
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_and_fade() {
        let mut popularity = Popularity::default();
        let counts: Vec<f64> = (0..5).map(|_| popularity.hit(7 << 40).round()).collect();
        assert_eq!(counts, [0.0, 1.0, 2.0, 3.0, 4.0]);
        // Others pass, all in one other slot.
        for _ in 0..3 * FADING as u64 {
            popularity.hit(1 << 32);
        }
        assert!(popularity.hit(7 << 40) < 0.5);
    }

    #[test]
    fn a_frequent_prefix_stays_among_many_that_come_once() {
        let mut popularity = Popularity::default();
        let mut random = fastrand::Rng::with_seed(7);
        let mut last = 0.0;
        for _ in 0..2000 {
            assert_eq!(popularity.hit(random.u64(..)), 0.0, "never seen before");
            last = popularity.hit(7 << 40);
        }
        assert!(last > 1000.0, "{last}");
    }
}
