//! Keys and values of sequences that are being generated. Sequences of any length join at any time and leave at any time.
//!
//! ```text
//!  pool of  512   [a a a . . .][c c c c . .]               per layer one buffer `[slots, capacity, key heads, head width]`
//!  pool of 2048   [b b b b b b b b b b b b b . . . . .]    for keys and one for values
//! ```
//! A sequence has a slot in the pool of its capacity (a power of two) and moves to the next pool when it has outgrown it, so
//! a long sequence costs the short ones neither memory nor time: attention runs once per pool, and there no row is padded to
//! more than about twice its length. The slots in use are always the first of a pool: the last one moves into the place of a
//! sequence that left. Pools grow and shrink with what is in them, so that memory is bounded by what runs at once.
//!
//! Two orders: callers see sequences as they came (`rows`); a pass computes them pool by pool and slot by slot.

use tch::{Device, Kind, Tensor};

use crate::error::{ModelError, Result};

/// What a model's keys and values look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Layout {
    pub(crate) layers: usize,
    pub(crate) heads: i64,
    pub(crate) width: i64,
    pub(crate) options: (Kind, Device),
}

/// Where a sequence is.
#[derive(Debug, Clone, Copy)]
struct Row {
    /// Names the pool.
    capacity: i64,
    slot: i64,
}

/// Slots of one capacity.
#[derive(Debug)]
struct Pool {
    capacity: i64,
    slots: i64,
    /// Slots in use: the first ones.
    used: i64,
    layers: Vec<[Tensor; 2]>,
}

/// One new token of every running sequence of a pool.
#[derive(Debug)]
struct Step {
    capacity: i64,
    count: i64,
    longest: i64,
    /// i64 `[count]`: rows of the flattened `[slots · capacity]` buffer.
    at: Tensor,
    /// Additive `[count, 1, 1, longest]`; none where all are equally long.
    mask: Option<Tensor>,
}

/// A prompt of a pass.
#[derive(Debug)]
struct New {
    row: Row,
    /// First token of it in the pass.
    from: i64,
    len: i64,
}

/// What a pass needs to know beforehand.
#[derive(Debug)]
pub(crate) struct Pass {
    /// Running sequences in the order in which the pass computes them.
    pub(crate) order: Vec<usize>,
    /// Position of the new token of each, in that order.
    pub(crate) positions: Vec<i64>,
}

/// Keys and values of sequences in generation; made by [`KvCache::new`], filled and extended by
/// [`LlavaOnevision::advance`](crate::LlavaOnevision::advance).
#[derive(Debug)]
pub struct KvCache {
    reserve: i64,
    layout: Option<Layout>,
    /// By capacity.
    pools: Vec<Pool>,
    rows: Vec<Row>,
    lens: Vec<i64>,
    steps: Vec<Step>,
    new: Vec<New>,
}

impl Pool {
    fn new(capacity: i64, slots: i64, layout: &Layout) -> Result<Self> {
        let mut pool = Pool { capacity, slots: 0, used: 0, layers: Vec::new() };
        pool.resize(slots, layout)?;
        Ok(pool)
    }

    /// Gives it so many slots; those in use must fit.
    fn resize(&mut self, slots: i64, layout: &Layout) -> Result<()> {
        let shape = [slots, self.capacity, layout.heads, layout.width];
        let buffer = || Tensor::f_empty(shape, layout.options);
        if self.layers.is_empty() {
            self.layers = (0..layout.layers).map(|_| Ok([buffer()?, buffer()?])).collect::<Result<_>>()?;
        } else {
            // One buffer after the other: only one exists twice.
            for old in self.layers.iter_mut().flatten() {
                let new = buffer()?;
                new.f_narrow(0, 0, self.used)?.f_copy_(&old.f_narrow(0, 0, self.used)?)?;
                *old = new;
            }
        }
        self.slots = slots;
        Ok(())
    }

    /// Makes room for one more, of `coming` that come at once.
    fn take(&mut self, coming: i64, layout: &Layout) -> Result<i64> {
        if self.used == self.slots {
            self.resize((self.slots + self.slots / 2).max(self.used + coming.max(1)), layout)?;
        }
        self.used += 1;
        Ok(self.used - 1)
    }

    /// Tokens from `len` of a slot become zeros. What a mask hides is multiplied by zero, so it must be finite: nothing of the
    /// slot's last sequence may stay.
    fn clean(&self, slot: i64, len: i64, buffer: &Tensor) -> Result<()> {
        let _ = buffer.f_select(0, slot)?.f_narrow(0, len, self.capacity - len)?.f_zero_()?;
        Ok(())
    }
}

impl KvCache {
    /// An empty cache. `reserve`: tokens per sequence beyond the prompt to make room for at once.
    pub fn new(reserve: usize) -> Self {
        KvCache {
            reserve: reserve.max(1) as i64,
            layout: None,
            pools: Vec::new(),
            rows: Vec::new(),
            lens: Vec::new(),
            steps: Vec::new(),
            new: Vec::new(),
        }
    }

    /// Tokens that each sequence holds.
    pub fn lens(&self) -> &[i64] {
        &self.lens
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.lens.len()
    }

    /// Bytes that keys and values take, room for more included.
    pub fn bytes(&self) -> u64 {
        let tokens: i64 = self.pools.iter().map(|p| p.slots * p.capacity).sum();
        self.layout.map_or(0, |l| {
            let value = l.options.0.elt_size_in_bytes() as i64;
            (2 * l.layers as i64 * tokens * l.heads * l.width * value) as u64
        })
    }

    fn pool(&self, capacity: i64) -> Result<usize> {
        let found = self.pools.binary_search_by_key(&capacity, |p| p.capacity);
        found.map_err(|_| ModelError::Input(format!("the cache has no pool of {capacity} tokens")))
    }

    /// A slot in the pool of this capacity, of `coming` that are wanted at once.
    fn slot(&mut self, capacity: i64, coming: i64, layout: &Layout) -> Result<Row> {
        let at = match self.pools.binary_search_by_key(&capacity, |p| p.capacity) {
            Ok(at) => at,
            Err(at) => {
                self.pools.insert(at, Pool::new(capacity, coming.max(1), layout)?);
                at
            }
        };
        Ok(Row { capacity, slot: self.pools[at].take(coming, layout)? })
    }

    /// Gives a slot back: the pool's last sequence moves into it.
    fn free(&mut self, row: Row) -> Result<()> {
        let at = self.pool(row.capacity)?;
        let pool = &mut self.pools[at];
        pool.used -= 1;
        let last = pool.used;
        if last != row.slot {
            for buffer in pool.layers.iter().flatten() {
                // With its zeros.
                buffer.f_select(0, row.slot)?.f_copy_(&buffer.f_select(0, last)?)?;
            }
            if let Some(moved) = self.rows.iter_mut().find(|r| r.capacity == row.capacity && r.slot == last) {
                moved.slot = row.slot;
            }
        }
        Ok(())
    }

    /// Gives memory back that nobody has used for a while.
    fn shrink(&mut self) -> Result<()> {
        self.pools.retain(|p| p.used > 0);
        let Some(layout) = self.layout else { return Ok(()) };
        for pool in self.pools.iter_mut().filter(|p| p.used * 3 <= p.slots) {
            pool.resize(pool.used + pool.used / 2, &layout)?;
        }
        Ok(())
    }

    /// Makes place for one more token of every sequence, and then for prompts with these bounds, which become sequences.
    pub(crate) fn begin(&mut self, cu_seqlens: &[i32], layout: Layout) -> Result<Pass> {
        if self.layout.replace(layout).is_some_and(|l| l != layout) {
            return Err(ModelError::Input("the cache belongs to another model".into()));
        }
        self.grow(&layout)?;
        let mut order: Vec<usize> = (0..self.rows.len()).collect();
        order.sort_unstable_by_key(|&r| (self.rows[r].capacity, self.rows[r].slot));
        let positions: Vec<i64> = order.iter().map(|&r| self.lens[r]).collect();
        self.steps.clear();
        for run in order.chunk_by(|&a, &b| self.rows[a].capacity == self.rows[b].capacity) {
            let at = self.pool(self.rows[run[0]].capacity)?;
            self.steps.push(self.step(at, run, layout.options)?);
        }
        for len in &mut self.lens {
            *len += 1;
        }
        self.join(cu_seqlens, &layout)?;
        Ok(Pass { order, positions })
    }

    /// Moves every sequence that is full to a pool of twice the capacity.
    fn grow(&mut self, layout: &Layout) -> Result<()> {
        for r in 0..self.rows.len() {
            let (old, len) = (self.rows[r], self.lens[r]);
            if len < old.capacity {
                continue;
            }
            let new = self.slot(old.capacity.saturating_mul(2), 1, layout)?;
            let (from, to) = (&self.pools[self.pool(old.capacity)?], &self.pools[self.pool(new.capacity)?]);
            for (source, target) in from.layers.iter().flatten().zip(to.layers.iter().flatten()) {
                let source = source.f_select(0, old.slot)?.f_narrow(0, 0, len)?;
                target.f_select(0, new.slot)?.f_narrow(0, 0, len)?.f_copy_(&source)?;
                to.clean(new.slot, len, target)?;
            }
            self.rows[r] = new;
            self.free(old)?;
        }
        self.shrink()
    }

    fn step(&self, pool: usize, run: &[usize], options: (Kind, Device)) -> Result<Step> {
        let pool = &self.pools[pool];
        let lens: Vec<i64> = run.iter().map(|&r| self.lens[r]).collect();
        let (count, longest) = (run.len() as i64, lens.iter().max().copied().unwrap_or(0) + 1);
        let at: Vec<i64> = run.iter().zip(&lens).map(|(&r, len)| self.rows[r].slot * pool.capacity + len).collect();
        let mask = if lens.iter().all(|len| len + 1 == longest) {
            None
        } else {
            let last = Tensor::f_from_slice(&lens)?.f_to_device(options.1)?.f_unsqueeze(1)?;
            let hidden = Tensor::f_arange(longest, (Kind::Int64, options.1))?.f_unsqueeze(0)?.f_gt_tensor(&last)?;
            let zero = Tensor::f_zeros(hidden.size(), options)?;
            Some(zero.f_masked_fill(&hidden, f64::NEG_INFINITY)?.f_view([count, 1, 1, longest])?)
        };
        let at = Tensor::f_from_slice(&at)?.f_to_device(options.1)?;
        Ok(Step { capacity: pool.capacity, count, longest, at, mask })
    }

    fn join(&mut self, cu_seqlens: &[i32], layout: &Layout) -> Result<()> {
        let capacity = |len: i64| ((len + self.reserve) as u64).next_power_of_two() as i64;
        let bounds: Vec<(i64, i64)> =
            cu_seqlens.windows(2).map(|w| (i64::from(w[0]), i64::from(w[1]) - i64::from(w[0]))).collect();
        let wanted: Vec<i64> = bounds.iter().map(|&(_, len)| capacity(len)).collect();
        self.new.clear();
        for (i, ((from, len), &capacity)) in bounds.into_iter().zip(&wanted).enumerate() {
            let coming = wanted[i..].iter().filter(|&&c| c == capacity).count() as i64;
            let row = self.slot(capacity, coming, layout)?;
            self.rows.push(row);
            self.lens.push(len);
            self.new.push(New { row, from, len });
        }
        Ok(())
    }

    /// Writes keys and values `[tokens, heads, width]` of this pass: first those of the running sequences, then the prompts'.
    pub(crate) fn write(&mut self, layer: usize, k: &Tensor, v: &Tensor) -> Result<()> {
        let mut from = 0;
        for step in &self.steps {
            let pool = &self.pools[self.pool(step.capacity)?];
            for (buffer, new) in pool.layers[layer].iter().zip([k, v]) {
                let mut flat = buffer.f_flatten(0, 1)?;
                let _ = flat.f_index_copy_(0, &step.at, &new.f_narrow(0, from, step.count)?)?;
            }
            from += step.count;
        }
        for New { row, from: start, len } in &self.new {
            let pool = &self.pools[self.pool(row.capacity)?];
            for (buffer, new) in pool.layers[layer].iter().zip([k, v]) {
                let slot = buffer.f_select(0, row.slot)?;
                slot.f_narrow(0, 0, *len)?.f_copy_(&new.f_narrow(0, from + start, *len)?)?;
                pool.clean(row.slot, *len, buffer)?;
            }
        }
        Ok(())
    }

    /// Attention of the running sequences' new tokens, `q [B, heads, width]`, to everything cached for each: `[B, heads, width]`.
    pub(crate) fn attend(&self, layer: usize, q: &Tensor, scale: f64) -> Result<Tensor> {
        let (mut from, mut out) = (0, Vec::with_capacity(self.steps.len()));
        for step in &self.steps {
            let pool = &self.pools[self.pool(step.capacity)?];
            let part = |x: &Tensor| -> Result<Tensor> {
                Ok(x.f_narrow(0, 0, step.count)?.f_narrow(1, 0, step.longest)?.f_transpose(1, 2)?)
            };
            let (k, v) = (part(&pool.layers[layer][0])?, part(&pool.layers[layer][1])?);
            let q = q.f_narrow(0, from, step.count)?;
            let (s, shared) = (q.size(), k.size()[1]);
            // Query heads that share a key head become rows of one query: no key is repeated.
            let grouped = q.f_view([s[0], shared, s[1] / shared, s[2]])?;
            let mask = step.mask.as_ref();
            let attended = Tensor::f_scaled_dot_product_attention(&grouped, &k, &v, mask, 0.0, false, scale, false)?;
            out.push(attended.f_reshape([s[0], s[1], s[2]])?);
            from += step.count;
        }
        if out.len() == 1 { Ok(out.remove(0)) } else { Ok(Tensor::f_cat(&out, 0)?) }
    }

    /// Keeps these sequences, in this order, and drops the others.
    ///
    /// # Errors
    /// A row that does not exist or is named twice, or what libtorch throws.
    pub fn keep(&mut self, rows: &[usize]) -> Result<()> {
        let mut kept = vec![false; self.rows.len()];
        for &row in rows {
            match kept.get_mut(row) {
                Some(kept) if !*kept => *kept = true,
                Some(_) => return Err(ModelError::Input(format!("row {row} of the cache is named twice"))),
                None => {
                    return Err(ModelError::Input(format!("row {row} of a cache of {} sequences", self.rows.len())));
                }
            }
        }
        let mut gone: Vec<usize> = (0..self.rows.len()).filter(|&r| !kept[r]).collect();
        // The last slots first, so that none moves that leaves afterwards.
        gone.sort_unstable_by_key(|&r| std::cmp::Reverse(self.rows[r].slot));
        for row in gone {
            self.free(self.rows[row])?;
            self.rows[row].slot = -1;
        }
        self.rows = rows.iter().map(|&r| self.rows[r]).collect();
        self.lens = rows.iter().map(|&r| self.lens[r]).collect();
        self.steps.clear();
        self.new.clear();
        self.shrink()
    }
}

#[cfg(test)]
mod tests {
    use super::{KvCache, Layout};
    use tch::{Device, Kind, Tensor};

    const LAYOUT: Layout = Layout { layers: 2, heads: 2, width: 4, options: (Kind::Float, Device::Cpu) };

    /// Keys or values of one token sequence, per layer `[tokens, heads, width]`.
    type Shadow = Vec<[Tensor; 2]>;

    fn draw(tokens: i64) -> Tensor {
        Tensor::randn([tokens, 2, 4], (Kind::Float, Device::Cpu))
    }

    /// A pass over the cache and over the shadows, and the largest difference of what the running sequences attend to.
    fn pass(cache: &mut KvCache, shadows: &mut Vec<Shadow>, lens: &[i64]) -> f64 {
        let mut cu = vec![0i32];
        for len in lens {
            cu.push(cu[cu.len() - 1] + *len as i32);
        }
        let running = shadows.len() as i64;
        let pass = cache.begin(&cu, LAYOUT).unwrap();
        let mut order = pass.order.clone();
        order.sort_unstable();
        assert_eq!(order, (0..shadows.len()).collect::<Vec<_>>());
        shadows.extend(lens.iter().map(|_| (0..2).map(|_| [draw(0), draw(0)]).collect()));
        let mut worst = 0f64;
        #[allow(
            clippy::needless_range_loop,
            reason = "the layer is the cache's, too; the shadows' rows change with `at`"
        )]
        for layer in 0..2 {
            let new = [draw(running + i64::from(cu[cu.len() - 1])), draw(running + i64::from(cu[cu.len() - 1]))];
            cache.write(layer, &new[0], &new[1]).unwrap();
            for (at, &row) in pass.order.iter().enumerate() {
                assert_eq!(pass.positions[at], shadows[row][layer][0].size()[0]);
                for (old, new) in shadows[row][layer].iter_mut().zip(&new) {
                    *old = Tensor::cat(&[&*old, &new.narrow(0, at as i64, 1)], 0);
                }
            }
            for (i, len) in lens.iter().enumerate() {
                let row = running as usize + i;
                shadows[row][layer] = [0, 1].map(|x: usize| new[x].narrow(0, running + i64::from(cu[i]), *len));
            }
            if running == 0 {
                continue;
            }
            // Four query heads on two key heads.
            let q = Tensor::randn([running, 4, 4], LAYOUT.options);
            let got = cache.attend(layer, &q, 0.5).unwrap();
            for (at, &row) in pass.order.iter().enumerate() {
                for head in 0..4 {
                    let [k, v] = [0, 1].map(|x: usize| shadows[row][layer][x].select(1, head / 2));
                    let weights = (k.matmul(&q.get(at as i64).get(head)) * 0.5).softmax(0, Kind::Float);
                    let want = weights.unsqueeze(0).matmul(&v).squeeze();
                    worst = worst.max((got.get(at as i64).get(head) - want).abs().max().double_value(&[]));
                }
            }
        }
        assert_eq!(cache.lens(), shadows.iter().map(|s| s[0][0].size()[0]).collect::<Vec<_>>());
        worst
    }

    /// Small numbers that look random.
    fn dice(state: &mut u64, sides: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % sides
    }

    #[test]
    fn whoever_joins_and_leaves_each_sees_its_own() {
        let (mut cache, mut shadows, mut state) = (KvCache::new(2), Vec::<Shadow>::new(), 7);
        let mut most = 0;
        for round in 0..120 {
            let joining = if shadows.len() < 9 { dice(&mut state, 4) } else { 0 };
            let joining = if shadows.is_empty() { joining + 1 } else { joining };
            let lens: Vec<i64> = (0..joining).map(|_| 1 + dice(&mut state, 40) as i64).collect();
            let worst = pass(&mut cache, &mut shadows, &lens);
            assert!(worst < 1e-5, "round {round}: {worst}");
            let mut keep: Vec<usize> = (0..shadows.len()).filter(|_| dice(&mut state, 8) > 0).collect();
            if !keep.is_empty() && dice(&mut state, 3) == 0 {
                keep.rotate_left(1);
            }
            cache.keep(&keep).unwrap();
            shadows = keep.iter().map(|&r| shadows[r].iter().map(|p| [p[0].copy(), p[1].copy()]).collect()).collect();
            most = most.max(cache.bytes());
        }
        // Twelve sequences of at most 128 tokens, and three slots for one in use.
        assert!(most <= 2 * 2 * 2 * 4 * 4 * 12 * 3 * 128, "{most}");
        cache.keep(&[]).unwrap();
        assert_eq!((cache.bytes(), cache.batch()), (0, 0));
    }

    #[test]
    fn nothing_of_a_broken_sequence_stays() {
        let nan = Tensor::full([20, 2, 4], f64::NAN, LAYOUT.options);
        // The pool stays because of the sequence beside it, and a shorter one takes the slot.
        let (mut cache, mut shadows) = (KvCache::new(16), Vec::new());
        pass(&mut cache, &mut shadows, &[17]);
        let pass_nan = cache.begin(&[0, 20], LAYOUT).unwrap();
        assert_eq!(pass_nan.order, [0]);
        for (layer, shadow) in shadows[0].iter_mut().enumerate() {
            let own = [draw(1), draw(1)];
            let both = own.each_ref().map(|own| Tensor::cat(&[own, &nan], 0));
            cache.write(layer, &both[0], &both[1]).unwrap();
            for (old, new) in shadow.iter_mut().zip(&own) {
                *old = Tensor::cat(&[&*old, new], 0);
            }
        }
        cache.keep(&[0]).unwrap();
        pass(&mut cache, &mut shadows, &[18]);
        for _ in 0..3 {
            assert!(pass(&mut cache, &mut shadows, &[]) < 1e-5);
        }
    }

    #[test]
    fn rows_that_do_not_exist_are_refused() {
        let mut cache = KvCache::new(1);
        cache.begin(&[0, 3, 5], LAYOUT).unwrap();
        assert!(cache.keep(&[2]).unwrap_err().to_string().contains("row 2 of a cache of 2"));
        assert!(cache.keep(&[1, 1]).unwrap_err().to_string().contains("twice"));
        let other = Layout { layers: 3, ..LAYOUT };
        assert!(cache.begin(&[], other).unwrap_err().to_string().contains("another model"));
    }
}
