//! Sockets, journal and logs around the core: the program that coordinates a fleet.
