//! Nix in layers: paths, derivations, archives and signatures (pure), the daemon and the evaluator (IO).
