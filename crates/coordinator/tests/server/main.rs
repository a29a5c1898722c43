//! The coordinator's program at its sockets: settings, certificates, who may do what, and peers that mean harm.

mod access;
mod bad_bytes;
mod bad_requests;
mod config;
mod enrolment;
mod floods;
mod objects;
mod running;
mod standby;
mod tls;
