//! Picks the next token from a row of logits, on the host.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::GenerationConfig;

/// The picker of one sequence: its generator of random numbers and the tokens it has seen.
pub(crate) struct Picker {
    rng: ChaCha8Rng,
    seen: Vec<i64>,
}

impl Picker {
    pub(crate) fn new(config: &GenerationConfig, stream: u64, prompt: &[i64]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
        rng.set_stream(stream);
        let seen = if config.repetition_penalty == 1.0 { Vec::new() } else { prompt.to_vec() };
        Picker { rng, seen }
    }

    /// The next token of these logits: penalty, temperature, top-k, top-p, draw, in the order of `transformers`.
    pub(crate) fn pick(&mut self, logits: &mut [f32], config: &GenerationConfig) -> i64 {
        if config.repetition_penalty != 1.0 {
            self.penalise(logits, config.repetition_penalty as f32);
        }
        let token = if config.do_sample { self.draw(logits, config) } else { argmax(logits) };
        if config.repetition_penalty != 1.0 {
            self.seen.push(token);
        }
        token
    }

    fn penalise(&mut self, logits: &mut [f32], penalty: f32) {
        self.seen.sort_unstable();
        self.seen.dedup();
        for &token in &self.seen {
            if let Some(x) = usize::try_from(token).ok().and_then(|t| logits.get_mut(t)) {
                *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
            }
        }
    }

    fn draw(&mut self, logits: &[f32], config: &GenerationConfig) -> i64 {
        // Likeliest first; equal logits by token, so that the draw does not depend on the sort.
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let by = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if config.top_k > 0 && config.top_k < order.len() {
            order.select_nth_unstable_by(config.top_k - 1, by);
            order.truncate(config.top_k);
        }
        order.sort_unstable_by(by);
        let Some(&best) = order.first() else { return 0 };
        let top = f64::from(logits[best as usize]);
        let weights: Vec<f64> =
            order.iter().map(|&t| ((f64::from(logits[t as usize]) - top) / config.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut kept = 0.0;
        let mut n = 0;
        while n < weights.len() && (n == 0 || kept < config.top_p * total) {
            kept += weights[n];
            n += 1;
        }
        let mut at = self.rng.random::<f64>() * kept;
        for (&token, weight) in order[..n].iter().zip(&weights) {
            at -= weight;
            if at < 0.0 {
                return i64::from(token);
            }
        }
        i64::from(order[n - 1])
    }
}

fn argmax(logits: &[f32]) -> i64 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(i, _)| i as i64)
}

#[cfg(test)]
mod tests {
    use super::Picker;
    use crate::GenerationConfig;

    const LOGITS: [f32; 5] = [0.0, 2.0, 1.0, -1.0, 2.5];

    fn counts(config: &GenerationConfig) -> [u32; 5] {
        let mut picker = Picker::new(config, 3, &[]);
        let mut counts = [0; 5];
        for _ in 0..20_000 {
            counts[picker.pick(&mut LOGITS.clone(), config) as usize] += 1;
        }
        counts
    }

    fn config() -> GenerationConfig {
        GenerationConfig { do_sample: true, top_k: 0, seed: 1, ..Default::default() }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let total: f64 = LOGITS.iter().map(|x| f64::from(*x / 0.7).exp()).sum();
        for (got, x) in counts(&GenerationConfig { temperature: 0.7, ..config() }).iter().zip(LOGITS) {
            let want = f64::from(x / 0.7).exp() / total;
            assert!((f64::from(*got) / 20_000.0 - want).abs() < 0.02, "{got} {want}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut() {
        let only = |c: GenerationConfig| counts(&c).map(|n| n > 0);
        assert_eq!(only(GenerationConfig { top_k: 2, ..config() }), [false, true, false, false, true]);
        assert_eq!(only(GenerationConfig { top_k: 1, ..config() }), [false, false, false, false, true]);
        assert_eq!(only(GenerationConfig { top_p: 0.1, ..config() }), [false, false, false, false, true]);
        // exp: 2.5 has 0.50, 2.0 has 0.30, 1.0 has 0.11.
        assert_eq!(only(GenerationConfig { top_p: 0.75, ..config() }), [false, true, false, false, true]);
    }

    #[test]
    fn greedy_and_penalty() {
        let greedy = GenerationConfig::default();
        assert_eq!(Picker::new(&greedy, 0, &[]).pick(&mut LOGITS.clone(), &greedy), 4);
        let penalty = GenerationConfig { repetition_penalty: 2.0, ..Default::default() };
        let mut picker = Picker::new(&penalty, 0, &[4]);
        assert_eq!(picker.pick(&mut LOGITS.clone(), &penalty), 1);
        assert_eq!(picker.pick(&mut LOGITS.clone(), &penalty), 4, "1.25 after 4, 1.0 after 1");
    }
}
