//! The breaker against a model that remembers everything, in simulated time.

use proptest::prelude::*;

use super::*;

const SETTINGS: BreakerSettings = BreakerSettings {
    failures: Some(3),
    successes: 2,
    timeout: Duration::from_millis(1000),
    window: Duration::from_millis(5000),
};

fn at(milliseconds: u64) -> Moment {
    Moment::after(Duration::from_millis(milliseconds))
}

fn opened(at_milliseconds: u64) -> Breaker {
    let mut breaker = Breaker::new(SETTINGS);
    (0..3).for_each(|_| breaker.failed(false, at(at_milliseconds)));
    assert_eq!((breaker.state(), breaker.cause()), (BreakerState::Open, Some(Cause::Failures)));
    breaker
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let mut breaker = Breaker::new(SETTINGS);
    for _ in 0..10 {
        breaker.failed(false, at(0));
        breaker.failed(false, at(0));
        breaker.succeeded(false);
    }
    assert!(breaker.permits());
    opened(0);
}

#[test]
fn failures_that_are_far_apart_do_not_open_it() {
    let mut breaker = Breaker::new(SETTINGS);
    for number in 0..10 {
        breaker.failed(false, at(number * 2600));
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[test]
fn after_its_time_out_one_request_at_a_time_decides() {
    let mut breaker = opened(0);
    breaker.tick(at(999));
    assert!(!breaker.permits() && !breaker.begin_trial());
    breaker.tick(at(1000));
    assert!(breaker.permits() && breaker.begin_trial());
    assert!(!breaker.permits() && !breaker.begin_trial(), "one at a time");
    breaker.abandon_trial();
    assert!(breaker.begin_trial(), "a trial without a verdict gives its place back");
    breaker.failed(false, at(1001));
    breaker.succeeded(false);
    assert_eq!(breaker.state(), BreakerState::HalfOpen, "only the trial counts");
    breaker.succeeded(true);
    assert!(breaker.begin_trial());
    breaker.failed(true, at(1500));
    breaker.tick(at(2499));
    assert_eq!(breaker.state(), BreakerState::Open, "open for the whole time-out again");
    breaker.tick(at(2500));
    for _ in 0..2 {
        assert!(breaker.begin_trial());
        breaker.succeeded(true);
    }
    assert_eq!((breaker.state(), breaker.cause()), (BreakerState::Closed, None));
}

#[test]
fn silence_opens_it_until_there_is_a_sign_of_life() {
    let mut breaker = Breaker::new(BreakerSettings { failures: None, ..SETTINGS });
    (0..100).for_each(|_| breaker.failed(false, at(0)));
    assert!(breaker.permits(), "failures never open it where they are not to");
    breaker.trip(at(0));
    breaker.tick(at(100_000));
    assert_eq!((breaker.state(), breaker.cause()), (BreakerState::Open, Some(Cause::Silence)));
    breaker.half_open();
    assert!(breaker.begin_trial());
    breaker.failed(true, at(100_000));
    assert_eq!((breaker.state(), breaker.cause()), (BreakerState::Open, Some(Cause::Silence)));
    breaker.half_open();
    assert!(breaker.begin_trial());
    breaker.succeeded(true);
    assert!(breaker.permits(), "one answer is proof");
}

#[derive(Clone, Debug)]
enum Event {
    Failure,
    Success,
    /// Takes the place on trial if it can.
    Begin,
    TrialFailure,
    TrialSuccess,
    Abandon,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Failure),
        2 => Just(Event::Success),
        3 => Just(Event::Begin),
        1 => Just(Event::TrialFailure),
        2 => Just(Event::TrialSuccess),
        1 => Just(Event::Abandon),
        3 => (1..1500_u64).prop_map(Event::Pass),
    ]
}

proptest! {
    /// The state follows from the history: when it opened, what the trials since then said.
    #[test]
    fn it_does_what_its_history_says(events in prop::collection::vec(event(), 0..200)) {
        let mut breaker = Breaker::new(SETTINGS);
        let (mut now, mut opened, mut streak, mut trials, mut running) = (0, None::<u64>, Vec::new(), 0, false);
        for event in events {
            let half_open = opened.is_some_and(|opened| now >= opened + 1000);
            match event {
                Event::Failure => {
                    breaker.failed(false, at(now));
                    if opened.is_none() {
                        if streak.first().is_some_and(|first| now - first > 5000) {
                            streak.clear();
                        }
                        streak.push(now);
                        if streak.len() == 3 {
                            (opened, trials) = (Some(now), 0);
                            streak.clear();
                        }
                    }
                }
                Event::Success => {
                    breaker.succeeded(false);
                    streak.clear();
                }
                Event::Begin => {
                    prop_assert_eq!(breaker.begin_trial(), half_open && !running);
                    running |= half_open;
                }
                Event::TrialFailure if running => {
                    breaker.failed(true, at(now));
                    (opened, trials, running) = (Some(now), 0, false);
                }
                Event::TrialSuccess if running => {
                    breaker.succeeded(true);
                    (trials, running) = (trials + 1, false);
                    if trials == 2 {
                        opened = None;
                    }
                }
                Event::Abandon => {
                    breaker.abandon_trial();
                    running = false;
                }
                Event::Pass(milliseconds) => {
                    now += milliseconds;
                    breaker.tick(at(now));
                }
                Event::TrialFailure | Event::TrialSuccess => {}
            }
            let expected = match opened {
                None => BreakerState::Closed,
                Some(opened) if now < opened + 1000 => BreakerState::Open,
                Some(_) => BreakerState::HalfOpen,
            };
            prop_assert_eq!(breaker.state(), expected);
            prop_assert_eq!(breaker.permits(), expected == BreakerState::Closed || expected == BreakerState::HalfOpen && !running);
            prop_assert_eq!(breaker.remembers_failures(), opened.is_none() && !streak.is_empty());
        }
    }
}
