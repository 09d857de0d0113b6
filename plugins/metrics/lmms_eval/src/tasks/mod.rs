//! The tasks, one a file.

mod ai2d;
mod chartqa;
mod charxiv;
mod docvqa;
mod mathvista;
mod mmbench;
mod mme;
mod mmerealworld;
mod mmmu;
mod mmstar;
mod scienceqa;
mod vstar;

pub use ai2d::Ai2d;
pub use chartqa::ChartQa;
pub use charxiv::{CharXivDescriptive, CharXivReasoning};
pub use docvqa::DocVqa;
pub use mathvista::MathVista;
pub use mmbench::MmBench;
pub use mme::Mme;
pub use mmerealworld::MmeRealWorld;
pub use mmmu::{Mmmu, MmmuPro};
pub use mmstar::MmStar;
pub use scienceqa::ScienceQa;
pub use vstar::VStar;
