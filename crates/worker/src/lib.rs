//! Evaluates and builds with the local Nix daemon on behalf of a coordinator.
