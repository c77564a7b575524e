//! How fast workers are, learnt from the time between a request and the first byte of its answer.
//!
//! One curve for the whole fleet, `base + per_stream * streams + per_byte * bytes`, where bytes are those to prefill, its own and those
//! ahead of it; and one factor for each worker, by which it is slower (above 1) or faster than the curve. A worker without data
//! has the factor 1: the fleet's own speed.

use crate::moment::Moment;
use crate::policy::Assignment;

/// What a request's first byte had to wait for.
#[derive(Clone, Copy)]
pub(super) struct Work {
    bytes: f64,
    streams: f64,
}

/// Least squares over relative errors, older observations fading.
pub(super) struct Curve {
    /// Normal equations over (1, streams, bytes).
    products: [[f64; 3]; 3],
    targets: [f64; 3],
    observations: f64,
    coefficients: [f64; 3],
    /// Fading means: seconds that the curve expects of a request, and bytes of a prompt.
    typical_seconds: f64,
    typical_key: f64,
}

/// How much slower one worker is than the curve.
#[derive(Default)]
pub(super) struct Factor {
    observed: f64,
    expected: f64,
    /// Expectation that counts as an observation of 1.
    prior: f64,
    at: Option<Moment>,
}

/// Of the sums, for each observation.
const FADING: f64 = 1.0 - 1.0 / 512.0;
/// Observations before the curve is believed.
const ENOUGH: f64 = 16.0;
/// Before there is any: 100 KB/s, which only matters against `base`.
const PRIOR: [f64; 3] = [0.002, 0.0, 1e-5];
/// No engine prefills ten gigabytes of text a second. Where prefill costs nothing that can be measured the slope would go to zero, and
/// whatever is divided by it out of bounds.
const LEAST_PER_BYTE: f64 = 1e-10;
/// Share of its sum that is added to the diagonal for base and streams: where requests are all alike, bytes explain the time.
const RIDGE: f64 = 0.01;
/// An observation that is off by more than this counts as off by this much.
const LARGEST_RATIO: f64 = 4.0;
/// A worker's own observations fade by this much each, and over this time.
const FACTOR_FADING: f64 = 1.0 - 1.0 / 32.0;
const FACTOR_SECONDS: f64 = 60.0;
/// Typical prompts, each computed whole, in the time over which recent work evens out.
const HORIZON: f64 = 256.0;

// ===== impl Work =====

impl Work {
    pub fn of(assignment: &Assignment) -> Self {
        Self { bytes: assignment.ahead.bytes + assignment.uncached_bytes(), streams: assignment.ahead.streams }
    }

    /// The same with more bytes to prefill.
    pub fn with_bytes(self, more: f64) -> Self {
        Self { bytes: self.bytes + more, ..self }
    }

    fn features(&self) -> [f64; 3] {
        [1.0, self.streams, self.bytes]
    }
}

// ===== impl Curve =====

impl Default for Curve {
    fn default() -> Self {
        Self {
            products: [[0.0; 3]; 3],
            targets: [0.0; 3],
            observations: 0.0,
            coefficients: PRIOR,
            typical_seconds: PRIOR[0],
            typical_key: 0.0,
        }
    }
}

impl Curve {
    /// Above zero.
    pub fn per_byte(&self) -> f64 {
        self.coefficients[2].max(LEAST_PER_BYTE)
    }

    pub fn per_stream(&self) -> f64 {
        self.coefficients[1]
    }

    /// Seconds until the first byte, on a worker with the factor 1.
    pub fn seconds(&self, work: &Work) -> f64 {
        dot(&self.coefficients, &work.features())
    }

    pub fn is_known(&self) -> bool {
        self.observations >= ENOUGH
    }

    /// Mean of what the curve expected lately.
    pub fn typical(&self) -> f64 {
        self.typical_seconds
    }

    /// Seconds over which workers' work should even out.
    pub fn horizon(&self) -> f64 {
        (HORIZON * self.typical_key * self.per_byte()).max(1e-3)
    }

    /// A prompt of this many bytes came.
    pub fn saw_key(&mut self, bytes: f64) {
        let weight = if self.typical_key == 0.0 { 1.0 } else { 1.0 / 256.0 };
        self.typical_key += weight * (bytes - self.typical_key);
    }

    pub fn learn(&mut self, work: &Work, seconds: f64) {
        let features = work.features();
        let mut seconds = seconds.max(1e-6);
        let expected = self.seconds(work).max(1e-6);
        if self.is_known() {
            seconds = seconds.clamp(expected / LARGEST_RATIO, expected * LARGEST_RATIO);
        }
        // Errors are relative: a tenth of a long wait is as bad as a tenth of a short one.
        let weight = if self.is_known() { expected.max(seconds) } else { seconds }.powi(-2);
        for (row, feature) in features.iter().enumerate() {
            for (column, other) in features.iter().enumerate() {
                self.products[row][column] = self.products[row][column] * FADING + weight * feature * other;
            }
            self.targets[row] = self.targets[row] * FADING + weight * feature * seconds;
        }
        self.observations += 1.0;
        self.typical_seconds += (expected - self.typical_seconds) / self.observations.min(256.0);
        if let Some(coefficients) = self.solve() {
            self.coefficients = coefficients;
        }
    }

    /// The best coefficients of which none is negative; `None` while observations say too little.
    fn solve(&self) -> Option<[f64; 3]> {
        let mut active = [true; 3];
        loop {
            let mut system = self.products;
            let mut targets = self.targets;
            system[0][0] *= 1.0 + RIDGE;
            system[1][1] *= 1.0 + RIDGE;
            for index in (0..3).filter(|index| !active[*index] || self.products[*index][*index] <= 0.0) {
                (0..3).for_each(|other| (system[index][other], system[other][index]) = (0.0, 0.0));
                (system[index][index], targets[index]) = (1.0, 0.0);
            }
            let solution = solve(system, targets)?;
            if solution.iter().any(|coefficient| !coefficient.is_finite()) {
                return None;
            }
            let most_negative =
                (0..3).min_by(|a, b| relative(&solution, *a, self).total_cmp(&relative(&solution, *b, self)))?;
            if solution[most_negative] >= 0.0 {
                // Without bytes to tell by, the last speed stands.
                return (solution[2] > 0.0).then_some(solution);
            }
            if most_negative == 2 {
                return None;
            }
            active[most_negative] = false;
        }
    }
}

/// A coefficient in the unit of its own feature's size.
fn relative(solution: &[f64; 3], index: usize, curve: &Curve) -> f64 {
    solution[index] * curve.products[index][index].max(0.0).sqrt()
}

// ===== impl Factor =====

impl Factor {
    pub fn at(&self, now: Moment) -> f64 {
        let fading = self.fading(now);
        let prior = self.prior.max(f64::MIN_POSITIVE);
        (self.observed * fading + prior) / (self.expected * fading + prior)
    }

    /// An answer began after `observed` seconds where the curve has `expected`; `typical` is what it expects on average.
    pub fn learn(&mut self, expected: f64, observed: f64, typical: f64, now: Moment) {
        let factor = self.at(now);
        let observed = observed.clamp(expected * factor / LARGEST_RATIO, expected * factor * LARGEST_RATIO);
        let fading = self.fading(now) * FACTOR_FADING;
        self.observed = self.observed * fading + observed;
        self.expected = self.expected * fading + expected;
        self.prior = 2.0 * typical;
        self.at = Some(now);
    }

    fn fading(&self, now: Moment) -> f64 {
        self.at.map_or(1.0, |at| (-now.since(at).as_secs_f64() / FACTOR_SECONDS).exp())
    }
}

// ===== linear algebra of three unknowns =====

fn dot(a: &[f64; 3], b: &[f64; 3]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gaussian elimination of a symmetric positive system, scaled to a unit diagonal; `None` if it is singular.
fn solve(mut system: [[f64; 3]; 3], mut targets: [f64; 3]) -> Option<[f64; 3]> {
    let scale: [f64; 3] = std::array::from_fn(|index| system[index][index].sqrt());
    for row in 0..3 {
        (0..3).for_each(|column| system[row][column] /= scale[row] * scale[column]);
        targets[row] /= scale[row];
    }
    for pivot in 0..3 {
        if system[pivot][pivot] < 1e-9 {
            return None;
        }
        for row in pivot + 1..3 {
            let share = system[row][pivot] / system[pivot][pivot];
            (pivot..3).for_each(|column| system[row][column] -= share * system[pivot][column]);
            targets[row] -= share * targets[pivot];
        }
    }
    let mut solution = [0.0; 3];
    for row in (0..3).rev() {
        let known: f64 = (row + 1..3).map(|column| system[row][column] * solution[column]).sum();
        solution[row] = (targets[row] - known) / system[row][row];
    }
    Some(std::array::from_fn(|index| solution[index] / scale[index]))
}
