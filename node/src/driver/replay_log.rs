//! The replay filter on disk: a file for each key epoch and shard, written and not synced.
//!
//! What was written survives the process, not the machine. A file that was neither closed in order nor written since
//! the machine's last boot may therefore lack tags, and its key epoch's mix keys have to go.
//!
//! ```text
//! 0     8         10      42     58          66       70      74      75
//! | "posta-rl" | version | relay | boot id | key epoch | shards | shard | clean | zeros to 80 | records
//! record: fingerprint (8) | route (8)
//! ```
//! Each run writes files of its own, so a torn record at the end of an older one harms nothing. A file's header is
//! synced, and its folder, before the first record: a file that the machine lost was never used.
//!
//! A full key epoch is 16 bytes for each packet: 1.07 GB with the default capacity, and a second one of up to the same
//! size beside it for the minutes in which both have keys. At a start the files of key epochs that have keys are read
//! once, 64 KB at a time; the others are removed unread.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use posta_protocol::ids::{KeyEpoch, RelayId};

use crate::relay::replay::{Route, Seen};

const MAGIC: &[u8; 8] = b"posta-rl";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 80;
const CLEAN_AT: u64 = 74;
const RECORD_LEN: usize = 16;

/// A boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// The machine's current one, as Linux tells it; a random one where it doesn't, so that nothing is taken for safe.
    #[must_use]
    pub fn current() -> Self {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: Vec<u8> = text.bytes().filter_map(|b| char::from(b).to_digit(16)).map(|d| d as u8).collect();
        let mut id: [u8; 16] = rand::random();
        if digits.len() == 32 {
            for (to, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
                *to = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
            }
        }
        Self(id)
    }
}

/// Whose log it is, and when.
#[derive(Clone, Debug)]
pub struct LogOwner {
    /// The folder.
    pub dir: PathBuf,
    /// The relay.
    pub relay: RelayId,
    /// The machine's boot.
    pub boot: BootId,
}

/// What a log held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The number of this run; files of earlier runs have lower ones.
    pub run: u64,
    /// Key epochs of which tags may be missing: their keys must be destroyed before they are used.
    pub spoiled: BTreeSet<KeyEpoch>,
}

/// What the folder holds: records by key epoch, by the files' sizes. To be asked before [`load`], which then finds room
/// made for them.
///
/// # Errors
/// What the system says.
pub fn sizes(dir: &Path) -> io::Result<BTreeMap<KeyEpoch, u64>> {
    fs::create_dir_all(dir)?;
    let mut sizes = BTreeMap::new();
    for (path, epoch, _) in files(dir)? {
        let records = fs::metadata(&path)?.len().saturating_sub(HEADER_LEN as u64) / RECORD_LEN as u64;
        *sizes.entry(epoch).or_default() += records;
    }
    Ok(sizes)
}

/// Reads everything that earlier runs wrote, and makes it lasting. `restore` takes each record and says whether it had
/// room for it.
///
/// # Errors
/// What the system says.
pub fn load(owner: &LogOwner, mut restore: impl FnMut(Seen) -> bool) -> io::Result<Loaded> {
    fs::create_dir_all(&owner.dir)?;
    let mut loaded = Loaded::default();
    for (path, epoch, run) in files(&owner.dir)? {
        loaded.run = loaded.run.max(run + 1);
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = file.metadata()?.len();
        if length < HEADER_LEN as u64 {
            // Its header was not synced, so nothing was sent on its account.
            fs::remove_file(&path)?;
            continue;
        }
        let mut header = [0; HEADER_LEN];
        file.read_exact(&mut header)?;
        let expected = encode_header(owner, epoch, 0, 0);
        let same = |range: std::ops::Range<usize>| header.get(range.clone()) == expected.get(range);
        let ours = same(0..42) && same(58..66);
        let clean = header.get(CLEAN_AT as usize) == Some(&1);
        if !ours || !(same(42..58) || clean) || !read_records(&mut file, epoch, &mut restore)? {
            loaded.spoiled.insert(epoch);
            continue;
        }
        if !clean {
            close(&mut file)?;
        }
    }
    Ok(loaded)
}

/// Removes the files of a key epoch, after its keys.
///
/// # Errors
/// What the system says.
pub fn remove_epoch(dir: &Path, epoch: KeyEpoch) -> io::Result<()> {
    remove(dir, |e| e == epoch)
}

fn remove(dir: &Path, which: impl Fn(KeyEpoch) -> bool) -> io::Result<()> {
    for (path, epoch, _) in files(dir)? {
        if which(epoch) {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The log's files with key epoch and run: `EPOCH-RUN-SHARD.log`.
fn files(dir: &Path) -> io::Result<Vec<(PathBuf, KeyEpoch, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".log"));
        let mut numbers = name.unwrap_or_default().split('-').map(|n| n.parse::<u64>().ok());
        if let (Some(Some(epoch)), Some(Some(run)), Some(Some(_)), None) =
            (numbers.next(), numbers.next(), numbers.next(), numbers.next())
        {
            found.push((path, KeyEpoch(epoch), run));
        }
    }
    Ok(found)
}

/// Whether all records found room. A torn one at the end was never sent on the account of.
fn read_records(file: &mut File, epoch: KeyEpoch, restore: &mut impl FnMut(Seen) -> bool) -> io::Result<bool> {
    let mut reader = io::BufReader::with_capacity(1 << 16, file);
    let mut record = [0; RECORD_LEN];
    loop {
        match reader.read_exact(&mut record) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
            Err(e) => return Err(e),
        }
        let (fingerprint, route) = record.split_at(8);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        let seen = Seen { key_epoch: epoch, fingerprint: number(fingerprint), route: Route(number(route)) };
        if !restore(seen) {
            return Ok(false);
        }
    }
}

fn encode_header(owner: &LogOwner, epoch: KeyEpoch, shards: u32, shard: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&owner.relay.0);
    header.extend_from_slice(&owner.boot.0);
    header.extend_from_slice(&epoch.0.to_le_bytes());
    header.extend_from_slice(&shards.to_le_bytes());
    header.extend_from_slice(&shard.to_le_bytes());
    header.resize(HEADER_LEN, 0);
    header
}

/// Makes a file lasting: first its records, then the mark that says so.
fn close(file: &mut File) -> io::Result<()> {
    file.sync_data()?;
    file.seek(SeekFrom::Start(CLEAN_AT))?;
    file.write_all(&[1])?;
    file.sync_data()
}

/// One worker's part of the log.
#[derive(Debug)]
pub struct ShardLog {
    owner: LogOwner,
    run: u64,
    shards: u32,
    shard: u32,
    open: BTreeMap<KeyEpoch, File>,
    buffer: Vec<u8>,
}

impl ShardLog {
    /// The log of worker `shard` of `shards` in this run. A file is made with its first record.
    #[must_use]
    pub const fn new(owner: LogOwner, run: u64, shards: u32, shard: u32) -> Self {
        Self { owner, run, shards, shard, open: BTreeMap::new(), buffer: Vec::new() }
    }

    /// Writes tags: with one call of the system for each key epoch, usually one.
    ///
    /// # Errors
    /// What the system says; the packets must then not go on.
    pub fn write(&mut self, seen: &[Seen]) -> io::Result<()> {
        let mut rest = seen;
        while let Some(first) = rest.first() {
            let run = rest.iter().take_while(|s| s.key_epoch == first.key_epoch).count();
            let (same, others) = rest.split_at(run);
            self.buffer.clear();
            for seen in same {
                self.buffer.extend_from_slice(&seen.fingerprint.to_le_bytes());
                self.buffer.extend_from_slice(&seen.route.0.to_le_bytes());
            }
            if !self.open.contains_key(&first.key_epoch) {
                let file = self.create(first.key_epoch)?;
                self.open.insert(first.key_epoch, file);
            }
            if let Some(file) = self.open.get_mut(&first.key_epoch) {
                let before = file.stream_position()?;
                if let Err(e) = file.write_all(&self.buffer) {
                    // Half a record would shift all that follow.
                    file.set_len(before)?;
                    file.seek(SeekFrom::Start(before))?;
                    return Err(e);
                }
            }
            rest = others;
        }
        Ok(())
    }

    /// Removes what belongs to key epochs before `oldest`; the first shard does it for all.
    ///
    /// # Errors
    /// What the system says.
    pub fn forget_before(&mut self, oldest: KeyEpoch) -> io::Result<()> {
        self.open.retain(|epoch, _| *epoch >= oldest);
        if self.shard == 0 { remove(&self.owner.dir, |epoch| epoch < oldest) } else { Ok(()) }
    }

    /// Ends in order: after this a new boot of the machine does no harm.
    ///
    /// # Errors
    /// What the system says.
    pub fn close(mut self) -> io::Result<()> {
        self.open.values_mut().try_for_each(close)
    }

    fn create(&self, epoch: KeyEpoch) -> io::Result<File> {
        let path = self.owner.dir.join(format!("{}-{}-{}.log", epoch.0, self.run, self.shard));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&encode_header(&self.owner, epoch, self.shards, self.shard))?;
        file.sync_all()?;
        File::open(&self.owner.dir)?.sync_all()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(dir: &Path, boot: u8) -> LogOwner {
        LogOwner { dir: dir.to_owned(), relay: RelayId([1; 32]), boot: BootId([boot; 16]) }
    }

    fn seen(epoch: u64, n: u64) -> Seen {
        Seen { key_epoch: KeyEpoch(epoch), fingerprint: n, route: Route(n * 7) }
    }

    fn read(owner: &LogOwner) -> (Loaded, Vec<Seen>) {
        let mut all = Vec::new();
        let loaded = load(owner, |seen| {
            all.push(seen);
            true
        });
        all.sort_by_key(|s| (s.key_epoch, s.fingerprint));
        (loaded.unwrap(), all)
    }

    #[test]
    fn tags_survive_the_process_but_not_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let mine = owner(dir.path(), 1);
        assert_eq!(read(&mine).0.run, 0);
        let mut a = ShardLog::new(mine.clone(), 0, 2, 0);
        let mut b = ShardLog::new(mine.clone(), 0, 2, 1);
        a.write(&[seen(5, 1), seen(5, 2), seen(6, 3)]).unwrap();
        b.write(&[seen(5, 4)]).unwrap();
        // Not closed, as after SIGKILL.
        drop((a, b));
        assert_eq!(read(&owner(dir.path(), 2)).0.spoiled, BTreeSet::from([KeyEpoch(5), KeyEpoch(6)]));
        let (loaded, all) = read(&mine);
        assert_eq!(all, [seen(5, 1), seen(5, 2), seen(5, 4), seen(6, 3)]);
        assert!(loaded.spoiled.is_empty());
        assert_eq!(loaded.run, 1);
        // What was loaded is lasting now; what a second run adds is not.
        assert!(read(&owner(dir.path(), 2)).0.spoiled.is_empty());
        ShardLog::new(mine, 1, 1, 0).write(&[seen(6, 9)]).unwrap();
        assert_eq!(read(&owner(dir.path(), 2)).0.spoiled, BTreeSet::from([KeyEpoch(6)]));
    }

    #[test]
    fn after_an_orderly_end_a_new_boot_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = ShardLog::new(owner(dir.path(), 1), 0, 1, 0);
        log.write(&[seen(5, 1)]).unwrap();
        log.close().unwrap();
        let (loaded, all) = read(&owner(dir.path(), 2));
        assert!(loaded.spoiled.is_empty());
        assert_eq!(all, [seen(5, 1)]);
    }

    #[test]
    fn a_torn_record_is_passed_over_and_a_foreign_file_spoils_its_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let mine = owner(dir.path(), 1);
        ShardLog::new(mine.clone(), 0, 1, 0).write(&[seen(5, 1), seen(5, 2)]).unwrap();
        let path = dir.path().join("5-0-0.log");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        assert_eq!(read(&mine).1, [seen(5, 1)]);
        fs::write(dir.path().join("6-0-0.log"), &bytes[..40]).unwrap();
        fs::write(dir.path().join("7-0-0.log"), vec![9; 200]).unwrap();
        assert_eq!(read(&mine).0.spoiled, BTreeSet::from([KeyEpoch(7)]));
        assert!(!dir.path().join("6-0-0.log").exists(), "nothing was sent on its account");
        remove_epoch(dir.path(), KeyEpoch(7)).unwrap();
        ShardLog::new(mine.clone(), 1, 1, 0).forget_before(KeyEpoch(6)).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn records_without_room_spoil_their_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let mine = owner(dir.path(), 1);
        ShardLog::new(mine.clone(), 0, 1, 0).write(&[seen(5, 1), seen(5, 2)]).unwrap();
        assert_eq!(load(&mine, |seen| seen.fingerprint < 2).unwrap().spoiled, BTreeSet::from([KeyEpoch(5)]));
    }

    #[test]
    fn this_machine_has_a_boot_id() {
        assert_eq!(BootId::current(), BootId::current());
    }
}
