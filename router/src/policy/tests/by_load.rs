//! `least_load` and `power_of_two`.

use super::*;

#[test]
fn least_load_is_the_shortest_queue_and_fair_among_equals() {
    fastrand::seed(7);
    let workers = workers(4);
    let _busy: Vec<LoadGuard> = [0, 0, 2].iter().map(|id: &usize| workers[*id].begin().unwrap()).collect();
    let mut counts = [0; 4];
    for _ in 0..4000 {
        counts[usize::from(choose(&LeastLoad, b"", &workers).unwrap().id())] += 1;
    }
    assert_eq!((counts[0], counts[2]), (0, 0));
    // Seven standard deviations around 2000.
    assert!((1779..=2221).contains(&counts[1]), "{counts:?}");
}

#[test]
fn power_of_two_takes_the_busiest_never_and_the_idlest_most() {
    fastrand::seed(7);
    let workers = workers(4);
    let _busy: Vec<LoadGuard> = [1, 2, 2, 3, 3, 3].iter().map(|id: &usize| workers[*id].begin().unwrap()).collect();
    let mut counts = [0; 4];
    for _ in 0..6000 {
        counts[usize::from(choose(&PowerOfTwo, b"", &workers).unwrap().id())] += 1;
    }
    // Of the six pairs the idlest wins three, the next two, the next one.
    assert_eq!(counts[3], 0);
    for (count, expected) in counts.iter().zip([3000_i32, 2000, 1000]) {
        assert!((count - expected).abs() < 280, "{counts:?}");
    }
}

proptest! {
    #[test]
    fn power_of_two_never_takes_the_only_busiest(loads in prop::collection::vec(0..5_usize, 2..12), seed: u64) {
        fastrand::seed(seed);
        let workers = workers(loads.len() as WorkerId);
        let _busy: Vec<LoadGuard> =
            loads.iter().zip(&workers).flat_map(|(load, worker)| (0..*load).map(|_| worker.begin().unwrap())).collect();
        let chosen = choose(&PowerOfTwo, b"", &workers).unwrap().load();
        let busiest = *loads.iter().max().unwrap();
        let alone = loads.iter().filter(|load| **load == busiest).count() == 1;
        prop_assert!(!alone || chosen < busiest);
    }
}
