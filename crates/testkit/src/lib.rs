//! Real Nix daemons with stores of their own, and a binary cache on loopback, for tests.
