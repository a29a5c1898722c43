//! The daemon client against real daemons, and against scripted bytes where no real daemon would send them.

mod build;
mod malformed;
mod older_protocols;
mod script;
mod store;
mod support;
mod transfer;
