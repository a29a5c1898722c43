//! What a fleet knows of its store paths: what they are, who has them, and whether that is believed.
//!
//! Pure: no clock, file, socket or environment. Whoever owns a [`Table`] keeps the [`Record`]s it gives, and makes
//! the same table of them again. Nothing here says who may do what; [`Refusal`] says why a path is not believed.

mod build;
pub mod collector;
mod record;
mod refusal;
pub mod roots;
mod snapshot;
mod table;
mod walk;

pub use build::{Build, Heard, Named};
pub use record::{Described, Record};
pub use refusal::Refusal;
pub use table::{Origin, Standing, Table};
pub use walk::{Depth, Place, Whereabouts};
