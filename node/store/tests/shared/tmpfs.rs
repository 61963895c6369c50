//! A small file system of its own, for what happens on a full disk.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// Mounted while it lives.
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// `None`, with a word on standard output, where it can't be mounted.
    pub fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                println!("skipped: mounting a tmpfs needs root ({})", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(e) => {
                println!("skipped: mount can't be run ({e})");
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.0.path()).status();
        if !unmounted.is_ok_and(|s| s.success()) {
            println!("{} could not be unmounted", self.0.path().display());
        }
    }
}

pub fn free_bytes(path: &Path) -> u64 {
    let s = rustix::fs::statvfs(path).unwrap();
    s.f_bavail * s.f_frsize
}
