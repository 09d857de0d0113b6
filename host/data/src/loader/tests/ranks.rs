//! Several ranks, changes of their number, mixes: every sample as often as an epoch promises, whatever happens.

use proptest::prelude::*;

use super::*;
use crate::blend::Mixing;
use crate::pipeline::{Mix, MixPart};

/// Sources of samples without pictures, each of a few shards.
struct Mixed(Memory, Mix);

impl SampleSource for Mixed {
    fn shards(&self) -> Vec<(String, u64)> {
        self.0.shards()
    }
    fn record(&self, shard: u32, index: u64) -> Result<Record, Reject> {
        self.0.record(shard, index)
    }
    fn mix(&self) -> Mix {
        self.1.clone()
    }
}

/// Sources by their shards' sizes and their shares. Sample j of source i has the key `i-j`; every ninth is dropped by a
/// filter, every eleventh cannot be read.
fn mixed(mixing: Mixing, sources: &[(Vec<u64>, f64)]) -> Mixed {
    let mut shards = Vec::new();
    for (i, (sizes, _)) in sources.iter().enumerate() {
        let mut number = 0_u64;
        for size in sizes {
            let sample = |j: u64| {
                let key = format!("{i}-{j}");
                if j % 11 == 10 {
                    return Err(Reject { key, shard: "s".into(), stage: "read", reason: "unreadable".into() });
                }
                let score = if j % 9 == 8 { 0.0 } else { 1.0 };
                let fields =
                    json!({"question": "What?".repeat(1 + j as usize % 4), "answer": format!("{j}"), "score": score});
                Ok(Record { key, ..record(j, fields, None) })
            };
            shards.push((number..number + size).map(sample).collect());
            number += size;
        }
    }
    let part = |(sizes, share): &(Vec<u64>, f64)| MixPart { name: "p".into(), shards: sizes.len(), share: *share };
    Mixed(Memory(shards), Mix { mixing, parts: sources.iter().map(part).collect() })
}

fn stages() -> &'static LoaderParts {
    static PARTS: std::sync::OnceLock<LoaderParts> = std::sync::OnceLock::new();
    PARTS.get_or_init(|| parts(Memory(Vec::new())))
}

fn rank_parts(source: &Arc<Mixed>, rank: u32, world: u32) -> LoaderParts {
    let source: Arc<dyn SampleSource> = source.clone();
    LoaderParts { source, rank, world, ..stages().clone() }
}

/// Keys of what came out: delivered, filtered or rejected.
fn keys(batch: &MicroBatch) -> impl Iterator<Item = String> {
    batch.keys.iter().cloned().chain(batch.rejects.iter().map(|r| r.key.clone())).collect::<Vec<_>>().into_iter()
}

/// Runs `world` ranks until each has delivered `stop(rank)` batches, or to the end of the data where there is no stop.
/// Adds what came out to `seen` and returns the states.
fn run(
    config: &DataConfig,
    source: &Arc<Mixed>,
    world: u32,
    states: &[LoaderState],
    stop: Option<&[usize]>,
    seen: &mut Vec<String>,
) -> Vec<LoaderState> {
    let mut after = Vec::new();
    for rank in 0..world {
        let parts = rank_parts(source, rank, world);
        let mut loader = match states {
            [] => Loader::start(config, parts).unwrap(),
            states => Loader::resume_all(config, parts, states).unwrap(),
        };
        let most = stop.map_or(usize::MAX, |stop| stop[rank as usize % stop.len()]);
        let mut ended = false;
        for _ in 0..most {
            match loader.next().unwrap() {
                Some(batch) => seen.extend(keys(&batch)),
                None => {
                    ended = true;
                    break;
                }
            }
        }
        // Whoever saves a checkpoint has written the rejects of its batches; those behind them will come again.
        if ended {
            seen.extend(loader.take_rejects().into_iter().map(|r| r.key));
        }
        after.push(loader.state().clone());
    }
    after
}

fn tally(keys: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    keys.iter().for_each(|key| *counts.entry(key.as_str()).or_default() += 1);
    counts
}

fn text_config(window: usize, workers: usize) -> DataConfig {
    DataConfig { shuffle_buffer: window, workers, capacity: 120, packs_per_batch: 1, max_reject_rate: 1.0, ..config() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_or_seen_twice_when_the_ranks_change(
        sources in prop::collection::vec((prop::collection::vec(0_u64..60, 1..4), 1_u32..3), 1..4),
        worlds in prop::collection::vec(1_u32..5, 1..4),
        stops in prop::collection::vec(prop::collection::vec(0_usize..8, 1..5), 3),
        window in prop::sample::select(vec![0_usize, 1, 7, 200]),
        workers in 1_usize..3,
    ) {
        let sources: Vec<(Vec<u64>, f64)> = sources.into_iter().map(|(mut sizes, r)| {
            sizes[0] += 20;
            (sizes, f64::from(r))
        }).collect();
        let source = Arc::new(mixed(Mixing::Repetitions, &sources));
        let config = text_config(window, workers);
        let (mut states, mut seen) = (Vec::new(), Vec::new());
        for (i, world) in worlds.iter().enumerate() {
            let last = i + 1 == worlds.len();
            states = run(&config, &source, *world, &states, (!last).then_some(&stops[i][..]), &mut seen);
        }
        let tally = tally(&seen);
        for (i, (sizes, repetitions)) in sources.iter().enumerate() {
            for j in 0..sizes.iter().sum::<u64>() {
                let key = format!("{i}-{j}");
                let times = tally.get(key.as_str()).copied().unwrap_or(0);
                prop_assert_eq!(times, 2 * *repetitions as usize, "sample {} in {} epochs", key, 2);
            }
        }
        let mut all = Counters::default();
        states.iter().for_each(|s| all.add(&s.counters));
        prop_assert_eq!(all.read, seen.len() as u64);
        prop_assert_eq!(all.read, all.samples + all.rejected_total() + all.filtered_total());
    }

    #[test]
    fn the_same_ranks_go_on_bit_for_bit(
        sources in prop::collection::vec((20_u64..90, 1_u32..5), 1..4),
        mixing in prop::sample::select(vec![Mixing::Weights, Mixing::Repetitions]),
        world in 1_u32..4,
        kill in 0_usize..12,
        window in prop::sample::select(vec![0_usize, 5, 300]),
        workers in 1_usize..4,
    ) {
        let sources: Vec<(Vec<u64>, f64)> = sources.into_iter().map(|(n, share)| (vec![n, n / 2], f64::from(share))).collect();
        let source = Arc::new(mixed(mixing, &sources));
        let config = text_config(window, 2);
        // The states that the ranks had after the kill, and what came after it without one.
        let mut whole = Vec::new();
        let mut states = Vec::new();
        for rank in 0..world {
            let mut loader = Loader::start(&config, rank_parts(&source, rank, world)).unwrap();
            let mut state = loader.state().clone();
            let mut rest = Vec::new();
            for n in 0.. {
                let Some(batch) = loader.next().unwrap() else { break };
                if n < kill { state = batch.state.clone() } else { rest.push(batch) }
            }
            states.push(serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap());
            whole.push((rest, loader.take_rejects(), loader.counters().clone()));
        }
        for (rank, expected) in whole.iter().enumerate() {
            let parts = rank_parts(&source, rank as u32, world);
            let got = all(Loader::resume_all(&text_config(window, workers), parts, &states).unwrap());
            prop_assert_eq!(got.0.len(), expected.0.len());
            got.0.iter().zip(&expected.0).for_each(|(a, b)| same(a, b));
            prop_assert_eq!((&got.1, &got.2), (&expected.1, &expected.2));
        }
    }
}

#[test]
fn a_run_goes_on_exactly_after_a_change_of_ranks_too() {
    let source = Arc::new(mixed(Mixing::Repetitions, &[(vec![150, 30], 1.0), (vec![40], 2.0)]));
    let config = text_config(25, 2);
    let mut seen = Vec::new();
    let states = run(&config, &source, 3, &[], Some(&[2, 5, 3]), &mut seen);
    // Two ranks from three; the whole of it, then killed after every batch.
    for rank in 0..2 {
        let parts = rank_parts(&source, rank, 2);
        let whole = all(Loader::resume_all(&config, parts.clone(), &states).unwrap());
        assert!(whole.0.len() > 10);
        for (i, batch) in whole.0.iter().enumerate() {
            let rest = all(Loader::resume(&config, parts.clone(), batch.state.clone()).unwrap());
            assert_eq!(rest.0.len(), whole.0.len() - i - 1);
            whole.0[i + 1..].iter().zip(&rest.0).for_each(|(a, b)| same(a, b));
            assert_eq!((&rest.1, &rest.2), (&whole.1, &whole.2));
        }
        let last = &whole.0.last().unwrap().state;
        assert!(last.rebase.is_none(), "an epoch later nothing is to be remembered of it");
    }
}

#[test]
fn weights_give_their_shares_to_every_rank_and_thread() {
    let source = Arc::new(mixed(Mixing::Weights, &[(vec![200], 0.75), (vec![20, 20], 0.25)]));
    let (mut one, mut many) = (Vec::new(), Vec::new());
    run(&text_config(50, 1), &source, 1, &[], None, &mut one);
    run(&text_config(50, 3), &source, 3, &[], None, &mut many);
    let second = |keys: &[String]| keys.iter().filter(|k| k.starts_with("1-")).count();
    assert_eq!((one.len(), second(&one)), (480, 120), "two epochs of 240, a quarter of them the second source's");
    assert_eq!(tally(&one), tally(&many));
}

#[test]
fn states_that_do_not_belong_together_are_refused() {
    let source = Arc::new(mixed(Mixing::Repetitions, &[(vec![3000], 1.0)]));
    let config = text_config(10, 1);
    let states = run(&config, &source, 2, &[], Some(&[2]), &mut Vec::new());
    let says = |config: &DataConfig, world: u32, states: &[LoaderState], words: &str| {
        let error = Loader::resume_all(config, rank_parts(&source, 0, world), states).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    };
    says(&config, 3, &states[..1], "0 of 2; give the state of every rank");
    says(&config, 3, &[states[0].clone(), states[0].clone()], "each once");
    says(&config, 3, &[], "no data state");
    says(&DataConfig { shuffle_buffer: 11, ..config.clone() }, 3, &states, "data.shuffle_buffer was 10");
    let other = Arc::new(mixed(Mixing::Repetitions, &[(vec![3000], 2.0)]));
    let error = Loader::resume_all(&config, rank_parts(&other, 0, 2), &states).err().unwrap().to_string();
    assert!(error.contains("data.train was") && error.contains("mixed by repetitions"), "{error}");
    // Three ranks from two, then one of them of another moment.
    let three: Vec<LoaderState> = run(&config, &source, 3, &states, Some(&[1]), &mut Vec::new());
    let later = run(&config, &source, 2, &states, Some(&[1]), &mut Vec::new());
    let mut apart = run(&config, &source, 3, &later, Some(&[1]), &mut Vec::new());
    apart[1] = three[1].clone();
    says(&config, 4, &apart, "different checkpoints");
}
