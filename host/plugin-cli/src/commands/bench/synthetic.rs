//! Made-up rows with the columns that a plugin reads: plausible in size and shape, the same every time.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ovhost_plugin::json::{ColumnType, JsonRow, standard_type};
use ovhost_plugin::{Kind, Plugin};
use serde_json::{Value, json};

const WORDS: [&str; 24] = [
    "a", "the", "red", "brown", "small", "dog", "bench", "runs", "over", "wet", "meadow", "while", "two", "children",
    "watch", "from", "street", "with", "signs", "in", "yellow", "light", "of", "evening",
];

/// splitmix64: a stream of numbers that is the same on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to `high`, both included.
    fn between(&mut self, low: u32, high: u32) -> u32 {
        low + (self.next() % u64::from(high - low + 1)) as u32
    }

    /// Of a long-tailed spread, as lengths of samples have: most are near the lower end.
    fn skewed(&mut self, low: u32, high: u32) -> u32 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        (f64::from(low) * (f64::from(high) / f64::from(low)).powf(unit)) as u32
    }

    fn sentence(&mut self, words: u32) -> String {
        let word = |n: &mut Self| WORDS[(n.next() % WORDS.len() as u64) as usize];
        let mut out: Vec<&str> = (0..words).map(|_| word(self)).collect();
        // Stuck repetitions are another matter.
        out.dedup();
        out.join(" ")
    }
}

/// `count` rows, samples not longer than `capacity` tokens. Errors: a column that the plugin requires is none that can be made up.
pub fn rows(
    plugin: &Plugin,
    types: &BTreeMap<String, ColumnType>,
    count: usize,
    capacity: u32,
) -> Result<Vec<JsonRow>> {
    let info = plugin.info();
    let mut names: Vec<(&str, bool)> = info.reads.iter().map(|(name, needed)| (name.as_str(), *needed)).collect();
    let always: &[&str] = match plugin.kind() {
        Kind::Packer => &["length"],
        Kind::Metric => &["prediction", "references", "record"],
        Kind::Filter | Kind::Prompt => &[],
    };
    names.extend(always.iter().map(|name| (*name, true)));
    let mut columns = Vec::new();
    for (name, needed) in names {
        match types.get(name).copied().or_else(|| standard_type(name)) {
            Some(ty) => columns.push((name, ty)),
            None if !needed => {}
            None => bail!(
                "{} reads the column \"{name}\", which is none of the host's, so no rows can be made up for it; give --rows \
                 FILE, or its type with --types {name}=f32s",
                info.name
            ),
        }
    }
    let mut numbers = Numbers(1);
    let row = |i: usize| {
        columns.iter().map(|(name, ty)| ((*name).to_owned(), value(name, *ty, i, capacity, &mut numbers))).collect()
    };
    Ok((0..count).map(row).collect())
}

fn value(name: &str, ty: ColumnType, i: usize, capacity: u32, n: &mut Numbers) -> Value {
    match name {
        "id" | "index" => i.into(),
        "key" => format!("row-{i:06}").into(),
        "source" => format!("shard-{:06}.tar", i / 10_000).into(),
        "text" => {
            let words = n.skewed(12, 80);
            n.sentence(words).into()
        }
        "record" => {
            let (question, words) = (n.sentence(8), n.skewed(4, 60));
            let ask = json!({ "from": "human", "value": format!("<image>\n{question}") });
            json!({ "conversations": [ask, { "from": "gpt", "value": n.sentence(words) }] })
        }
        "num-images" => 1.into(),
        "width" | "height" => n.between(200, 1600).into(),
        "widths" | "heights" => json!([n.between(200, 1600)]),
        "image-bytes" => n.between(20_000, 400_000).into(),
        "phash" => format!("{:016x}", n.next()).into(),
        "text-tokens" => n.skewed(15, 120).into(),
        "embedding" => (0..64).map(|_| json!(f64::from(n.between(0, 2000)) / 1000.0 - 1.0)).collect(),
        // As real samples are, where the bins have room for them; in small bins, the same spread in small.
        "length" => {
            let most = capacity.min(4000);
            n.skewed((most / 40).max(1), most).into()
        }
        "patches" => (4 * n.between(64, 1024)).into(),
        "prediction" | "judgement" => n.sentence(2).into(),
        "references" => json!([n.sentence(2), n.sentence(1)]),
        _ => of_type(ty, n),
    }
}

fn of_type(ty: ColumnType, n: &mut Numbers) -> Value {
    match ty {
        ColumnType::U8s => n.between(0, 1).into(),
        ColumnType::U32s | ColumnType::S64s => n.between(0, 1000).into(),
        ColumnType::F32s | ColumnType::F64s => (f64::from(n.between(0, 1000)) / 1000.0).into(),
        ColumnType::Utf8 => n.sentence(12).into(),
        ColumnType::Bytes => format!("{:016x}", n.next()).into(),
        ColumnType::U32Lists => (0..8).map(|_| n.between(0, 1000)).collect::<Vec<_>>().into(),
        ColumnType::F32Lists => (0..8).map(|_| json!(f64::from(n.between(0, 1000)) / 1000.0)).collect(),
    }
}
