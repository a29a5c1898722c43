//! Results on their way out: standard output, and files that are whole or not there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::CliError;

/// Prints a result. Whoever closed standard output wants no more of it, and no complaint.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CliError::unwritable_output(Path::new("standard output"), &error))
        }
        _ => Ok(()),
    }
}

/// Writes a file, replacing an older one at once: a reader sees either all of it or the old one.
pub fn write_file(path: &Path, text: &str) -> Result<(), CliError> {
    replace(path, text).map_err(|error| CliError::unwritable_output(path, &error))
}

/// Fails early where [`write_file`] would fail after hours.
pub fn check_writable(path: &Path) -> Result<(), CliError> {
    let check = || {
        if path.is_dir() {
            return Err(io::Error::from(io::ErrorKind::IsADirectory));
        }
        if is_special(path) { Ok(()) } else { tempfile::tempfile_in(directory(path)).map(drop) }
    };
    check().map_err(|error| CliError::unwritable_output(path, &error))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    if is_special(path) {
        return fs::write(path, text);
    }
    let mode = fs::metadata(path).map_or(0o644, |old| old.permissions().mode() & 0o777);
    let mut file = tempfile::Builder::new().prefix(".fleetctl-").tempfile_in(directory(path))?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    // A link stays a link: what it points at is replaced.
    let target = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    file.persist(target).map_err(|error| error.error)?;
    Ok(())
}

/// `/dev/stderr`, a pipe: written as they are.
fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("report.md");
        write_file(&path, "old").expect("written");
        write_file(&path, "new").expect("written");
        assert_eq!(fs::read_to_string(&path).expect("read"), "new");
        assert_eq!(fs::read_dir(directory.path()).expect("list").count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_said_before_the_run() {
        let directory = tempfile::tempdir().expect("directory");
        let error = check_writable(&directory.path().join("missing/report.md")).expect_err("refused");
        let text = error.paragraph().replace(&directory.path().display().to_string(), "DIR");
        insta::assert_snapshot!(text, @"error: cannot write DIR/missing/report.md: no such file or directory. Create the directory first.");
        assert!(check_writable(directory.path()).is_err());
        assert!(check_writable(&directory.path().join("report.md")).is_ok());
    }
}
