//! The process's WebAssembly engines and what is compiled with them.
//!
//! In: component bytes and a stack limit. Out: compiled components, ready to instantiate. Every engine is set so that the same
//! call gives the same answer on every machine: fuel instead of time, canonical NaNs, no relaxed SIMD, no threads.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::bindings::ovhost::plugin::log;
use crate::cache::{Cache, engine_hash};
use crate::error::PluginError;
use crate::limits::Limits;
use crate::log::StoreData;
use crate::patience::{GaveUp, Patience};
use crate::scan;

/// How a [`Host`] is made.
#[derive(Debug, Clone, Default)]
pub struct HostOptions {
    /// Folder of compiled components; none: `$OVHOST_CACHE/wasm`, else `~/.cache/ovhost/wasm`.
    pub cache_dir: Option<PathBuf>,
}

/// Loads plugins. One per process is enough; clones share everything.
#[derive(Clone)]
pub struct Host {
    inner: Arc<HostInner>,
}

struct HostInner {
    cache: Cache,
    /// By stack limit, which wasmtime fixes per engine.
    runtimes: Mutex<BTreeMap<u32, Arc<Runtime>>>,
}

/// How a component's machine code was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compiled {
    /// It was there: from this process, or from the cache on disk.
    Before,
    /// Made now, in so much time.
    Now(Duration),
}

/// One engine with what belongs to it.
pub(crate) struct Runtime {
    pub engine: Engine,
    pub linker: Linker<StoreData>,
    pub hash: String,
    /// Compiled in this process, by sha256: instances of one plugin share their code.
    compiled: Mutex<HashMap<String, Component>>,
}

/// wasmtime's errors are chains; all of it in one line.
pub(crate) fn words(error: &wasmtime::Error) -> String {
    format!("{error:#}")
}

fn config(stack_kib: u32) -> Config {
    let mut config = Config::new();
    config.wasm_component_model(true);
    config.concurrency_support(false);
    config.consume_fuel(true);
    config.cranelift_nan_canonicalization(true);
    config.wasm_relaxed_simd(false);
    config.wasm_memory64(false);
    config.max_wasm_stack(stack_kib as usize * 1024);
    config
}

/// Slots for instances that live at once (every data thread has one of each filter and prompt). Only address space is
/// taken (4 GiB and guards per memory, of 128 TiB), none of it touched.
fn pool(memories: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(memories);
    // A Rust component has 3 to 5 core instances and 1 memory; an interpreter over 100 of them, with as many live at once as
    // there are data threads. These are counts, which reserve nothing.
    pool.total_core_instances(memories * 40);
    pool.max_core_instances_per_component(400);
    pool.max_memories_per_component(16);
    pool.max_tables_per_component(64);
    pool.total_memories(memories);
    pool.total_tables(memories * 2);
    pool.table_elements(100_000);
    pool.max_memory_size(4 << 30);
    pool
}

impl Runtime {
    fn new(stack_kib: u32) -> Result<Self, PluginError> {
        let failed = |e: wasmtime::Error| PluginError::Engine { why: words(&e) };
        let mut engine = None;
        if stack_kib == Limits::default().stack_kib {
            for memories in [4096, 512] {
                let mut config = config(stack_kib);
                config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(memories)));
                match Engine::new(&config) {
                    Ok(pooled) => {
                        engine = Some(pooled);
                        break;
                    }
                    Err(why) => tracing::debug!("no pool of {memories} wasm memories: {why:#}"),
                }
            }
        }
        let engine = match engine {
            Some(engine) => engine,
            // Little address space (ulimit -v), or a rare stack size: memory per instance on demand, a few microseconds more.
            None => Engine::new(&config(stack_kib)).map_err(failed)?,
        };
        let mut linker = Linker::new(&engine);
        log::add_to_linker::<StoreData, HasSelf<StoreData>>(&mut linker, |data| data).map_err(failed)?;
        let hash = engine_hash(&engine);
        Ok(Runtime { engine, linker, hash, compiled: Mutex::default() })
    }
}

impl Host {
    /// Starts the engine. Errors: the engine cannot run on this machine.
    pub fn new(options: HostOptions) -> Result<Self, PluginError> {
        let stack_kib = Limits::default().stack_kib;
        let runtimes = BTreeMap::from([(stack_kib, Arc::new(Runtime::new(stack_kib)?))]);
        let cache = Cache::open(options.cache_dir);
        Ok(Host { inner: Arc::new(HostInner { cache, runtimes: Mutex::new(runtimes) }) })
    }

    /// The engine for that stack limit.
    pub(crate) fn runtime(&self, stack_kib: u32) -> Result<Arc<Runtime>, PluginError> {
        let mut runtimes = self.inner.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runtime) = runtimes.get(&stack_kib) {
            return Ok(runtime.clone());
        }
        let runtime = Arc::new(Runtime::new(stack_kib)?);
        runtimes.insert(stack_kib, runtime.clone());
        Ok(runtime)
    }

    /// Compiled form of `bytes`, whose hash is `sha256`: from this process, from the disk, or made now. How it was had is
    /// told too.
    pub(crate) fn compile(
        &self,
        runtime: &Runtime,
        path: &Path,
        bytes: &[u8],
        sha256: &str,
    ) -> Result<(Component, Compiled), PluginError> {
        let lock = || runtime.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = lock().get(sha256) {
            return Ok((component.clone(), Compiled::Before));
        }
        let (component, how) = match self.inner.cache.get(&runtime.engine, &runtime.hash, sha256) {
            Some(component) => (component, Compiled::Before),
            None => {
                scan::measure(path, bytes)?;
                let start = Instant::now();
                let (engine, binary) = (runtime.engine.clone(), bytes.to_vec());
                let say = || {
                    tracing::info!("compiling {} takes a while; the next start finds it compiled", path.display());
                };
                let component = Patience::from_env()
                    .wait(say, move || Component::from_binary(&engine, &binary))
                    .map_err(|GaveUp { why, variable }| PluginError::Compiling {
                        path: path.to_owned(),
                        why,
                        variable,
                    })?
                    .map_err(|e| PluginError::Invalid { path: path.to_owned(), why: words(&e) })?;
                tracing::debug!("compiled {} in {:?}", path.display(), start.elapsed());
                let took = start.elapsed();
                self.inner.cache.put(&runtime.hash, sha256, &component);
                (component, Compiled::Now(took))
            }
        };
        lock().insert(sha256.to_owned(), component.clone());
        Ok((component, how))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::new_store;
    use crate::log::PluginLog;

    /// As an interpreter's component is: over a hundred core instances, three memories, a large table.
    #[test]
    fn interpreters_fit_many_times() {
        let runtime = Runtime::new(Limits::default().stack_kib).unwrap();
        let small = "(core instance (instantiate $small))".repeat(106);
        let text = format!(
            "(component
               (core module $small)
               (core module $main (memory 2) (table 90000 funcref))
               (core module $memory (memory 1))
               (core instance (instantiate $main))
               (core instance (instantiate $memory)) (core instance (instantiate $memory))
               {small})"
        );
        let component = Component::new(&runtime.engine, wat::parse_str(text).unwrap()).unwrap();
        let pre = runtime.linker.instantiate_pre(&component).unwrap();
        let log = PluginLog::new("interpreter");
        let live: Vec<_> = (0..160)
            .map(|i| {
                let mut store = new_store(&runtime, &Limits::default(), &log);
                store.set_fuel(1_000_000).unwrap();
                let instance = pre.instantiate(&mut store);
                instance.unwrap_or_else(|e| panic!("instance {i}: {}", words(&e)));
                store
            })
            .collect();
        assert_eq!(live.len(), 160);
    }
}
