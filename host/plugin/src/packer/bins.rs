//! Finished bins in two arrays, as they cross the boundary: no allocation per bin.

/// Bins of sample ids; bin i is `ids[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bins {
    /// Empty where there are no bins, else one more than there are bins, from 0.
    offsets: Vec<u32>,
    ids: Vec<u64>,
}

impl Bins {
    /// Of checked arrays: offsets ascend from 0 to the number of ids, or there are none of either.
    pub(super) fn new(offsets: Vec<u32>, ids: Vec<u64>) -> Self {
        Bins { offsets, ids }
    }

    /// Number of bins.
    pub fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bins in order, each the ids of its samples in order.
    pub fn iter(&self) -> Iter<'_> {
        Iter { pairs: self.offsets.windows(2), ids: &self.ids }
    }

    /// The ids of all bins, one bin after the other.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Adds a bin.
    pub fn push(&mut self, ids: &[u64]) {
        if self.offsets.is_empty() {
            self.offsets.push(0);
        }
        self.ids.extend_from_slice(ids);
        self.offsets.push(self.ids.len() as u32);
    }

    /// A vector per bin.
    pub fn to_vecs(&self) -> Vec<Vec<u64>> {
        self.iter().map(<[u64]>::to_vec).collect()
    }
}

/// Iterator over bins.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    pairs: std::slice::Windows<'a, u32>,
    ids: &'a [u64],
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u64];

    fn next(&mut self) -> Option<&'a [u64]> {
        let pair = self.pairs.next()?;
        Some(&self.ids[pair[0] as usize..pair[1] as usize])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.pairs.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Bins {
    type Item = &'a [u64];
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<B: AsRef<[u64]>> Extend<B> for Bins {
    fn extend<I: IntoIterator<Item = B>>(&mut self, bins: I) {
        bins.into_iter().for_each(|bin| self.push(bin.as_ref()));
    }
}

impl<B: AsRef<[u64]>> FromIterator<B> for Bins {
    fn from_iter<I: IntoIterator<Item = B>>(bins: I) -> Self {
        let mut out = Bins::default();
        out.extend(bins);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_come_out_as_they_went_in() {
        let mut bins = Bins::default();
        assert_eq!((bins.len(), bins.is_empty(), bins.iter().count()), (0, true, 0));
        bins.push(&[3, 1]);
        bins.extend([vec![7]]);
        assert_eq!(bins.to_vecs(), [vec![3, 1], vec![7]]);
        assert_eq!((bins.len(), bins.iter().len(), bins.ids()), (2, 2, &[3, 1, 7][..]));
        let mut twice = bins.clone();
        twice.extend(&bins);
        assert_eq!(twice.iter().collect::<Vec<_>>(), [&[3, 1][..], &[7], &[3, 1], &[7]]);
        assert_eq!(bins.iter().collect::<Bins>(), bins);
    }
}
