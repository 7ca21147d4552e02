//! Files and folders that other users of the machine can't read.

use std::{io, path::Path};

/// Restricts access to a folder to its owner.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    restrict(folder, 0o700)
}

/// Restricts access to a file to its owner.
pub(crate) fn private_file(file: &Path) -> io::Result<()> {
    restrict(file, 0o600)
}

#[cfg(unix)]
fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    use std::{fs, os::unix::fs::PermissionsExt};

    if fs::metadata(path)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    let restricted = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    or_warn(restricted, path)
}

#[cfg(not(unix))]
fn restrict(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// Turns the refusal of a file system without permissions (vfat, exFAT, some
/// network shares) into a warning. A backup on such a file system is better
/// than none.
#[cfg(unix)]
fn or_warn(restricted: io::Result<()>, path: &Path) -> io::Result<()> {
    use io::ErrorKind::{PermissionDenied, Unsupported};

    match restricted {
        Err(error) if matches!(error.kind(), PermissionDenied | Unsupported) => {
            tracing::warn!(
                "Other users of this machine may be able to read {}: its permissions can't be \
                 changed ({error}). Use a file system with permissions, or mount it with \
                 `umask=077`",
                path.display()
            );
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_system_without_permissions_gives_a_warning() {
        let path = Path::new("/media/stick");
        for refused in ["EPERM", "ENOTSUP"] {
            let number = match refused {
                "EPERM" => rustix::io::Errno::PERM,
                _ => rustix::io::Errno::NOTSUP,
            };
            assert!(or_warn(Err(number.into()), path).is_ok(), "{refused}");
        }
        let full = rustix::io::Errno::NOSPC;
        assert!(or_warn(Err(full.into()), path).is_err());
    }

    #[test]
    fn folders_and_files_are_readable_only_by_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        let file = inside.join("file");
        std::fs::write(&file, "x").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&inside, open).unwrap();
        private_folder(&inside).unwrap();
        private_file(&file).unwrap();
        assert_eq!((mode(&inside), mode(&file)), (0o700, 0o600));
    }
}
