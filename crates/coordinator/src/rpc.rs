//! The gRPC services: requests become inputs of the shell, feeds become streams. No decisions, no state.

mod chunks;
mod runs;
pub(crate) mod status;
mod workers;

pub(crate) use chunks::ChunksService;
pub(crate) use runs::RunsService;
pub(crate) use workers::WorkersService;
