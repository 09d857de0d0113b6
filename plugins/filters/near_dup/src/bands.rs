//! How many hashes make a band: a similarity in, the shape of the index and its chances out.

/// The signature is cut into `bands` bands of `rows` hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bands, each of which can find a pair.
    pub bands: u32,
    /// Hashes of a band, all of which must agree.
    pub rows: u32,
}

impl Shape {
    /// Hashes in all. Of any two numbers, also where `usize` has 32 bits.
    pub fn hashes(self) -> u64 {
        u64::from(self.bands) * u64::from(self.rows)
    }

    /// Probability that two texts of that Jaccard similarity share a band: 1 − (1 − sʳ)ᵇ (Leskovec, Rajaraman, Ullman,
    /// "Mining of Massive Datasets", section 3.4.2).
    pub fn chance(self, similarity: f64) -> f64 {
        // By multiplication: powers differ between machines, products do not.
        let power = |base: f64, times: u32| (0..times).fold(1.0, |product, _| product * base);
        1.0 - power(1.0 - power(similarity, self.rows), self.bands)
    }

    /// The shape of at most `permutations` hashes with the most rows a band, which finds the fewest pairs below
    /// `threshold`, that still finds a pair at it with a probability of at least `recall`. None if no shape does.
    pub fn derive(threshold: f64, permutations: u32, recall: f64) -> Option<Self> {
        let shapes = (1..=permutations).rev().map(|rows| Self { bands: permutations / rows, rows });
        shapes.into_iter().find(|shape| shape.chance(threshold) >= recall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_shape_comes_out_at_the_usual_threshold() {
        assert_eq!(Shape::derive(0.8, 112, 0.9), Some(Shape { bands: 14, rows: 8 }));
        assert_eq!(Shape::derive(1.0, 112, 0.9), Some(Shape { bands: 1, rows: 112 }));
        assert_eq!(Shape::derive(0.1, 4, 0.9), None);
        let wide = Shape::derive(0.5, 112, 0.9).unwrap();
        assert!(wide.chance(0.5) >= 0.9 && wide.rows < 8 && wide.hashes() <= 112, "{wide:?}");
    }

    #[test]
    fn chances_are_those_of_the_formula() {
        let shape = Shape { bands: 14, rows: 8 };
        for (similarity, want) in [(0.5, 0.053), (0.6, 0.211), (0.7, 0.565), (0.75, 0.772), (0.8, 0.924), (0.9, 0.9996)]
        {
            assert!((shape.chance(similarity) - want).abs() < 1e-3, "{similarity}: {}", shape.chance(similarity));
        }
        assert_eq!((shape.chance(0.0), shape.chance(1.0)), (0.0, 1.0));
    }
}
