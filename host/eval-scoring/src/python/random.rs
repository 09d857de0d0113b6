//! `random`: the stream that `random.seed(n)` and `random.choice` give.
//!
//! The generator is the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998), seeded by its array method with the 32-bit
//! words of the seed; `choice` draws just enough bits and throws away what is out of range.

/// Words of the state.
const N: usize = 624;
/// Distance of the word that is mixed in.
const M: usize = 397;

/// The generator.
#[derive(Clone)]
pub struct Random {
    words: [u32; N],
    next: usize,
}

impl Random {
    /// `random.seed(seed)` of an integer.
    pub fn new(seed: u64) -> Self {
        let key: &[u32] = &[seed as u32, (seed >> 32) as u32];
        let key = if key[1] == 0 { &key[..1] } else { key };
        let mut words = [0u32; N];
        words[0] = 19_650_218;
        for i in 1..N {
            let before = words[i - 1];
            words[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        let mut i = 1;
        for step in 0..N.max(key.len()) {
            let j = step % key.len();
            let before = words[i - 1];
            let mixed = words[i] ^ (before ^ (before >> 30)).wrapping_mul(1_664_525);
            words[i] = mixed.wrapping_add(key[j]).wrapping_add(j as u32);
            i = Self::after(i, &mut words);
        }
        for _ in 1..N {
            let before = words[i - 1];
            words[i] = (words[i] ^ (before ^ (before >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i = Self::after(i, &mut words);
        }
        words[0] = 1 << 31;
        Self { words, next: N }
    }

    /// The next position of seeding; past the end, the last word becomes the first.
    fn after(i: usize, words: &mut [u32; N]) -> usize {
        if i + 1 < N {
            return i + 1;
        }
        words[0] = words[N - 1];
        1
    }

    fn refill(&mut self) {
        for i in 0..N {
            let joined = (self.words[i] & (1 << 31)) | (self.words[(i + 1) % N] & !(1 << 31));
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + M) % N] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// 32 bits.
    pub fn bits(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut word = self.words[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    /// A number below `bound`; 0 for the bound 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        if bound == 0 {
            return 0;
        }
        let wanted = 32 - bound.leading_zeros();
        loop {
            let drawn = self.bits() >> (32 - wanted);
            if drawn < bound {
                return drawn;
            }
        }
    }

    /// `random.choice(items)`.
    pub fn choice<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let bound = u32::try_from(items.len()).unwrap_or(u32::MAX);
        items.get(self.below(bound) as usize)
    }
}
