//! The coordinator's program at its sockets: settings, certificates, who may do what, and peers that mean harm.

mod access;
mod config;
mod enrolment;
mod floods;
mod running;
mod standby;
mod tls;
