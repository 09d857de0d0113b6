//! Concepts as vectors: a safetensors file in; of an embedding, the nearest concepts by cosine out.

use ovhost_sdk::prelude::*;
use safetensors::{Dtype, SafeTensors};
use twox_hash::XxHash3_128;

/// Sums that run side by side: enough for a processor's pipeline, and a fixed order of additions on every machine.
const LANES: usize = 8;

/// Vectors of length 1.
#[derive(Debug)]
pub struct Table {
    /// `[concepts, width]`
    values_cd: Vec<f32>,
    width: usize,
    nearest: usize,
    identity: u128,
    /// Reused for every row: (similarity, concept), best first.
    best: Vec<(f32, u32)>,
    /// Reused for the rows that have to be scaled.
    scaled: Vec<f32>,
}

/// Largest values of vectors that are compared as they are: their products and sums are far from the ends of `f32`.
const PLAIN: std::ops::RangeInclusive<f32> = 1e-15..=1e15;

impl Table {
    /// Reads the tensor `concepts`, `[n, d]` of F32, F16 or BF16, of which a row's `nearest` (at most n) are looked for.
    ///
    /// # Errors
    /// The file is no safetensors file, or the tensor is missing, has another shape or type, or has a row that is no
    /// direction.
    pub fn parse(bytes: &[u8], nearest: usize) -> Result<Self, ConfigError> {
        let bad = |message: String| ConfigError::at("", format!("the asset `concepts`: {message}"));
        let file = SafeTensors::deserialize(bytes).map_err(|e| bad(format!("it is no safetensors file: {e}")))?;
        let tensor = file.tensor("concepts").map_err(|_| {
            let mut names = file.names();
            names.sort_unstable();
            bad(format!("it has no tensor `concepts`; it has {names:?}"))
        })?;
        let &[concepts, width] = tensor.shape() else {
            return Err(bad(format!("`concepts` has the shape {:?}; it must be [n, d]", tensor.shape())));
        };
        if concepts == 0 || width == 0 || concepts > u32::MAX as usize {
            return Err(bad(format!("`concepts` has the shape [{concepts}, {width}]")));
        }
        let data = tensor.data();
        let halves = || data.as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
        let mut values_cd: Vec<f32> = match tensor.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            Dtype::F16 => halves().map(from_f16).collect(),
            Dtype::BF16 => halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
            other => return Err(bad(format!("`concepts` is {other:?}; it must be F32, F16 or BF16"))),
        };
        for (row, vector) in values_cd.chunks_exact_mut(width).enumerate() {
            if !normalise(vector) {
                return Err(bad(format!("row {row} of `concepts` is zero or not finite: it has no direction")));
            }
        }
        let nearest = nearest.min(concepts);
        let seed = nearest as u64 ^ (width as u64) << 32;
        let identity = XxHash3_128::oneshot_with_seed(seed, data);
        Ok(Self { values_cd, width, nearest, identity, best: Vec::new(), scaled: Vec::new() })
    }

    /// Number of concepts.
    pub fn len(&self) -> usize {
        self.values_cd.len() / self.width
    }

    /// How many concepts a row has.
    pub fn nearest(&self) -> usize {
        self.nearest
    }

    /// A hash of the vectors and of how many a row has.
    pub fn identity(&self) -> u128 {
        self.identity
    }

    /// Puts the nearest concepts of `vector` into `found`, nearest first; of equals the first in the file.
    ///
    /// # Errors
    /// The vector has another width, or no direction.
    pub fn find(&mut self, vector: &[f32], found: &mut Vec<u32>) -> Result<(), String> {
        if vector.len() != self.width {
            return Err(format!("`embedding` has {} values, `concepts` has {}", vector.len(), self.width));
        }
        // The ranking needs no length, but infinities and zero have no ranking.
        let largest = vector.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        if largest == 0.0 || !vector.iter().all(|value| value.is_finite()) {
            return Err("`embedding` is zero or not finite: it has no direction".into());
        }
        let vector = if PLAIN.contains(&largest) {
            vector
        } else {
            // By a power of two, so that no value is rounded but those that are nothing beside the largest.
            let exponent = f64::from(largest).to_bits() >> 52;
            let scale = f64::from_bits((2 * 1023 - exponent) << 52);
            self.scaled.clear();
            self.scaled.extend(vector.iter().map(|&value| (f64::from(value) * scale) as f32));
            &self.scaled
        };
        let best = &mut self.best;
        best.clear();
        for (concept, row) in (0..).zip(self.values_cd.chunks_exact(self.width)) {
            let similarity = dot(vector, row);
            if best.len() == self.nearest && best.last().is_some_and(|&(least, _)| similarity <= least) {
                continue;
            }
            let at = best.partition_point(|&(other, _)| other >= similarity);
            best.truncate(self.nearest - 1);
            best.insert(at.min(best.len()), (similarity, concept));
        }
        found.clear();
        found.extend(best.iter().map(|&(_, concept)| concept));
        Ok(())
    }
}

/// The scalar product, in a fixed order.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Scales to length 1; says whether that could be done.
fn normalise(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
    if !length.is_finite() || length == 0.0 {
        return false;
    }
    vector.iter_mut().for_each(|v| *v = (f64::from(*v) / length) as f32);
    true
}

/// IEEE half precision.
fn from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(bits >> 10 & 0x1F), u32::from(bits & 0x3FF));
    match exponent {
        0 => f32::from_bits(sign | (fraction as f32 * 2f32.powi(-24)).to_bits()),
        0x1F => f32::from_bits(sign | 0x7F80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovhost_sdk::Rng;

    /// A safetensors file with one tensor.
    pub fn file(name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) -> Vec<u8> {
        let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), data).unwrap();
        safetensors::serialize([(name, view)], None).unwrap()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn the_nearest_are_those_of_a_full_sort() {
        let (concepts, width) = (200, 19);
        let mut rng = Rng::new(3);
        let values: Vec<f32> = (0..concepts * width).map(|_| (rng.unit() - 0.5) as f32).collect();
        let mut table = Table::parse(&file("concepts", Dtype::F32, &[concepts, width], &bytes(&values)), 7).unwrap();
        let mut found = Vec::new();
        for _ in 0..200 {
            let vector: Vec<f32> = (0..width).map(|_| (rng.unit() - 0.5) as f32 * 40.0).collect();
            table.find(&vector, &mut found).unwrap();
            let cosine = |concept: usize| {
                let row = &values[concept * width..][..width];
                let product =
                    |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
                product(row, &vector) / product(row, row).sqrt()
            };
            let mut want: Vec<u32> = (0..concepts as u32).collect();
            want.sort_by(|&a, &b| cosine(b as usize).total_cmp(&cosine(a as usize)));
            assert_eq!(found, want[..7]);
        }
    }

    #[test]
    fn equals_go_to_the_first_and_few_concepts_are_all_nearest() {
        let values = bytes(&[1.0, 0.0, 2.0, 0.0, 0.0, 1.0]);
        let mut table = Table::parse(&file("concepts", Dtype::F32, &[3, 2], &values), 5).unwrap();
        let mut found = Vec::new();
        table.find(&[3.0, 0.1], &mut found).unwrap();
        assert_eq!((found.as_slice(), table.nearest(), table.len()), (&[0, 1, 2][..], 3, 3));
        let mut table = Table::parse(&file("concepts", Dtype::F32, &[3, 2], &values), 1).unwrap();
        table.find(&[3.0, 0.1], &mut found).unwrap();
        assert_eq!(found, [0]);
        // However long or short a vector is.
        let values = bytes(&[1.0, 0.0, 0.6, 0.8, 0.0, 1.0]);
        let mut table = Table::parse(&file("concepts", Dtype::F32, &[3, 2], &values), 3).unwrap();
        for size in [f32::MAX, 1e30, 1e15, 1.0, 1e-30, 1e-44] {
            table.find(&[size, size * 0.25], &mut found).unwrap();
            assert_eq!(found, [0, 1, 2], "{size:e}");
            table.find(&[0.0, -size], &mut found).unwrap();
            assert_eq!(found, [0, 1, 2], "{size:e}");
            table.find(&[size, size], &mut found).unwrap();
            assert_eq!(found, [1, 0, 2], "{size:e}");
        }
        for (vector, want) in [
            (vec![1.0], "1 values"),
            (vec![0.0, 0.0], "no direction"),
            (vec![f32::NAN, 1.0], "finite"),
            (vec![1.0, f32::INFINITY], "finite"),
        ] {
            assert!(table.find(&vector, &mut found).unwrap_err().contains(want));
        }
    }

    #[test]
    fn halves_are_read() {
        for (bits, want) in
            [(0x3C00, 1.0), (0xC000, -2.0), (0x3555, 0.333_251_95), (0x0001, 5.960_464_5e-8), (0x8000, -0.0)]
        {
            assert_eq!(from_f16(bits).to_bits(), f32::to_bits(want), "{bits:x}");
        }
        assert!(from_f16(0x7C00).is_infinite() && from_f16(0x7E00).is_nan());
        let halves: Vec<u8> = [0x3C00u16, 0, 0, 0x4000].iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let table = Table::parse(&file("concepts", Dtype::F16, &[2, 2], &halves), 1).unwrap();
        assert_eq!(table.values_cd, [1.0, 0.0, 0.0, 1.0]);
        let halves: Vec<u8> = [0x3F80u16, 0, 0, 0x4000].iter().flat_map(|bits| bits.to_le_bytes()).collect();
        let table = Table::parse(&file("concepts", Dtype::BF16, &[2, 2], &halves), 1).unwrap();
        assert_eq!(table.values_cd, [1.0, 0.0, 0.0, 1.0]);
    }

    #[test]
    fn other_files_are_refused() {
        let refuse = |bytes: &[u8]| Table::parse(bytes, 1).unwrap_err().to_string();
        let one = bytes(&[1.0, 2.0]);
        assert!(refuse(b"no").contains("no safetensors file"));
        assert!(refuse(&file("vectors", Dtype::F32, &[1, 2], &one)).contains("it has [\"vectors\"]"));
        assert!(refuse(&file("concepts", Dtype::F32, &[2], &one)).contains("[n, d]"));
        assert!(refuse(&file("concepts", Dtype::F32, &[0, 2], &[])).contains("[0, 2]"));
        assert!(refuse(&file("concepts", Dtype::I32, &[1, 2], &one)).contains("I32"));
        assert!(refuse(&file("concepts", Dtype::F32, &[2, 1], &bytes(&[1.0, 0.0]))).contains("row 1"));
    }
}
