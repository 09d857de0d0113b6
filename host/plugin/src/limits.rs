//! What one instance may use: memory, instructions per call, stack, bytes that it hands to the host.
//!
//! In: the recipe's `limits` table. Out: a `Limiter` for the store (memory) and a fuel budget per call. Fuel is counted, not
//! timed, so a cut-off falls at the same instruction on every machine.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use wasmtime::ResourceLimiter;

use crate::error::PluginError;

/// Limits of one plugin instance. Every call gets `fuel_base + fuel_per_row * rows + fuel_per_byte * bytes` of fuel, where one
/// unit is about one wasm instruction (2 million take about a millisecond) and bytes are those copied in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Linear memory of an instance, MiB (1 to 4096).
    pub memory_mib: u32,
    /// Fuel of a call, whatever its size.
    pub fuel_base: u64,
    /// Further fuel per row.
    pub fuel_per_row: u64,
    /// Further fuel per byte copied in.
    pub fuel_per_byte: u64,
    /// Native stack that a call may use, KiB (64 to 1024). Deep recursion in Rust plugins ends at the guest's own 1 MiB first.
    pub stack_kib: u32,
    /// Bytes that one call may return or log, MiB (1 to 1024).
    pub output_mib: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            memory_mib: 256,
            fuel_base: 500_000_000,
            fuel_per_row: 2_000_000,
            fuel_per_byte: 1_000,
            stack_kib: 512,
            output_mib: 64,
        }
    }
}

impl Limits {
    /// Fuel of a call over `rows` rows and `bytes` bytes.
    pub fn fuel(&self, rows: u64, bytes: u64) -> u64 {
        self.fuel_base
            .saturating_add(self.fuel_per_row.saturating_mul(rows))
            .saturating_add(self.fuel_per_byte.saturating_mul(bytes))
    }

    /// Refuses values that no instance could run with.
    pub(crate) fn check(&self, plugin: &str) -> Result<(), PluginError> {
        let range = |name: &'static str, value: u64, low: u64, high: u64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(PluginError::Limit { plugin: plugin.to_owned(), name, value, allowed: format!("{low} to {high}") })
        };
        range("memory_mib", self.memory_mib.into(), 1, 4096)?;
        range("stack_kib", self.stack_kib.into(), 64, 1024)?;
        range("output_mib", self.output_mib.into(), 1, 1024)?;
        range("fuel_base", self.fuel_base, 100_000, u64::MAX)
    }
}

/// Memory was refused; travels out of the guest as the cause of its trap.
#[derive(Debug)]
pub(crate) struct MemoryRefused {
    pub wanted: u64,
}

impl std::fmt::Display for MemoryRefused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes of memory were refused", self.wanted)
    }
}

impl std::error::Error for MemoryRefused {}

/// Counts the memory of all the linear memories in a store, and refuses growth past the limit with a trap: the alternative, a
/// failed `memory.grow`, lets the guest abort with a message that hides the cause.
pub(crate) struct Limiter {
    limit: u64,
    /// Bytes in use now. Wasm memory never shrinks, so this is the peak too.
    pub used: u64,
}

impl Limiter {
    pub(crate) fn new(memory_mib: u32) -> Self {
        Limiter { limit: u64::from(memory_mib) << 20, used: 0 }
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, max: Option<usize>) -> wasmtime::Result<bool> {
        let wanted = self.used.saturating_sub(current as u64).saturating_add(desired as u64);
        if wanted > self.limit {
            return Err(wasmtime::Error::new(MemoryRefused { wanted }));
        }
        if max.is_some_and(|max| desired > max) {
            return Ok(false);
        }
        self.used = wanted;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _max: Option<usize>) -> wasmtime::Result<bool> {
        // 8 bytes an entry: as much as an interpreter needs and nothing that matters to the host.
        Ok(desired <= 200_000)
    }

    fn instances(&self) -> usize {
        1_000
    }

    fn tables(&self) -> usize {
        1_000
    }

    fn memories(&self) -> usize {
        100
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuel_scales_and_saturates() {
        let limits = Limits { fuel_base: 1, fuel_per_row: 10, fuel_per_byte: 100, ..Limits::default() };
        assert_eq!(limits.fuel(2, 3), 321);
        assert_eq!(limits.fuel(u64::MAX, 1), u64::MAX);
    }

    #[test]
    fn memories_share_one_limit() {
        let mut limiter = Limiter::new(1);
        assert!(limiter.memory_growing(0, 600 << 10, None).unwrap());
        assert!(limiter.memory_growing(0, 400 << 10, None).unwrap());
        let refused = limiter.memory_growing(400 << 10, 500 << 10, None).unwrap_err();
        assert_eq!(refused.downcast_ref::<MemoryRefused>().unwrap().wanted, 1100 << 10);
        assert_eq!(limiter.used, 1000 << 10);
    }

    #[test]
    fn unknown_and_absurd_limits_are_refused() {
        let unknown = serde_json::from_str::<Limits>(r#"{"memory": 3}"#).unwrap_err().to_string();
        assert!(unknown.contains("memory_mib"), "{unknown}");
        let absurd = Limits { memory_mib: 5000, ..Limits::default() }.check("p").unwrap_err().to_string();
        assert!(absurd.contains("limits.memory_mib = 5000") && absurd.contains("1 to 4096"), "{absurd}");
    }
}
