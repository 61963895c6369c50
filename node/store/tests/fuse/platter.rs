//! A disk as strict as POSIX allows: what a power cut finds is what was synced, nothing else.
//!
//! * **Data** written to a file is there after a cut only if an `fsync` or `fdatasync` of that file came after it.
//! * **Names** (created, renamed, removed) change only with an `fsync` of the folder.
//! * A **sync that fails** has lost what it should have synced, although reads still show it until the cut, as Linux' page
//!   cache does; a later sync of the same file does not bring it back.
//! * A cut may also be **torn**: names as they are, and of each file's writes since its sync the first few, the last of
//!   these in part.
//!
//! One folder, no links. Contents lie in real files, one for each inode; what a cut takes back is kept in memory.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use tempfile::TempDir;

/// What a write or truncation has replaced.
struct Undo {
    at: u64,
    old: Vec<u8>,
    old_len: u64,
    /// Bytes written.
    new: u64,
}

struct Inode {
    file: File,
    len: u64,
    undo: Vec<Undo>,
    /// A sync of it has failed.
    lost: bool,
    opens: u32,
}

/// The disk's state.
pub(crate) struct Platter {
    backing: TempDir,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    names: BTreeMap<OsString, u64>,
    synced_names: BTreeMap<OsString, u64>,
    /// The power is off: everything fails.
    off: bool,
    /// Changes and syncs that still succeed before all fail.
    fault: Option<u64>,
    /// Says that it synced and didn't.
    lies: bool,
    /// Syncs that succeeded.
    pub(crate) syncs: u64,
    /// Changes and syncs that failed on purpose.
    pub(crate) faults: u64,
}

impl Platter {
    pub(crate) fn new(lies: bool) -> Self {
        Self {
            backing: tempfile::tempdir().unwrap(),
            inodes: BTreeMap::new(),
            next: 2,
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            off: false,
            fault: None,
            lies,
            syncs: 0,
            faults: 0,
        }
    }

    /// From now on nothing works, so that nothing more can be confirmed.
    pub(crate) fn cut(&mut self) {
        self.off = true;
    }

    /// Takes back what the cut has lost, and works again.
    pub(crate) fn restore(&mut self, mut torn: Option<&mut ChaCha20Rng>) {
        for inode in self.inodes.values_mut() {
            let mut keep = (0, 0);
            if let Some(rng) = torn.as_deref_mut().filter(|_| !inode.lost) {
                let whole = rng.next_u64() % (inode.undo.len() as u64 + 1);
                keep.0 = whole as usize;
                keep.1 = inode.undo.get(keep.0).map_or(0, |undo| rng.next_u64() % (undo.new + 1));
            }
            while let Some(undo) = inode.undo.pop() {
                let place = inode.undo.len();
                if place < keep.0 {
                    break;
                }
                inode.take_back(&undo, if place == keep.0 { keep.1 } else { 0 }).unwrap();
            }
            inode.undo.clear();
            (inode.lost, inode.opens) = (false, 0);
        }
        if torn.is_some() {
            self.synced_names.clone_from(&self.names);
        } else {
            self.names.clone_from(&self.synced_names);
        }
        self.collect();
        (self.off, self.fault) = (false, None);
    }

    /// All changes and syncs fail after so many more.
    pub(crate) fn fail_after(&mut self, count: u64) {
        self.fault = Some(count);
    }

    /// The fault is over.
    pub(crate) fn heal(&mut self) {
        self.fault = None;
    }

    fn io(&self) -> io::Result<()> {
        if self.off { Err(eio()) } else { Ok(()) }
    }

    fn change(&mut self) -> io::Result<()> {
        self.io()?;
        match &mut self.fault {
            None => Ok(()),
            Some(0) => {
                self.faults += 1;
                Err(eio())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn inode(&mut self, number: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&number).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Inode and length of a name.
    pub(crate) fn look_up(&self, name: &OsStr) -> io::Result<(u64, u64)> {
        self.io()?;
        let number = *self.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok((number, self.len(number)?))
    }

    pub(crate) fn len(&self, number: u64) -> io::Result<u64> {
        self.io()?;
        Ok(self.inodes.get(&number).ok_or(io::ErrorKind::NotFound)?.len)
    }

    pub(crate) fn list(&self) -> io::Result<Vec<(u64, OsString)>> {
        self.io()?;
        Ok(self.names.iter().map(|(name, number)| (*number, name.clone())).collect())
    }

    pub(crate) fn create(&mut self, name: &OsStr) -> io::Result<u64> {
        self.change()?;
        let number = self.next;
        self.next += 1;
        let path = self.backing.path().join(number.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        self.inodes.insert(number, Inode { file, len: 0, undo: Vec::new(), lost: false, opens: 1 });
        self.names.insert(name.to_owned(), number);
        Ok(number)
    }

    pub(crate) fn open(&mut self, number: u64) -> io::Result<()> {
        self.io()?;
        self.inode(number)?.opens += 1;
        Ok(())
    }

    pub(crate) fn close(&mut self, number: u64) {
        if let Ok(inode) = self.inode(number) {
            inode.opens = inode.opens.saturating_sub(1);
        }
    }

    pub(crate) fn remove(&mut self, name: &OsStr) -> io::Result<()> {
        self.change()?;
        self.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) fn rename(&mut self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.change()?;
        let number = self.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.names.insert(to.to_owned(), number);
        Ok(())
    }

    pub(crate) fn read(&mut self, number: u64, at: u64, size: usize) -> io::Result<Vec<u8>> {
        self.io()?;
        self.inode(number)?.read(at, size)
    }

    pub(crate) fn write(&mut self, number: u64, at: u64, data: &[u8]) -> io::Result<()> {
        self.change()?;
        let inode = self.inode(number)?;
        let (old, old_len) = (inode.read(at, data.len())?, inode.len);
        inode.file.write_all_at(data, at)?;
        inode.len = inode.len.max(at + data.len() as u64);
        inode.undo.push(Undo { at, old, old_len, new: data.len() as u64 });
        Ok(())
    }

    pub(crate) fn set_len(&mut self, number: u64, len: u64) -> io::Result<()> {
        self.change()?;
        let inode = self.inode(number)?;
        let old_len = inode.len;
        let old = inode.read(len, old_len.saturating_sub(len) as usize)?;
        inode.file.set_len(len)?;
        inode.len = len;
        inode.undo.push(Undo { at: len, old, old_len, new: 0 });
        Ok(())
    }

    pub(crate) fn sync(&mut self, number: u64) -> io::Result<()> {
        let allowed = self.change();
        let (off, lies) = (self.off, self.lies);
        let inode = self.inode(number)?;
        if let Err(e) = allowed {
            inode.lost |= !off;
            return Err(e);
        }
        if !lies && !inode.lost {
            inode.undo.clear();
        }
        self.syncs += 1;
        Ok(())
    }

    pub(crate) fn sync_names(&mut self) -> io::Result<()> {
        self.change()?;
        if !self.lies {
            self.synced_names.clone_from(&self.names);
            self.collect();
        }
        Ok(())
    }

    /// Frees what no name leads to and nobody has open.
    fn collect(&mut self) {
        let (names, synced, backing) = (&self.names, &self.synced_names, self.backing.path());
        self.inodes.retain(|number, inode| {
            let named = |names: &BTreeMap<_, u64>| names.values().any(|n| n == number);
            let keep = inode.opens > 0 || named(names) || named(synced);
            if !keep {
                std::fs::remove_file(backing.join(number.to_string())).unwrap();
            }
            keep
        });
    }
}

impl Inode {
    fn read(&self, at: u64, size: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; size.min(self.len.saturating_sub(at) as usize)];
        self.file.read_exact_at(&mut data, at)?;
        Ok(data)
    }

    /// Takes back all but the first `keep` bytes of a write.
    fn take_back(&mut self, undo: &Undo, keep: u64) -> io::Result<()> {
        let (from, len) = (undo.at + keep, undo.old_len.max(undo.at + keep));
        let len = if keep == 0 { undo.old_len } else { len };
        self.file.set_len(len)?;
        self.len = len;
        match undo.old.get(keep as usize..) {
            Some(old) => self.file.write_all_at(old, from),
            None => Ok(()),
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

#[test]
fn a_cut_takes_back_what_was_not_synced_and_nothing_else() {
    let mut p = Platter::new(false);
    let names = |p: &Platter| p.list().unwrap().into_iter().map(|(_, name)| name).collect::<Vec<_>>();
    let (a, b) = (OsStr::new("a"), OsStr::new("b"));
    let first = p.create(a).unwrap();
    p.write(first, 0, b"synced").unwrap();
    p.sync(first).unwrap();
    p.sync_names().unwrap();
    p.write(first, 3, b"overwritten").unwrap();
    p.set_len(first, 2).unwrap();
    p.rename(a, b).unwrap();
    p.create(a).unwrap();
    p.cut();
    assert!(p.read(first, 0, 9).is_err() && p.sync(first).is_err());
    p.restore(None);
    assert_eq!((names(&p), p.read(first, 0, 99).unwrap()), (vec![a.to_owned()], b"synced".to_vec()));

    // A sync that failed is not made good by one that succeeds.
    p.write(first, 6, b" or not").unwrap();
    p.fail_after(0);
    assert!(p.sync(first).is_err() && p.write(first, 0, b"x").is_err());
    p.heal();
    p.sync(first).unwrap();
    assert_eq!(p.read(first, 0, 99).unwrap(), b"synced or not");
    p.cut();
    p.restore(None);
    assert_eq!(p.read(first, 0, 99).unwrap(), b"synced");
}

#[test]
fn a_torn_cut_keeps_the_beginning_of_what_was_written() {
    use rand_chacha::rand_core::SeedableRng;
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let mut lengths = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let mut p = Platter::new(false);
        let number = p.create(OsStr::new("a")).unwrap();
        for part in [b"one,", b"two,", b"six."] {
            p.write(number, p.len(number).unwrap(), part).unwrap();
        }
        p.cut();
        p.restore(Some(&mut rng));
        let left = p.read(number, 0, 99).unwrap();
        assert!(b"one,two,six.".starts_with(&left), "{left:?}");
        lengths.insert(left.len());
    }
    assert!(lengths.len() > 8, "{lengths:?}");
}
