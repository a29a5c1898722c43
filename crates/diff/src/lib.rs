//! Closures in, changes and reports out: what an update does to a fleet.
