//! JSON values in, what they have in common out: types, how often each field is there, lengths and ranges. Bounded.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Fields of one object that are followed; of records with keys that are data, the rest is only counted.
const FIELDS: usize = 64;

/// Levels that are followed.
const DEPTH: usize = 8;

/// Least and most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range<T> {
    /// The least.
    pub min: T,
    /// The most.
    pub max: T,
}

impl<T: PartialOrd + Copy> Range<T> {
    /// Takes a value in.
    pub fn see(slot: &mut Option<Self>, value: T) {
        Self::join(slot, Some(Range { min: value, max: value }));
    }

    /// Takes another's values in.
    pub fn join(slot: &mut Option<Self>, other: Option<Self>) {
        let Some(other) = other else { return };
        let old = slot.unwrap_or(other);
        let min = if other.min < old.min { other.min } else { old.min };
        let max = if other.max > old.max { other.max } else { old.max };
        *slot = Some(Range { min, max });
    }
}

/// What was seen at one place of many values.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Schema {
    /// Values seen here; of a field, how often it was there.
    pub count: u64,
    /// How many of each JSON type: `null`, `boolean`, `integer`, `number`, `string`, `array`, `object`.
    pub types: BTreeMap<&'static str, u64>,
    /// Characters of the strings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub characters: Option<Range<u64>>,
    /// The numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Range<f64>>,
    /// Items of the lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items_count: Option<Range<u64>>,
    /// What the items of the lists are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<Schema>>,
    /// Fields of the objects.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Schema>,
    /// Further fields that are not followed: how often one was there.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_fields: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Schema {
    /// Takes a value in.
    pub fn see(&mut self, value: &Value) {
        self.see_at(value, DEPTH);
    }

    fn see_at(&mut self, value: &Value, room: usize) {
        self.count += 1;
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(n) if n.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        *self.types.entry(kind).or_default() += 1;
        match value {
            Value::String(text) => Range::see(&mut self.characters, text.chars().count() as u64),
            Value::Number(n) => n.as_f64().into_iter().for_each(|n| Range::see(&mut self.numbers, n)),
            Value::Array(items) => {
                Range::see(&mut self.items_count, items.len() as u64);
                if room > 0 && !items.is_empty() {
                    let schema = self.items.get_or_insert_default();
                    items.iter().for_each(|item| schema.see_at(item, room - 1));
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let many = room == 0 || self.fields.len() >= FIELDS;
                    match self.fields.get_mut(name) {
                        Some(field) => field.see_at(value, room.saturating_sub(1)),
                        None if many => self.other_fields += 1,
                        None => {
                            let mut field = Schema::default();
                            field.see_at(value, room - 1);
                            self.fields.insert(name.clone(), field);
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// Takes in what another has seen.
    pub fn join(&mut self, other: Schema) {
        self.count += other.count;
        for (kind, n) in other.types {
            *self.types.entry(kind).or_default() += n;
        }
        Range::join(&mut self.characters, other.characters);
        Range::join(&mut self.numbers, other.numbers);
        Range::join(&mut self.items_count, other.items_count);
        if let Some(items) = other.items {
            self.items.get_or_insert_default().join(*items);
        }
        self.other_fields += other.other_fields;
        for (name, field) in other.fields {
            if self.fields.len() < FIELDS || self.fields.contains_key(&name) {
                self.fields.entry(name).or_default().join(field);
            } else {
                self.other_fields += field.count;
            }
        }
    }

    /// One row for every place: its path, types, how often it is there (0 to 1), and its values in words.
    pub fn rows(&self) -> Vec<[String; 4]> {
        let mut rows = Vec::new();
        self.rows_under("", &mut rows);
        rows
    }

    fn rows_under(&self, path: &str, rows: &mut Vec<[String; 4]>) {
        let objects = self.types.get("object").copied().unwrap_or(0).max(1);
        let dot = if path.is_empty() { "" } else { "." };
        for (name, field) in &self.fields {
            let path = format!("{path}{dot}{name}");
            field.row(&path, field.count as f64 / objects as f64, rows);
        }
        if self.other_fields > 0 {
            let words = format!("{} more fields that are not listed", self.other_fields);
            rows.push([format!("{path}{dot}…"), String::new(), String::new(), words]);
        }
        if let Some(items) = &self.items {
            items.row(&format!("{path}[]"), 1.0, rows);
        }
    }

    fn row(&self, path: &str, present: f64, rows: &mut Vec<[String; 4]>) {
        let types = match self.types.len() {
            1 => self.types.keys().copied().collect::<String>(),
            _ => {
                let share = |(kind, n): (&&str, &u64)| format!("{kind} {}", percent(*n as f64 / self.count as f64));
                self.types.iter().map(share).collect::<Vec<_>>().join(", ")
            }
        };
        rows.push([path.to_owned(), types, percent(present), self.values()]);
        self.rows_under(path, rows);
    }

    fn values(&self) -> String {
        let range = |r: Range<u64>, what: &str| {
            if r.min == r.max { format!("{} {what}", r.min) } else { format!("{} to {} {what}", r.min, r.max) }
        };
        let mut words = Vec::new();
        words.extend(self.characters.map(|r| range(r, "characters")));
        words.extend(
            self.numbers.map(|r| if r.min == r.max { r.min.to_string() } else { format!("{} to {}", r.min, r.max) }),
        );
        words.extend(self.items_count.map(|r| range(r, "items")));
        words.join("; ")
    }
}

/// A share (0 to 1) in words; what is not quite all is never called 100 %.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        p if p >= 100.0 => "100 %".into(),
        p if p > 99.9 => ">99.9 %".into(),
        p if p >= 10.0 => format!("{p:.1} %"),
        p => format!("{p:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_and_presence_are_those_of_the_values_however_they_are_cut() {
        let values = [
            json!({"id": 1, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "there"}]}),
            json!({"id": "x", "score": 0.5}),
            json!({"id": null, "score": 2, "conversations": []}),
        ];
        let mut whole = Schema::default();
        values.iter().for_each(|v| whole.see(v));
        let mut parts = Schema::default();
        for value in &values {
            let mut part = Schema::default();
            part.see(value);
            parts.join(part);
        }
        assert_eq!(whole, parts);
        assert_eq!(whole.fields["id"].types, [("integer", 1), ("null", 1), ("string", 1)].into());
        let rows = whole.rows();
        let row = |path: &str| rows.iter().find(|r| r[0] == path).unwrap_or_else(|| panic!("{path} in {rows:?}"));
        assert_eq!(row("score")[2], "66.7 %");
        assert_eq!(row("score")[3], "0.5 to 2");
        assert_eq!(row("conversations")[3], "0 to 2 items");
        assert_eq!(
            row("conversations[].value")[1..],
            ["string".to_owned(), "100 %".into(), "2 to 5 characters".into()]
        );
    }

    #[test]
    fn names_that_are_data_and_deep_values_are_bounded() {
        let mut schema = Schema::default();
        for i in 0..1000 {
            schema.see(&json!({ format!("k{i}"): i }));
        }
        let mut twice = schema.clone();
        twice.join(schema.clone());
        assert_eq!((twice.fields.len(), twice.other_fields, twice.count), (FIELDS, 2 * (1000 - 64), 2000));
        let mut deep = json!(1);
        (0..50).for_each(|_| deep = json!([deep]));
        schema.see(&deep);
        assert!(schema.rows().len() < 100);
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!([1.0, 0.99999, 0.5, 0.0].map(percent), ["100 %", ">99.9 %", "50.0 %", "0.00 %"]);
    }
}
