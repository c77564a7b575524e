//! Prompt text that is cheap to make, different for every seed, and needs no escapes in JSON.

use fastrand::Rng;

/// `bytes` bytes of made-up words.
pub fn words(rng: &mut Rng, bytes: usize) -> String {
    let mut text = String::with_capacity(bytes + 8);
    while text.len() < bytes {
        for _ in 0..rng.usize(2..9) {
            text.push(rng.lowercase());
        }
        text.push(' ');
    }
    text.truncate(bytes);
    text
}

/// Draws 0 to `weights - 1` under Zipf's law: the n-th as often as 1/n^`exponent`.
pub struct Zipf {
    /// Share of all draws that are this one or one before it.
    cumulative: Vec<f64>,
}

impl Zipf {
    pub fn new(count: usize, exponent: f64) -> Self {
        let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
        let mut sum = 0.0;
        let mut cumulative: Vec<f64> = weights
            .map(|weight| {
                sum += weight;
                sum
            })
            .collect();
        cumulative.iter_mut().for_each(|share| *share /= sum);
        Self { cumulative }
    }

    pub fn draw(&self, rng: &mut Rng) -> usize {
        let share = rng.f64();
        self.cumulative.partition_point(|&up_to| up_to <= share).min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_drawn_twice_as_often_as_the_second() {
        let (zipf, mut rng) = (Zipf::new(40, 1.0), Rng::with_seed(1));
        let mut counts = [0; 40];
        (0..100_000).for_each(|_| counts[zipf.draw(&mut rng)] += 1);
        let ratio = f64::from(counts[0]) / f64::from(counts[1]);
        assert!((1.9..2.1).contains(&ratio), "{ratio}");
        assert!(counts.iter().all(|&count| count > 0));
    }

    #[test]
    fn words_are_as_long_as_asked_for_and_differ_by_seed() {
        let text = |seed| words(&mut Rng::with_seed(seed), 1000);
        assert_eq!(text(1).len(), 1000);
        assert_eq!(text(1), text(1));
        assert_ne!(text(1)[..16], text(2)[..16]);
    }
}
