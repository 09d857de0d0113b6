//! The concepts as one automaton: entries in, the entries that a text contains out, in one pass over the text.
//!
//! ```text
//!  entries ─► symbols (words or characters) ─► trie, level by level ─► Aho–Corasick links ─► text ─► entries in it
//! ```
//! Over words it has far fewer states than over bytes: half a million entries (9.6 MB) take 67 MiB of a sandbox here, all in
//! all, and four times that to be made over bytes. Nodes are numbered level by level, so a node's children are a stretch of the arrays, sorted by symbol.

use ovhost_sdk::prelude::*;
use ovhost_sdk::text::{ascii_prefix, fold_case};
use twox_hash::XxHash3_128;

use crate::split::{Match, Rules, WordList, each_word};

/// No node, no entry.
const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

/// A list of entries that can be searched for.
#[derive(Debug)]
pub struct Vocabulary {
    rules: Rules,
    len: usize,
    identity: u128,
    words: WordList,
    nodes: Nodes,
    /// Reused for every text.
    lower: String,
}

/// Parallel arrays, one place per node.
#[derive(Debug, Default)]
struct Nodes {
    /// What leads to the node from its parent.
    symbol: Vec<u32>,
    /// The first child; the last ends before the next node's first. One place more than there are nodes.
    children: Vec<u32>,
    /// The entry that ends here.
    entry: Vec<u32>,
    /// The node of the longest proper end of this one's path.
    fail: Vec<u32>,
    /// The nearest node along `fail` where an entry ends.
    shorter: Vec<u32>,
    /// The root's child by symbol: the root has too many for a search per word.
    first: Vec<u32>,
}

impl Nodes {
    fn child(&self, node: u32, symbol: u32) -> Option<u32> {
        if node == ROOT {
            return self.first.get(symbol as usize).copied().filter(|&child| child != NONE);
        }
        let (start, end) = (self.children[node as usize], self.children[node as usize + 1]);
        let symbols = &self.symbol[start as usize..end as usize];
        symbols.binary_search(&symbol).ok().map(|at| start + at as u32)
    }

    /// Where `symbol` leads from `node`.
    fn step(&self, mut node: u32, symbol: u32) -> u32 {
        loop {
            if let Some(child) = self.child(node, symbol) {
                return child;
            }
            if node == ROOT {
                return ROOT;
            }
            node = self.fail[node as usize];
        }
    }
}

/// Entries as symbols, one after the other.
#[derive(Default)]
struct Symbols {
    all: Vec<u32>,
    ends: Vec<usize>,
}

impl Symbols {
    fn of(&self, entry: u32) -> &[u32] {
        let start = (entry as usize).checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.all[start..self.ends[entry as usize]]
    }
}

impl Vocabulary {
    /// Reads one entry a line. Spaces at the ends of lines and empty lines do not count.
    ///
    /// # Errors
    /// There is no entry, an entry comes twice (the message names the lines), or there are too many.
    pub fn parse(text: &str, rules: Rules) -> Result<Self, ConfigError> {
        let bad = |message: String| ConfigError::at("", format!("the asset `concepts`: {message}"));
        let (mut words, mut symbols, mut lines) = (WordList::default(), Symbols::default(), Vec::new());
        let mut named = Vec::new();
        for (line, entry) in (1u32..).zip(text.lines()).map(|(line, entry)| (line, entry.trim())) {
            if entry.is_empty() {
                continue;
            }
            let lowered;
            let entry = if rules.ignore_case {
                lowered = folded(entry);
                &lowered
            } else {
                entry
            };
            match rules.place {
                // Entries are taken as they are: one with punctuation inside a word matches nothing, as in MetaCLIP.
                Match::Words => entry.split(' ').for_each(|word| symbols.all.push(words.add(word))),
                Match::Anywhere => symbols.all.extend(entry.chars().map(u32::from)),
            }
            symbols.ends.push(symbols.all.len());
            lines.push(line);
            named.extend_from_slice(entry.as_bytes());
            named.push(b'\n');
        }
        if lines.is_empty() {
            return Err(bad("it has no entry; give one a line".into()));
        }
        if symbols.all.len() >= NONE as usize {
            return Err(bad(format!("{} entries are too many", lines.len())));
        }
        let mut order: Vec<u32> = (0..lines.len() as u32).collect();
        order.sort_by(|&a, &b| symbols.of(a).cmp(symbols.of(b)));
        if let Some(pair) = order.windows(2).find(|pair| symbols.of(pair[0]) == symbols.of(pair[1])) {
            let [first, again] = [pair[0], pair[1]].map(|entry| lines[entry as usize]);
            return Err(bad(format!("line {again} repeats line {first}; an entry may come once")));
        }
        let identity = XxHash3_128::oneshot_with_seed(u64::from(rules.ignore_case) * 2 + rules.place as u64, &named);
        let nodes = link(build(&symbols, &order));
        Ok(Self { rules, len: lines.len(), identity, words, nodes, lower: String::new() })
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A hash of the entries, their order, and the rules.
    pub fn identity(&self) -> u128 {
        self.identity
    }

    /// Puts the entries that `text` contains into `found`, each once, in ascending order.
    pub fn find(&mut self, text: &str, found: &mut Vec<u32>) {
        found.clear();
        let Self { rules, words, nodes, lower, .. } = self;
        let text = if rules.ignore_case {
            lower.clear();
            fold(text, lower);
            lower.as_str()
        } else {
            text
        };
        let mut node = ROOT;
        let mut step = |symbol: Option<u32>| {
            node = symbol.map_or(ROOT, |symbol| nodes.step(node, symbol));
            let mut at = node;
            if nodes.entry[at as usize] == NONE {
                at = nodes.shorter[at as usize];
            }
            while at != NONE {
                found.push(nodes.entry[at as usize]);
                at = nodes.shorter[at as usize];
            }
        };
        match rules.place {
            Match::Words => each_word(text, |word| step(words.find(word))),
            Match::Anywhere => {
                let spaced = text.chars().map(|c| if matches!(c, '\t' | '\n' | '\r') { ' ' } else { c });
                spaced.for_each(|c| step(Some(u32::from(c))));
            }
        }
        found.sort_unstable();
        found.dedup();
    }
}

/// Appends `text` without its case, as the SDK's other filters compare texts.
fn fold(text: &str, out: &mut String) {
    let ascii = ascii_prefix(text.as_bytes());
    let (ascii, rest) = text.split_at(ascii);
    let start = out.len();
    out.push_str(ascii);
    out[start..].make_ascii_lowercase();
    out.extend(rest.chars().flat_map(fold_case));
}

/// `text` without its case.
fn folded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    fold(text, &mut out);
    out
}

/// The trie of the entries, which `order` sorts.
fn build(symbols: &Symbols, order: &[u32]) -> Nodes {
    let mut nodes = Nodes { symbol: vec![NONE], entry: vec![NONE], ..Nodes::default() };
    // The entries below each node of the level, as a stretch of `order`.
    let everything = 0..order.len();
    let mut level = vec![everything];
    let mut depth = 0;
    while !level.is_empty() {
        let mut next = Vec::new();
        for mut range in level {
            nodes.children.push(nodes.symbol.len() as u32);
            // An entry that ends at this node is the first below it.
            range.start += order[range.clone()].iter().take_while(|&&entry| symbols.of(entry).len() == depth).count();
            while !range.is_empty() {
                let symbol = symbols.of(order[range.start])[depth];
                let same = order[range.clone()].partition_point(|&entry| symbols.of(entry)[depth] <= symbol);
                let first = order[range.start];
                nodes.symbol.push(symbol);
                nodes.entry.push(if symbols.of(first).len() == depth + 1 { first } else { NONE });
                next.push(range.start..range.start + same);
                range.start += same;
            }
        }
        level = next;
        depth += 1;
    }
    nodes.children.push(nodes.symbol.len() as u32);
    nodes
}

/// Adds the links of Aho and Corasick. A node's are those of nodes on earlier levels, which have smaller numbers.
fn link(mut nodes: Nodes) -> Nodes {
    let roots = nodes.children[0] as usize..nodes.children[1] as usize;
    nodes.first = vec![NONE; nodes.symbol[roots.clone()].last().map_or(0, |&largest| largest as usize + 1)];
    for node in roots {
        nodes.first[nodes.symbol[node] as usize] = node as u32;
    }
    nodes.fail = vec![ROOT; nodes.symbol.len()];
    nodes.shorter = vec![NONE; nodes.symbol.len()];
    for parent in 0..nodes.symbol.len() {
        for child in nodes.children[parent]..nodes.children[parent + 1] {
            let symbol = nodes.symbol[child as usize];
            let fail = if parent == ROOT as usize { ROOT } else { nodes.step(nodes.fail[parent], symbol) };
            nodes.fail[child as usize] = fail;
            let ends = nodes.entry[fail as usize] != NONE;
            nodes.shorter[child as usize] = if ends { fail } else { nodes.shorter[fail as usize] };
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORDS: Rules = Rules { place: Match::Words, ignore_case: false };

    /// The definition of MetaCLIP's matching: a scan for every entry.
    fn scan(entries: &[String], text: &str, rules: Rules) -> Vec<u32> {
        let fold = |text: &str| if rules.ignore_case { text.to_lowercase() } else { text.to_owned() };
        let text = fold(text).replace(['\t', '\n', '\r'], " ");
        let spaced: String = match rules.place {
            Match::Words => {
                let padded = text.chars().map(|c| if ",.;:?!`".contains(c) { format!(" {c} ") } else { c.to_string() });
                format!(" {} ", padded.collect::<String>())
            }
            Match::Anywhere => text,
        };
        let pattern = |entry: &String| match rules.place {
            Match::Words => format!(" {} ", fold(entry)),
            Match::Anywhere => fold(entry),
        };
        (0..).zip(entries).filter(|(_, entry)| spaced.contains(&pattern(entry))).map(|(i, _)| i).collect()
    }

    fn find(entries: &[&str], text: &str, rules: Rules) -> Vec<u32> {
        let mut found = vec![7];
        Vocabulary::parse(&entries.join("\n"), rules).unwrap().find(text, &mut found);
        found
    }

    #[test]
    fn entries_match_between_spaces() {
        let entries = ["dog", "red dog", "dog ,", "do", "a red dog", "Dog", "red", "`", "dog."];
        assert_eq!(find(&entries, "A red dog, and", WORDS), [0, 1, 2, 6]);
        assert_eq!(find(&entries, "a red dog.", WORDS), [0, 1, 4, 6]);
        assert_eq!(find(&entries, "dog`s", WORDS), [0, 7]);
        assert_eq!(find(&entries, "hotdogs  red\tdog", WORDS), [0, 1, 6]);
        assert_eq!(find(&entries, "red  dog", WORDS), [0, 6]);
        assert!(find(&entries, "", WORDS).is_empty());
        let anywhere = Rules { place: Match::Anywhere, ignore_case: true };
        assert_eq!(find(&["狗", "小狗", "DOG", "猫"], "一只小狗 hotdogs", anywhere), [0, 1, 2]);
        let words = Rules { ignore_case: true, ..WORDS };
        assert_eq!(find(&["ΟΔΟΣ", "dog", "ÉTÉ"], "DOG η οδος", words), [0, 1]);
        assert_eq!(find(&["οδος"], "Η ΟΔΟΣ, été", words), [0]);
    }

    #[test]
    fn lists_are_read_by_lines() {
        let vocabulary = Vocabulary::parse("  dog \r\n\n cat\n", WORDS).unwrap();
        assert_eq!(vocabulary.len(), 2);
        let identity = |text: &str, rules: Rules| Vocabulary::parse(text, rules).unwrap().identity();
        assert_eq!(vocabulary.identity(), identity("dog\ncat", WORDS));
        let others = [
            identity("cat\ndog", WORDS),
            identity("dog cat", WORDS),
            identity("dog\ncat", Rules { ignore_case: true, ..WORDS }),
            identity("dog\ncat", Rules { place: Match::Anywhere, ..WORDS }),
        ];
        assert!(others.iter().all(|&other| other != vocabulary.identity()));
        let error = |text: &str, rules: Rules| Vocabulary::parse(text, rules).unwrap_err().to_string();
        assert!(error("dog\n\ncat\ndog ", WORDS).contains("line 4 repeats line 1"));
        assert!(error("dog\nDog", Rules { ignore_case: true, ..WORDS }).contains("line 2 repeats line 1"));
        assert!(error(" \n", WORDS).contains("no entry"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn the_automaton_finds_what_a_scan_finds(
            entries in proptest::collection::btree_set("[abC](( |  |, |`)?[abC]){0,3}", 1..12),
            texts in proptest::collection::vec("[abcC ,\\.\t`é]{0,24}", 1..6),
            anywhere: bool,
            ignore_case: bool,
        ) {
            let rules = Rules { place: if anywhere { Match::Anywhere } else { Match::Words }, ignore_case };
            let mut entries: Vec<String> = entries.into_iter().collect();
            if ignore_case {
                entries.iter_mut().for_each(|entry| *entry = entry.to_lowercase());
                entries.sort();
                entries.dedup();
            }
            // Not sorted, so that order and number differ.
            entries.reverse();
            let mut vocabulary = Vocabulary::parse(&entries.join("\n"), rules).unwrap();
            let mut found = Vec::new();
            for text in &texts {
                vocabulary.find(text, &mut found);
                prop_assert_eq!(&found, &scan(&entries, text, rules), "{:?} in {:?}", &entries, text);
            }
        }
    }
}
