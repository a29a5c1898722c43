//! Journals as those who stand on them see them: against a model, killed at random, on bad disks, and on a real
//! PostgreSQL server.

mod child;
mod contract;
mod crash;
mod disk;
mod entries;
mod postgres;
mod sqlite;
