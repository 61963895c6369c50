//! Relays and authorities that misbehave, built from the libraries of the honest ones. No program of ours can be told to.
//!
//! A relay's packets pass what misbehaves between its workers and its core. An authority stays honest by itself: what
//! stands around it, with its keys, changes what it says to the others.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use posta_link::{exit, logs};
use posta_node::config::Config;
use posta_node::driver::{self, Arrived, Conduct, Options};
use posta_node::relay::Source;
use posta_protocol::onion::{Next, Peeled};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::network::unix_time;

mod liar;

/// The longest that a packet is held up.
const LONGEST: f64 = 60.0;
/// Packets of noise for each that goes on, at most.
const MOST_TIMES: u16 = 100;

/// What kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Does {
    /// A relay: packets vanish.
    Drop,
    /// A relay: packets are sent on, and once more `seconds` later.
    Replay,
    /// A relay: one bit of the payload is another one.
    Tag,
    /// A relay: packets are sent on `seconds` later than they should.
    Slow,
    /// A relay: each packet that goes on is followed by `times` that are noise.
    Flood,
    /// A relay: everything is in order, and what passes is written down.
    Watch,
    /// A relay: its clock is ahead by `seconds`; below 0 it is behind.
    Clock,
    /// An authority: votes differently to different others.
    Equivocate,
    /// An authority: votes for descriptors that nobody has, and echoes votes that nobody cast.
    Nonsense,
}

impl Does {
    /// Whether authorities do it, and not relays.
    #[must_use]
    pub const fn by_authority(self) -> bool {
        matches!(self, Self::Equivocate | Self::Nonsense)
    }

    /// As it stands in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drop => "drops packets",
            Self::Replay => "replays packets",
            Self::Tag => "tags packets",
            Self::Slow => "holds packets up",
            Self::Flood => "floods the next relay",
            Self::Watch => "watches packets",
            Self::Clock => "has a wrong clock",
            Self::Equivocate => "votes twice",
            Self::Nonsense => "votes nonsense",
        }
    }
}

/// Harm, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Misdeed {
    /// What.
    pub does: Does,
    /// The share of packets that it happens to, 0.0 to 1.0.
    #[serde(default = "all")]
    pub share: f64,
    /// Where time matters, how much.
    #[serde(default)]
    pub seconds: f64,
    /// Packets of noise for each that goes on.
    #[serde(default)]
    pub times: u16,
}

const fn all() -> f64 {
    1.0
}

impl Misdeed {
    /// Checks the figures.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<()> {
        ensure!((0.0..=1.0).contains(&self.share), "a share of {}: 0.0 to 1.0", self.share);
        let needs_time = matches!(self.does, Does::Replay | Does::Slow);
        ensure!(!needs_time || (0.0..=LONGEST).contains(&self.seconds), "{} seconds: 0 to 60", self.seconds);
        ensure!(self.times <= MOST_TIMES, "{} times: {MOST_TIMES} at most", self.times);
        Ok(())
    }

    fn delay(&self) -> Duration {
        Duration::try_from_secs_f64(self.seconds).unwrap_or_default()
    }
}

#[derive(Debug, Parser)]
struct Arguments {
    /// A [`Misdeed`] in JSON.
    #[arg(long)]
    misdeed: String,
    /// The configuration of the honest node.
    #[arg(long)]
    config: PathBuf,
    /// Where to write what passes.
    #[arg(long)]
    watch: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs a relay or authority that misbehaves; its own name stands first in the arguments.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(Arguments::parse_from(args)) {
        Ok(()) => ExitCode::from(exit::OK),
        Err(e) => {
            eprintln!("rogue: {e:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn run(args: Arguments) -> Result<()> {
    let misdeed: Misdeed = serde_json::from_str(&args.misdeed).context("the misdeed")?;
    if misdeed.does.by_authority() {
        return liar::run(&args.config, misdeed.does);
    }
    let config = Config::load(&args.config).map_err(|e| anyhow::anyhow!("{e}"))?;
    logs::init(config.log_level, "posta-rogue");
    let rng = Mutex::new(ChaCha20Rng::seed_from_u64(args.seed));
    let conduct = match misdeed.does {
        Does::Clock => {
            driver::skew((misdeed.seconds * 1000.0) as i64);
            Conduct::default()
        }
        Does::Watch => {
            let Some(path) = args.watch else { bail!("--watch says where to write") };
            let file = File::create(&path).with_context(|| format!("can't write {}", path.display()))?;
            watch(file)
        }
        _ => Conduct::another(move |arrived| {
            let rng = &mut *rng.lock().unwrap_or_else(PoisonError::into_inner);
            if rng.random_bool(misdeed.share) { misdeed.instead(arrived, rng) } else { vec![arrived] }
        }),
    };
    driver::run(config, Options { path: args.config, ready_json: true, conduct, ..Options::default() })
        .map_err(|e| anyhow::anyhow!("{e}"))
}

impl Misdeed {
    /// What becomes of a packet that it happens to.
    fn instead(self, (from, peeled, mut packet): Arrived, rng: &mut ChaCha20Rng) -> Vec<Arrived> {
        let later = |peeled: Peeled| match peeled.next {
            Next::Forward { to, delay } => {
                Some(Peeled { next: Next::Forward { to, delay: delay + self.delay() }, ..peeled })
            }
            // What ends here has no way on.
            _ => None,
        };
        match self.does {
            Does::Drop => Vec::new(),
            Does::Replay => match later(peeled) {
                Some(again) => vec![(from, peeled, packet.clone()), (from, again, packet)],
                None => vec![(from, peeled, packet)],
            },
            Does::Slow => vec![(from, later(peeled).unwrap_or(peeled), packet)],
            Does::Flood => {
                let noise = |_| {
                    let mut noise = packet.clone();
                    rng.fill_bytes(noise.as_bytes_mut());
                    (from, peeled, noise)
                };
                let times = if matches!(peeled.next, Next::Forward { .. }) { self.times } else { 0 };
                let mut all: Vec<_> = (0..times).map(noise).collect();
                all.push((from, peeled, packet));
                all
            }
            Does::Tag => {
                if matches!(peeled.next, Next::Forward { .. })
                    && let Some(last) = packet.as_bytes_mut().last_mut()
                {
                    *last ^= 1;
                }
                vec![(from, peeled, packet)]
            }
            _ => vec![(from, peeled, packet)],
        }
    }
}

/// Writes one line for each packet: all that a relay learns of it.
fn watch(file: File) -> Conduct {
    let file = Mutex::new(file);
    Conduct::another(move |arrived| {
        let (from, peeled, _) = &arrived;
        let from = match from {
            Source::Client(_) => "a client".to_owned(),
            Source::Relay(id) => id.short().to_string(),
            Source::Own => "itself".to_owned(),
        };
        let (to, delay) = match peeled.next {
            Next::Forward { to, delay } => (to.short().to_string(), delay),
            Next::Queue => ("queues".to_owned(), Duration::ZERO),
            Next::Inbox { .. } => ("an inbox".to_owned(), Duration::ZERO),
            Next::Drop => ("nobody".to_owned(), Duration::ZERO),
        };
        let unix_us = u64::try_from(unix_time().as_micros()).unwrap_or(u64::MAX);
        let delay_us = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        let line = json!({ "unix_us": unix_us, "from": from, "to": to, "delay_us": delay_us });
        // A disk that is full keeps nothing more; the relay goes on.
        let _ = writeln!(file.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
        vec![arrived]
    })
}

#[cfg(test)]
mod tests {
    use posta_protocol::geometry::Geometry;
    use posta_protocol::ids::{KeyEpoch, RelayId};
    use posta_protocol::packet::Packet;

    use super::*;

    const TO: RelayId = RelayId([7; 32]);

    fn arrived(next: Next) -> Arrived {
        (Source::Own, Peeled { key_epoch: KeyEpoch(1), next }, Packet::zeroed(Geometry::DEFAULT))
    }

    fn forward(ms: u64) -> Next {
        Next::Forward { to: TO, delay: Duration::from_millis(ms) }
    }

    #[test]
    fn each_misdeed_does_what_it_says_to_a_packet_that_goes_on() {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut one =
            |does| Misdeed { does, share: 1.0, seconds: 2.0, times: 3 }.instead(arrived(forward(5)), &mut *rng);
        assert!(one(Does::Drop).is_empty());
        let replayed = one(Does::Replay);
        assert_eq!(replayed.iter().map(|(_, peeled, _)| peeled.next).collect::<Vec<_>>(), [forward(5), forward(2005)]);
        assert!(replayed[0].2 == replayed[1].2, "the same packet");
        assert_eq!(one(Does::Slow)[0].1.next, forward(2005));
        let tagged = one(Does::Tag);
        let set: u32 = tagged[0].2.as_bytes().iter().map(|byte| byte.count_ones()).sum();
        assert_eq!((tagged.len(), tagged[0].1.next, set), (1, forward(5), 1));
        let flood = one(Does::Flood);
        assert_eq!((flood.len(), flood.last().unwrap().1.next), (4, forward(5)));
        assert!(flood[0].2 != flood[1].2 && flood[3].2 == Packet::zeroed(Geometry::DEFAULT), "noise, and the packet");
        // What ends here can only be dropped.
        for does in [Does::Replay, Does::Slow, Does::Tag, Does::Flood] {
            let ended = Misdeed { does, share: 1.0, seconds: 2.0, times: 3 }.instead(arrived(Next::Queue), &mut *rng);
            assert_eq!((ended.len(), ended[0].1.next), (1, Next::Queue));
            assert!(ended[0].2 == Packet::zeroed(Geometry::DEFAULT));
        }
    }
}
