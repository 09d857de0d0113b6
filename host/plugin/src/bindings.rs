//! The contract `wit/plugin.wit` as Rust, made by wasmtime's macro.
//!
//! In: the WIT package at the workspace root. Out: the `log` trait that the host implements, and for every exported
//! interface a `GuestIndices` (names looked up once per component) and a `Guest` (typed functions of one instance).
//!
//! The worlds differ only in which of five interfaces they export, so the host binds one inline world that exports
//! them all and takes from it just the interfaces that a component has. All kinds then share one set of types, and
//! what goes in borrows the caller's memory (`*Param<'a>`) while what comes out is owned (`*Result`).

#![allow(missing_docs, unused_variables, dead_code, reason = "generated from wit/plugin.wit")]
#![allow(clippy::all, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../wit",
    inline: "
        package ovhost:host;
        world everything {
            import ovhost:plugin/log@0.1.0;
            export ovhost:plugin/lifecycle@0.1.0;
            export ovhost:plugin/filter@0.1.0;
            export ovhost:plugin/filter-state@0.1.0;
            export ovhost:plugin/packer@0.1.0;
            export ovhost:plugin/prompt@0.1.0;
            export ovhost:plugin/metric@0.1.0;
        }
    ",
    world: "ovhost:host/everything",
    // A plugin that logs without end is stopped.
    imports: { "ovhost:plugin/log.log": trappable },
    ownership: Borrowing { duplicate_if_necessary: true },
});
