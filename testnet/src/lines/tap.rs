//! What an adversary sees on lines that it watches: times, sizes and who, never what was meant.
//!
//! For each tap two files: `NAME.jsonl`, one line a datagram, and `NAME.pcap` for the tools that read such files. What
//! was really sent stands elsewhere (`truth.jsonl`), with the same clock.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::Between;
use crate::network::unix_time;

/// Datagrams that wait to be written; those beyond are left out and counted.
const WAITING: usize = 65_536;
/// Bytes of a datagram that are kept in the pcap file: enough for the public part of QUIC's header.
const SNAP: usize = 64;
/// The pcap file's link type: packets that begin with an IP header.
const LINKTYPE_RAW: u32 = 101;
/// The magic number of a pcap file with nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
/// Bytes of an IPv4 and a UDP header.
const HEADERS: usize = 20 + 8;
const UDP: u8 = 17;

/// A tap that is wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// What its files are called.
    pub name: String,
    /// Which lines it sees.
    pub between: Between,
}

/// A datagram as it passes a door.
pub(super) struct Seen<'a> {
    /// Who sent it, and from where.
    pub(super) from: (&'a str, SocketAddr),
    /// To whom, and where.
    pub(super) to: (&'a str, SocketAddr),
    /// All of it.
    pub(super) bytes: &'a [u8],
}

/// What a tap has written.
#[derive(Clone, Debug, Serialize)]
pub struct Tapped {
    /// The tap.
    pub name: String,
    /// Datagrams written.
    pub datagrams: u64,
    /// Their bytes, without headers.
    pub bytes: u64,
    /// Datagrams left out because the disk was too slow.
    pub left_out: u64,
}

#[derive(Debug)]
struct Record {
    at: Duration,
    from: String,
    to: String,
    source: SocketAddr,
    target: SocketAddr,
    bytes: usize,
    head: Vec<u8>,
}

#[derive(Debug)]
struct Writer {
    records: mpsc::Sender<Record>,
    task: JoinHandle<io::Result<Tapped>>,
}

#[derive(Debug)]
struct Open {
    between: Between,
    left_out: AtomicU64,
    /// Gone once the tap is closed.
    writer: Mutex<Option<Writer>>,
}

/// All taps of a network.
#[derive(Debug, Default)]
pub struct Taps(Vec<Open>);

impl Taps {
    /// The folder of a testnet that taps write to.
    pub const FOLDER: &str = "taps";

    /// Opens taps that write to this folder, which is made. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If a file can't be made.
    pub fn open(folder: &Path, taps: &[Tap]) -> io::Result<Self> {
        if taps.is_empty() {
            return Ok(Self::default());
        }
        fs::create_dir_all(folder)?;
        let open = |tap: &Tap| {
            let (records, queue) = mpsc::channel(WAITING);
            let files = Files::create(folder, &tap.name)?;
            let task = tokio::task::spawn_blocking(move || files.write_all(queue));
            let writer = Mutex::new(Some(Writer { records, task }));
            Ok(Open { between: tap.between.clone(), left_out: AtomicU64::new(0), writer })
        };
        Ok(Self(taps.iter().map(open).collect::<io::Result<_>>()?))
    }

    /// Shows a datagram to those that see its line.
    pub(super) fn see(&self, seen: &Seen<'_>) {
        let ((from, source), (to, target)) = (seen.from, seen.to);
        for tap in self.0.iter().filter(|tap| tap.between.holds(from, to)) {
            let writer = tap.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(writer) = writer.as_ref() else { continue };
            let record = Record {
                at: unix_time(),
                from: from.to_owned(),
                to: to.to_owned(),
                source,
                target,
                bytes: seen.bytes.len(),
                head: seen.bytes.iter().take(SNAP).copied().collect(),
            };
            if writer.records.try_send(record).is_err() {
                tap.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Closes all, and waits until everything is written.
    pub(super) async fn close(&self) -> io::Result<Vec<Tapped>> {
        let mut all = Vec::new();
        for tap in &self.0 {
            let writer = tap.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(Writer { records, task }) = writer else { continue };
            drop(records);
            let tapped = task.await.map_err(|_| io::Error::other("the writer of a tap has ended"))??;
            all.push(Tapped { left_out: tap.left_out.load(Ordering::Relaxed), ..tapped });
        }
        Ok(all)
    }
}

struct Files {
    name: String,
    lines: BufWriter<File>,
    packets: BufWriter<File>,
}

impl Files {
    fn create(folder: &Path, name: &str) -> io::Result<Self> {
        let file = |ending: &str| -> io::Result<(PathBuf, BufWriter<File>)> {
            let path = folder.join(format!("{name}.{ending}"));
            Ok((path.clone(), BufWriter::new(File::create(path)?)))
        };
        let ((_, lines), (_, mut packets)) = (file("jsonl")?, file("pcap")?);
        packets.write_all(&file_header())?;
        Ok(Self { name: name.to_owned(), lines, packets })
    }

    fn write_all(mut self, mut records: mpsc::Receiver<Record>) -> io::Result<Tapped> {
        let mut tapped = Tapped { name: self.name, datagrams: 0, bytes: 0, left_out: 0 };
        loop {
            let record = match records.try_recv() {
                Ok(record) => record,
                Err(mpsc::error::TryRecvError::Disconnected) => break,
                // Whoever looks into the files of a network that stays sees all until now.
                Err(mpsc::error::TryRecvError::Empty) => {
                    self.lines.flush()?;
                    self.packets.flush()?;
                    let Some(record) = records.blocking_recv() else { break };
                    record
                }
            };
            let Record { at, from, to, bytes, .. } = &record;
            let unix_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
            writeln!(self.lines, "{}", json!({ "unix_us": unix_us, "from": from, "to": to, "bytes": bytes }))?;
            self.packets.write_all(&packet(&record))?;
            tapped.datagrams += 1;
            tapped.bytes += u64::try_from(*bytes).unwrap_or_default();
        }
        self.lines.flush()?;
        self.packets.flush()?;
        Ok(tapped)
    }
}

fn file_header() -> Vec<u8> {
    let mut out = Vec::with_capacity(24);
    out.extend(MAGIC.to_le_bytes());
    out.extend([2_u16, 4].map(u16::to_le_bytes).concat());
    out.extend([0; 8]);
    out.extend(u32::try_from(HEADERS + SNAP).unwrap_or_default().to_le_bytes());
    out.extend(LINKTYPE_RAW.to_le_bytes());
    out
}

/// A record of the pcap file: its times and lengths, an IPv4 and a UDP header, and the datagram's first bytes.
fn packet(record: &Record) -> Vec<u8> {
    let Record { at, source, target, bytes, head, .. } = record;
    let u32_of = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let u16_of = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let mut out = Vec::with_capacity(16 + HEADERS + head.len());
    let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
    for word in [seconds, at.subsec_nanos(), u32_of(HEADERS + head.len()), u32_of(HEADERS + bytes)] {
        out.extend(word.to_le_bytes());
    }
    let ip = |address: &SocketAddr| match address {
        SocketAddr::V4(v4) => *v4.ip(),
        SocketAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let length = u16_of(HEADERS + bytes).to_be_bytes();
    let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, 64, UDP, 0, 0];
    header.extend(ip(source).octets());
    header.extend(ip(target).octets());
    let sum = checksum(&header).to_be_bytes();
    header.splice(10..12, sum);
    out.extend(header);
    // The checksum of UDP may be left out over IPv4: zeros.
    for word in [source.port(), target.port(), u16_of(8 + bytes), 0] {
        out.extend(word.to_be_bytes());
    }
    out.extend(head);
    out
}

/// The checksum of an IPv4 header whose own field is zero.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| pair.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // A well-known header; its checksum field, 0xb861, left out.
        let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&header), 0xb861);
    }

    #[tokio::test]
    async fn a_tap_writes_what_passes_its_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let these = BTreeSet::from(["edge-1".to_owned()]);
        let tap = Tap { name: "watch".into(), between: Between { these, those: None } };
        let taps = Taps::open(&folder.path().join("taps"), &[tap]).unwrap();
        let [a, b]: [SocketAddr; 2] = ["127.1.0.2:1000".parse().unwrap(), "127.2.0.1:2000".parse().unwrap()];
        taps.see(&Seen { from: ("mix-1", b), to: ("edge-1", a), bytes: &[7; 1200] });
        taps.see(&Seen { from: ("mix-1", b), to: ("mix-2", a), bytes: &[7; 1200] });
        taps.see(&Seen { from: ("edge-1", a), to: ("client-1", b), bytes: &[8; 30] });
        let tapped = taps.close().await.unwrap();
        assert_eq!((tapped.len(), tapped[0].datagrams, tapped[0].bytes, tapped[0].left_out), (1, 2, 1230, 0));

        let lines = fs::read_to_string(folder.path().join("taps/watch.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["from"], &lines[0]["bytes"]), (&"mix-1".into(), &1200.into()));
        assert!(lines[0]["unix_us"].as_u64() <= lines[1]["unix_us"].as_u64());

        let pcap = fs::read(folder.path().join("taps/watch.pcap")).unwrap();
        assert_eq!(pcap.len(), 24 + 16 + HEADERS + SNAP + 16 + HEADERS + 30);
        assert_eq!(pcap[..4], [0x4d, 0x3c, 0xb2, 0xa1]);
        let first = &pcap[24..];
        let word = |at: usize| u32::from_le_bytes(first[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!((word(8), word(12)), (HEADERS + SNAP, HEADERS + 1200), "kept, and really");
        let ip = &first[16..36];
        assert_eq!((&ip[12..16], &ip[16..20]), (&[127, 2, 0, 1][..], &[127, 1, 0, 2][..]));
        assert_eq!(checksum(ip), 0, "a header with its checksum sums up to nothing");
        assert_eq!(&first[36..44], &[0x07, 0xd0, 0x03, 0xe8, 0x04, 0xb8, 0, 0]);
    }
}
