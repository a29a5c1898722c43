//! Tests that run the real programs, and the tidy test of this repository.
