//! fleetctl: arguments, progress, report files.
