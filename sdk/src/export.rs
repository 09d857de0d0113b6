//! The export macros: a plugin type in, a component's exports out.
//!
//! A component's exports are free functions, so the configured plugin lives in a thread-local cell: one configured
//! plugin per instance, as the contract says. On other targets than WebAssembly the macros check their types and do
//! nothing else.

/// Exports one or several [`Filter`](crate::Filter)s as a component: `export_filter!(MyFilter);`
#[macro_export]
macro_rules! export_filter {
    ($($plugin:ty),+ $(,)?) => {
        $crate::__export!(@checks Filter, $($plugin),+);
        $($crate::__export!(@pure $plugin);)+
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__export!(@lifecycle Component; $(filter $plugin),+);
            $crate::__export!(@process Component);
            $crate::__export_filter_world!(Component with_types_in $crate::bindings);
        };
    };
}

/// Exports one or several [`StatefulFilter`](crate::StatefulFilter)s as a component:
/// `export_stateful_filter!(MyFilter);`. Filters without state that belong with them, such as the second pass of a plugin
/// of two, follow after a semicolon: `export_stateful_filter!(Collect; Drop);`
#[macro_export]
macro_rules! export_stateful_filter {
    ($($plugin:ty),+ $(,)? $(; $($pure:ty),+ $(,)?)?) => {
        $crate::__export!(@checks StatefulFilter, $($plugin),+);
        $(
            $crate::__export!(@checks Filter, $($pure),+);
            $($crate::__export!(@pure $pure);)+
        )?
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__export!(@lifecycle Component; $(stateful_filter $plugin),+ $(, $(filter $pure),+)?);
            $crate::__export!(@process Component);
            impl $crate::__private::filter_state::Guest for Component {
                fn save() -> Result<Vec<u8>, $crate::PluginError> {
                    $crate::__private::with_filter(|plugin| plugin.save())
                }
                fn restore(state: Vec<u8>) -> Result<(), $crate::PluginError> {
                    $crate::__private::with_filter(|plugin| plugin.restore(&state))
                }
            }
            $crate::__export_stateful_filter_world!(Component with_types_in $crate::bindings);
        };
    };
}

/// Exports one or several [`Packer`](crate::Packer)s as a component: `export_packer!(MyPacker);`
#[macro_export]
macro_rules! export_packer {
    ($($plugin:ty),+ $(,)?) => {
        $crate::__export!(@checks Packer, $($plugin),+);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__export!(@lifecycle Component; $(packer $plugin),+);
            impl $crate::__private::packer::Guest for Component {
                fn start(limits: $crate::Limits) -> Result<(), $crate::PluginError> {
                    $crate::__private::with_packer(|plugin| plugin.start(limits))
                }
                fn push(
                    _ctx: $crate::__private::CallCtx,
                    items: $crate::__private::Batch,
                ) -> Result<$crate::__private::packer::Packing, $crate::PluginError> {
                    $crate::__private::with_packer(|plugin| plugin.push(&items))
                }
                fn flush() -> Result<$crate::__private::packer::Packing, $crate::PluginError> {
                    $crate::__private::with_packer(|plugin| plugin.flush())
                }
                fn save() -> Result<Vec<u8>, $crate::PluginError> {
                    $crate::__private::with_packer(|plugin| plugin.save())
                }
                fn restore(state: Vec<u8>) -> Result<(), $crate::PluginError> {
                    $crate::__private::with_packer(|plugin| plugin.restore(&state))
                }
            }
            $crate::__export_packer_world!(Component with_types_in $crate::bindings);
        };
    };
}

/// Exports one or several [`Prompt`](crate::Prompt)s as a component: `export_prompt!(MyPrompt);`
#[macro_export]
macro_rules! export_prompt {
    ($($plugin:ty),+ $(,)?) => {
        $crate::__export!(@checks Prompt, $($plugin),+);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__export!(@lifecycle Component; $(prompt $plugin),+);
            impl $crate::__private::prompt::Guest for Component {
                fn special_tokens() -> Vec<String> {
                    $crate::__private::with_prompt(|plugin| plugin.special_tokens())
                }
                fn stop_strings() -> Vec<String> {
                    $crate::__private::with_prompt(|plugin| plugin.stop_strings())
                }
                fn render(
                    ctx: $crate::__private::CallCtx,
                    mode: $crate::Mode,
                    batch: $crate::__private::Batch,
                ) -> Result<$crate::__private::prompt::Output, $crate::PluginError> {
                    $crate::__private::with_prompt(|plugin| plugin.render(&ctx, mode, &batch))
                }
            }
            $crate::__export_prompt_world!(Component with_types_in $crate::bindings);
        };
    };
}

/// Exports one or several [`Metric`](crate::Metric)s as a component: `export_metric!(MyMetric);`
#[macro_export]
macro_rules! export_metric {
    ($($plugin:ty),+ $(,)?) => {
        $crate::__export!(@checks Metric, $($plugin),+);
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;
            $crate::__export!(@lifecycle Component; $(metric $plugin),+);
            impl $crate::__private::metric::Guest for Component {
                fn outputs() -> Vec<$crate::MetricInfo> {
                    $crate::__private::with_metric(|plugin| plugin.outputs())
                }
                fn reset() {
                    $crate::__private::with_metric(|plugin| plugin.reset())
                }
                fn update(
                    ctx: $crate::__private::CallCtx,
                    batch: $crate::__private::Batch,
                ) -> Result<$crate::__private::metric::Scored, $crate::PluginError> {
                    $crate::__private::with_metric(|plugin| plugin.update(&ctx, &batch))
                }
                fn judged(
                    ctx: $crate::__private::CallCtx,
                    batch: $crate::__private::Batch,
                ) -> Result<$crate::__private::metric::Scored, $crate::PluginError> {
                    $crate::__private::with_metric(|plugin| plugin.judged(&ctx, &batch))
                }
                fn save() -> Result<Vec<u8>, $crate::PluginError> {
                    $crate::__private::with_metric(|plugin| plugin.save())
                }
                fn merge(state: Vec<u8>) -> Result<(), $crate::PluginError> {
                    $crate::__private::with_metric(|plugin| plugin.merge(&state))
                }
                fn finalize() -> Result<Vec<$crate::MetricValue>, $crate::PluginError> {
                    $crate::__private::with_metric(|plugin| Ok(plugin.finalize()))
                }
            }
            $crate::__export_metric_world!(Component with_types_in $crate::bindings);
        };
    };
}

/// What the macros share.
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (@checks $kind:ident, $($plugin:ty),+) => {
        const _: () = {
            const fn check<P: $crate::$kind>() {}
            $(check::<$plugin>();)+
        };
    };
    (@pure $plugin:ty) => {
        const _: () = assert!(
            !<$plugin as $crate::Plugin>::STREAMING,
            "a filter with state implements StatefulFilter and is exported by export_stateful_filter!"
        );
    };
    (@process $component:ident) => {
        impl $crate::__private::filter::Guest for $component {
            fn process(
                ctx: $crate::__private::CallCtx,
                batch: $crate::__private::Batch,
            ) -> Result<$crate::__private::filter::Decisions, $crate::PluginError> {
                $crate::__private::with_filter(|plugin| plugin.process(&ctx, &batch))
            }
        }
    };
    (@lifecycle $component:ident; $($kind:ident $plugin:ty),+) => {
        impl $crate::__private::lifecycle::Guest for $component {
            fn describe() -> $crate::__private::lifecycle::Description {
                $crate::__private::prepare();
                $crate::__private::lifecycle::Description {
                    name: env!("CARGO_PKG_NAME").into(),
                    version: env!("CARGO_PKG_VERSION").into(),
                    license: env!("CARGO_PKG_LICENSE").into(),
                    homepage: env!("CARGO_PKG_HOMEPAGE").into(),
                    entries: vec![$($crate::__private::entry::$kind::<$plugin>()),+],
                }
            }
            fn init(
                entry: String,
                config: String,
                assets: Vec<$crate::__private::lifecycle::Asset>,
            ) -> Result<String, Vec<$crate::__private::Diagnostic>> {
                $crate::__private::prepare();
                $(
                    if entry == <$plugin as $crate::Plugin>::NAME {
                        return $crate::__private::init::$kind::<$plugin>(&config, assets);
                    }
                )+
                Err($crate::__private::no_entry(&entry, &[$(<$plugin as $crate::Plugin>::NAME),+]))
            }
        }
    };
}

/// What the macros expand to. Not for authors.
#[doc(hidden)]
#[allow(missing_docs, reason = "not for authors")]
pub mod private {
    use std::cell::RefCell;

    pub use crate::bindings::exports::ovhost::plugin::{filter, filter_state, lifecycle, metric, packer, prompt};
    pub use crate::bindings::ovhost::plugin::types::{Batch, CallCtx, Diagnostic};
    use crate::plugin::make;
    use crate::{
        ErrorKind, Filter, Limits, Metric, MetricInfo, MetricValue, Mode, Packer, PluginError, Prompt, StatefulFilter,
    };

    /// A filter of any type.
    pub trait AnyFilter {
        fn process(&mut self, call: &CallCtx, batch: &Batch) -> Result<filter::Decisions, PluginError>;
        fn save(&self) -> Result<Vec<u8>, PluginError>;
        fn restore(&mut self, state: &[u8]) -> Result<(), PluginError>;
    }

    /// A filter without state.
    struct PureRunner<F>(F);

    impl<F: Filter> AnyFilter for PureRunner<F> {
        fn process(&mut self, call: &CallCtx, batch: &Batch) -> Result<filter::Decisions, PluginError> {
            crate::filter::process(&mut self.0, call, batch)
        }
        fn save(&self) -> Result<Vec<u8>, PluginError> {
            Err(stateless(F::NAME))
        }
        fn restore(&mut self, _: &[u8]) -> Result<(), PluginError> {
            Err(stateless(F::NAME))
        }
    }

    fn stateless(plugin: &str) -> PluginError {
        crate::plugin::error(ErrorKind::Unsupported, format!("{plugin}: it judges every row alone and has no state"))
    }

    /// A filter with state.
    struct StatefulRunner<F>(F);

    impl<F: StatefulFilter> AnyFilter for StatefulRunner<F> {
        fn process(&mut self, call: &CallCtx, batch: &Batch) -> Result<filter::Decisions, PluginError> {
            crate::filter::process(&mut self.0, call, batch)
        }
        fn save(&self) -> Result<Vec<u8>, PluginError> {
            Ok(self.0.save())
        }
        fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
            self.0.restore(state)
        }
    }

    /// A packer of any type.
    pub trait AnyPacker {
        fn start(&mut self, limits: Limits) -> Result<(), PluginError>;
        fn push(&mut self, batch: &Batch) -> Result<packer::Packing, PluginError>;
        fn flush(&mut self) -> Result<packer::Packing, PluginError>;
        fn save(&self) -> Result<Vec<u8>, PluginError>;
        fn restore(&mut self, state: &[u8]) -> Result<(), PluginError>;
    }

    impl<P: Packer> AnyPacker for crate::packer::Runner<P> {
        fn start(&mut self, limits: Limits) -> Result<(), PluginError> {
            self.start(limits)
        }
        fn push(&mut self, batch: &Batch) -> Result<packer::Packing, PluginError> {
            self.push(batch)
        }
        fn flush(&mut self) -> Result<packer::Packing, PluginError> {
            self.flush()
        }
        fn save(&self) -> Result<Vec<u8>, PluginError> {
            self.save()
        }
        fn restore(&mut self, state: &[u8]) -> Result<(), PluginError> {
            self.restore(state)
        }
    }

    /// A prompt of any type.
    pub trait AnyPrompt {
        fn special_tokens(&self) -> Vec<String>;
        fn stop_strings(&self) -> Vec<String>;
        fn render(&mut self, call: &CallCtx, mode: Mode, batch: &Batch) -> Result<prompt::Output, PluginError>;
    }

    /// Keeps a prompt's own methods and the erased ones apart.
    struct PromptRunner<P>(P);

    impl<P: Prompt> AnyPrompt for PromptRunner<P> {
        fn special_tokens(&self) -> Vec<String> {
            self.0.special_tokens()
        }
        fn stop_strings(&self) -> Vec<String> {
            self.0.stop_strings()
        }
        fn render(&mut self, call: &CallCtx, mode: Mode, batch: &Batch) -> Result<prompt::Output, PluginError> {
            crate::prompt::render(&mut self.0, call, mode, batch)
        }
    }

    /// A metric of any type.
    pub trait AnyMetric {
        fn outputs(&self) -> Vec<MetricInfo>;
        fn reset(&mut self);
        fn update(&mut self, call: &CallCtx, batch: &Batch) -> Result<metric::Scored, PluginError>;
        fn judged(&mut self, call: &CallCtx, batch: &Batch) -> Result<metric::Scored, PluginError>;
        fn save(&self) -> Result<Vec<u8>, PluginError>;
        fn merge(&mut self, state: &[u8]) -> Result<(), PluginError>;
        fn finalize(&self) -> Vec<MetricValue>;
    }

    impl<M: Metric> AnyMetric for crate::metric::Runner<M> {
        fn outputs(&self) -> Vec<MetricInfo> {
            self.outputs()
        }
        fn reset(&mut self) {
            self.reset();
        }
        fn update(&mut self, call: &CallCtx, batch: &Batch) -> Result<metric::Scored, PluginError> {
            self.update(call, batch)
        }
        fn judged(&mut self, call: &CallCtx, batch: &Batch) -> Result<metric::Scored, PluginError> {
            self.judged(call, batch)
        }
        fn save(&self) -> Result<Vec<u8>, PluginError> {
            self.save()
        }
        fn merge(&mut self, state: &[u8]) -> Result<(), PluginError> {
            self.merge(state)
        }
        fn finalize(&self) -> Vec<MetricValue> {
            self.finalize()
        }
    }

    macro_rules! slots {
        ($($slot:ident $with:ident $any:ident),+) => {
            $(
                thread_local! {
                    static $slot: RefCell<Option<Box<dyn $any>>> = const { RefCell::new(None) };
                }

                /// Calls `f` with the configured plugin. The contract calls `init` first; a host that does not gets a
                /// trap with this text.
                pub fn $with<T>(f: impl FnOnce(&mut dyn $any) -> T) -> T {
                    $slot.with_borrow_mut(|slot| match slot {
                        Some(plugin) => f(plugin.as_mut()),
                        None => panic!("the plugin was called before `init`"),
                    })
                }
            )+
        };
    }
    slots!(
        FILTER with_filter AnyFilter,
        PACKER with_packer AnyPacker,
        PROMPT with_prompt AnyPrompt,
        METRIC with_metric AnyMetric
    );

    /// Runs before anything else of a component.
    pub fn prepare() {
        crate::log::install_panic_hook();
    }

    /// `init` for a name that is not there.
    pub fn no_entry(entry: &str, names: &[&str]) -> Vec<Diagnostic> {
        let message = format!("this component has no entry `{entry}`; it has: {}", names.join(", "));
        vec![Diagnostic { path: String::new(), message, fatal: true }]
    }

    /// The description of one plugin, by kind.
    pub mod entry {
        use super::lifecycle::Entry;
        use crate::plugin::entry;

        pub fn filter<P: crate::Filter>() -> Entry {
            entry::<P>(false)
        }
        pub fn stateful_filter<P: crate::StatefulFilter>() -> Entry {
            entry::<P>(true)
        }
        pub fn packer<P: crate::Packer>() -> Entry {
            entry::<P>(true)
        }
        pub fn prompt<P: crate::Prompt>() -> Entry {
            entry::<P>(false)
        }
        pub fn metric<P: crate::Metric>() -> Entry {
            entry::<P>(false)
        }
    }

    /// Makes one plugin and puts it in its slot, by kind.
    pub mod init {
        use super::{Diagnostic, FILTER, METRIC, PACKER, PROMPT, lifecycle::Asset, make};
        use super::{PromptRunner, PureRunner, StatefulRunner};

        type Made = Result<String, Vec<Diagnostic>>;

        pub fn filter<P: crate::Filter>(config: &str, assets: Vec<Asset>) -> Made {
            let (plugin, resolved) = make::<P>(config, assets).map_err(|e| e.findings)?;
            FILTER.set(Some(Box::new(PureRunner(plugin))));
            Ok(resolved)
        }
        pub fn stateful_filter<P: crate::StatefulFilter>(config: &str, assets: Vec<Asset>) -> Made {
            let (plugin, resolved) = make::<P>(config, assets).map_err(|e| e.findings)?;
            FILTER.set(Some(Box::new(StatefulRunner(plugin))));
            Ok(resolved)
        }
        pub fn packer<P: crate::Packer>(config: &str, assets: Vec<Asset>) -> Made {
            let (plugin, resolved) = make::<P>(config, assets).map_err(|e| e.findings)?;
            PACKER.set(Some(Box::new(crate::packer::Runner::new(plugin))));
            Ok(resolved)
        }
        pub fn prompt<P: crate::Prompt>(config: &str, assets: Vec<Asset>) -> Made {
            let (plugin, resolved) = make::<P>(config, assets).map_err(|e| e.findings)?;
            PROMPT.set(Some(Box::new(PromptRunner(plugin))));
            Ok(resolved)
        }
        pub fn metric<P: crate::Metric>(config: &str, assets: Vec<Asset>) -> Made {
            let (plugin, resolved) = make::<P>(config, assets).map_err(|e| e.findings)?;
            METRIC.set(Some(Box::new(crate::metric::Runner::new(plugin))));
            Ok(resolved)
        }
    }
}
