//! The tasks' own rules, one module each: an answer in, what was read and whether it is right out.

pub mod ai2d;
pub mod chartqa;
pub mod charxiv;
pub mod mathvista;
pub mod mmbench;
pub mod mme;
pub mod mmerealworld;
pub mod mmmu;
pub mod mmstar;
pub mod scienceqa;
pub mod vstar;
