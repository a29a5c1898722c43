//! The program `fleetctl`; everything it does is in the library.

fn main() -> fleet_client::exit_code::Exit {
    fleet_client::main(std::env::args_os())
}
