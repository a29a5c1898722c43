//! What an administrator does beside a coordinator: look at settings, make certificates, mend the journal. Nothing
//! here serves.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};

use fleet_identity::{Name, Role, authority::lifetime, unix_now};

use crate::config::Layers;
use crate::server::Material;

/// What becomes of a command.
pub type Outcome = Result<(), Box<dyn Error>>;

/// Prints every setting, its value and its origin.
pub fn show(layers: &Layers) -> Outcome {
    print(&layers.resolve()?.show())
}

/// Checks a file alone, whatever environment and flags would make of it.
pub fn check(file: PathBuf) -> Outcome {
    Layers { file: Some(file), ..Layers::default() }.resolve()?;
    Ok(())
}

/// Makes a client certificate with role admin, and puts it with its key into one file.
pub fn admin_certificate(layers: &Layers, out: &Path, name: &str) -> Outcome {
    let config = layers.resolve()?.config;
    let name: Name = name.parse()?;
    let material = Material::load(&config)?;
    let made = material.authority.make_client(unix_now(), lifetime::CLIENT_S, &name, Role::Admin)?;
    // What the port shows may be of another CA than what it trusts.
    let made = fleet_identity::Credentials { authorities: material.trusted, ..made };
    std::fs::create_dir_all(out)?;
    let file = out.join(format!("{name}.pem"));
    made.write(&file)?;
    print(&format!("{}\n", file.display()))
}

/// Prints the certificates by which the port is trusted; no key is among them.
pub fn authorities(layers: &Layers) -> Outcome {
    let material = Material::load(&layers.resolve()?.config)?;
    print(&fleet_identity::certificates_pem(&material.trusted))
}

/// Puts a new CA before the coordinator's own; a running coordinator takes it up with SIGHUP.
pub fn rotate_ca(layers: &Layers) -> Outcome {
    let config = layers.resolve()?.config;
    if !config.server.tls.authorities.is_empty() {
        return Err("the CAs are given as files: put the new one first in tls.authorities".into());
    }
    Material::rotate(&config)?;
    print(
        "A new CA signs from the next start or SIGHUP on. The old one is trusted until the next rotation.\n",
    )
}

/// Mends a damaged journal: keeps what is sound, moves the rest aside, says what is lost.
pub fn repair(layers: &Layers) -> Outcome {
    let report = fleet_journal::repair(&layers.resolve()?.config.location())?;
    print(&format!("{report}\n"))
}

/// Closing standard output early is no error.
fn print(text: &str) -> Outcome {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
