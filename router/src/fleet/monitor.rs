//! Watches over all workers at once, ten times a second: lets circuit breakers' time pass, and finds workers that hang.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::Fleet;
use super::breaker::BreakerState;
use super::inquiry::{Inquirer, Reply};
use super::progress::AnswerKind;
use super::silence::{Measure, Silence};
use super::worker::{Worker, WorkerId};
use crate::moment::Moment;

const TICK: Duration = Duration::from_millis(100);

/// How long a worker that seems to hang has to prove that it does not.
const PROOF_TIMEOUT: Duration = Duration::from_millis(500);

/// Between two questions to a worker that hangs.
const RETURN_PAUSE: Duration = Duration::from_millis(250);

/// The check that generates a token.
const GENERATING_CHECK: &str = "/health_generate";

/// How many requests have to wait, at least, for a worker without such a check to be found to hang. One answer in one piece may just be long.
fn enough(kind: AnswerKind) -> usize {
    match kind {
        AnswerKind::Stream => 1,
        AnswerKind::Whole => 3,
    }
}

/// How many have to wait for its check not to be believed, after it was once: what it answers is not what its clients ask for.
fn enough_to_disbelieve(kind: AnswerKind) -> usize {
    match kind {
        AnswerKind::Stream => 3,
        AnswerKind::Whole => 8,
    }
}

/// What the monitor knows of the fleet between two ticks.
#[derive(Default)]
struct Monitor {
    measure: Measure,
    silences: HashMap<WorkerId, Silence>,
    /// Workers that are being asked whether they hang: true if they do.
    doubts: HashMap<WorkerId, tokio::task::JoinHandle<bool>>,
}

/// Runs for as long as the fleet.
pub(super) async fn watch(fleet: std::sync::Weak<Fleet>, inquirer: Inquirer, check_timeout: Duration) {
    let mut monitor = Monitor::default();
    let mut ticks = interval(TICK);
    // After a pause of the whole process nobody's silence means anything.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Moment::now();
    loop {
        ticks.tick().await;
        let Some(fleet) = fleet.upgrade() else { return };
        let workers = fleet.workers();
        drop(fleet);
        let now = Moment::now();
        if now.since(last) > 5 * TICK {
            monitor.silences.clear();
        }
        last = now;
        workers.iter().for_each(|worker| worker.tick(now));
        for worker in monitor.new_suspects(&workers, now, &inquirer).await {
            tokio::spawn(readmit(worker, inquirer.clone(), check_timeout));
        }
    }
}

impl Monitor {
    /// The workers that are found to hang, and count so from now on.
    async fn new_suspects(&mut self, workers: &[Arc<Worker>], now: Moment, inquirer: &Inquirer) -> Vec<Arc<Worker>> {
        let mut silences = HashMap::new();
        let mut waiting = HashMap::new();
        for worker in workers {
            let snapshot = worker.progress.take();
            let before = self.silences.get(&worker.id()).copied();
            self.measure.observe(before, &snapshot, now);
            if snapshot.moved && worker.is_suspect() {
                info!(worker = %worker.url(), "the worker goes on with its answers");
                worker.clear_suspicion();
            }
            if let Some(silence) = Silence::next(before, &snapshot, now) {
                silences.insert(worker.id(), silence);
                waiting.insert(worker.id(), snapshot.streams + snapshot.wholes);
            }
        }
        self.silences = silences;
        let mut found = Vec::new();
        for worker in workers {
            if self.hangs(worker, workers, now, waiting.get(&worker.id()).copied(), inquirer).await {
                let lasted = self.silences.remove(&worker.id()).map_or(0.0, |silence| silence.lasts(now).as_secs_f64());
                warn!(worker = %worker.url(), seconds = lasted, "worker hangs: requests wait, and no byte of any answer comes");
                // One that hangs again on trial is being looked after already.
                if !worker.is_suspect() {
                    found.push(worker.clone());
                }
                worker.suspect(&format!("hangs: requests wait, and no byte of any answer came for {lasted:.1} s"));
            }
        }
        found
    }

    /// Decides about one worker: an unexplained silence raises a doubt, and the worker's own answer settles it.
    async fn hangs(
        &mut self,
        worker: &Arc<Worker>,
        workers: &[Arc<Worker>],
        now: Moment,
        waiting: Option<usize>,
        inquirer: &Inquirer,
    ) -> bool {
        let id = worker.id();
        let Some(silence) = self.silences.get_mut(&id) else {
            self.doubts.remove(&id);
            return false;
        };
        if let Some(doubt) = self.doubts.get_mut(&id) {
            if !doubt.is_finished() {
                return false;
            }
            let hangs = doubt.await.unwrap_or(false);
            self.doubts.remove(&id);
            if !hangs {
                silence.excuse();
            }
            return hangs;
        }
        let (silence, waiting) = (*silence, waiting.unwrap_or(0));
        // Where everybody is silent, nobody is to blame, and nobody could take over.
        let has_peer = |peer: &Arc<Worker>| peer.is_available() && !self.silences.contains_key(&peer.id());
        if !silence.is_unexplained(now, &self.measure) || !workers.iter().any(has_peer) {
            return false;
        }
        if worker.is_suspect() {
            // The request on trial waits as those before it did, whatever the check says.
            return true;
        }
        let (worker, inquirer) = (worker.clone(), inquirer.clone());
        let is_believed = !silence.is_excused() || waiting < enough_to_disbelieve(silence.kind);
        let is_enough = waiting >= enough(silence.kind);
        self.doubts.insert(
            id,
            tokio::spawn(async move {
                match inquirer.get(&worker, GENERATING_CHECK, PROOF_TIMEOUT).await {
                    Reply::Ok(_) => !is_believed,
                    Reply::Failed(_) => true,
                    Reply::Missing => is_enough,
                }
            }),
        );
        false
    }
}

/// Looks for signs of life of a worker that hung, and when there are some lets requests through on trial, until one succeeds.
async fn readmit(worker: Arc<Worker>, inquirer: Inquirer, timeout: Duration) {
    while worker.is_suspect() && !worker.is_draining() {
        if worker.breaker_state() == BreakerState::Open {
            match inquirer.get(&worker, GENERATING_CHECK, timeout).await {
                Reply::Ok(_) => worker.give_a_trial(true),
                Reply::Missing => worker.give_a_trial(false),
                Reply::Failed(_) => {}
            }
        }
        sleep(RETURN_PAUSE).await;
    }
}
