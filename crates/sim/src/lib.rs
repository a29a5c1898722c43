//! Drives the core from a seed: a whole fleet in one thread and in virtual time.
