//! A relay's own loops: packets that go round the network and come back, as cover and as a measure of loss.
//!
//! A loop is what a client's `send` looks like to everyone on its way: forward to the queue service of an edge, which
//! answers through a reply block. The command is `echo`. The circle is cut where this relay stands:
//!
//! | this relay is | forth | back |
//! |---|---|---|
//! | an edge | mix 1, mix 2, edge | mix 1, mix 2, this relay |
//! | mix 1 | mix 2, edge | this relay |
//! | mix 2 | edge | mix 1, this relay |
//!
//! Every packet has one size and says nothing of its position, so that neither the relays on the way nor the edge can tell
//! a loop from a client's command. They begin at times of a Poisson process, and ask for the delays of one of the three
//! profiles, drawn for each loop: who drops the packets of one profile drops its loops.
//!
//! What hasn't come back whole after its delays and [`LOOP_PATIENCE`] is lost. A loop whose time crosses the end of its key
//! epoch is sent and not judged: its reply block may rightly be refused by then.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::answer::{Answer, Body};
use posta_protocol::command::{Command, Envelope};
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{Consensus, MixKeys, Params, Position, Profile, RelayEntry};
use posta_protocol::error::Misuse;
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{InboxId, KeyEpoch, RelayId, SurbId};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::onion::build::{Hop, Last};
use posta_protocol::onion::reply::ReplyKeys;
use posta_protocol::onion::sealing::Sealing;
use posta_protocol::packet::Packet;
use posta_protocol::params::{DEFAULT_RELAY_LOOP_INTERVAL, MAX_HOP_DELAY, MIN_RELAY_LOOP_INTERVAL};
use posta_protocol::registry::parameter;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use super::delay::{below, exponential};
use super::layers::skew;

/// Loops under way whose keys are kept, about 2 MB; with as many no further one is sent.
pub const MAX_LOOPS: usize = 4_096;
/// How long a loop may take beside its delays: links that are being dialled again, and queues on the way.
pub const LOOP_PATIENCE: Duration = Duration::from_secs(30);
/// Length of the windows in which loops are counted.
pub const LOOP_WINDOW: Duration = Duration::from_secs(600);
/// Windows that are kept: an hour, the current one included.
pub const LOOP_WINDOWS: usize = 6;
/// Loops begun at one time when the driver comes late; those beyond are left out.
const MAX_AT_ONCE: usize = 4;
/// Relays drawn for one hop until one is of another operator than the others; else the first of another identity is taken.
const DRAWS: usize = 32;
/// Key epochs whose keys are kept: the current one and the next.
const KEY_EPOCHS: usize = 2;

/// Loops of a span of time, each in the window in which its end was known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopCount {
    /// Came back whole.
    pub returned: u64,
    /// Didn't come back in time, or garbled.
    pub lost: u64,
}

impl LoopCount {
    /// The lost part in thousandths; `None` if nothing is known.
    #[must_use]
    pub const fn loss_permille(&self) -> Option<u64> {
        match self.returned + self.lost {
            0 => None,
            all => Some(self.lost * 1000 / all),
        }
    }
}

/// What became of a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Returned,
    Lost,
}

/// A loop under way.
#[derive(Debug)]
struct UnderWay {
    keys: ReplyKeys,
    until: Mono,
    /// Whether it counts if it is lost.
    judged: bool,
}

/// Relays by their places in one key epoch, with their keys.
#[derive(Debug)]
struct Places {
    keys: Arc<MixKeys>,
    at: BTreeMap<Position, Vec<RelayId>>,
}

/// All loops of a relay.
#[derive(Debug)]
pub(super) struct Loops {
    me: RelayId,
    geometry: Geometry,
    sealing: &'static dyn Sealing,
    consensus: Option<Arc<Consensus>>,
    places: BTreeMap<KeyEpoch, Places>,
    under_way: HashMap<SurbId, UnderWay>,
    ends: BTreeSet<(Mono, SurbId)>,
    /// When the next one begins.
    next: Option<Mono>,
    /// The newest window first, and its number.
    windows: [LoopCount; LOOP_WINDOWS],
    window: u64,
}

/// Mean time between two loops of a relay; `None` if there are none.
fn interval(params: &Params) -> Option<Duration> {
    let interval =
        params.get(parameter::RELAY_LOOP_INTERVAL_US).map_or(DEFAULT_RELAY_LOOP_INTERVAL, Duration::from_micros);
    (!interval.is_zero()).then(|| interval.max(MIN_RELAY_LOOP_INTERVAL))
}

impl Loops {
    pub(super) fn new(me: RelayId, geometry: Geometry, sealing: &'static dyn Sealing) -> Self {
        Self {
            me,
            geometry,
            sealing,
            consensus: None,
            places: BTreeMap::new(),
            under_way: HashMap::new(),
            ends: BTreeSet::new(),
            next: None,
            windows: [LoopCount::default(); LOOP_WINDOWS],
            window: 0,
        }
    }

    /// A newer consensus. Its keys come in [`Loops::mix_keys`].
    pub(super) fn consensus(&mut self, consensus: &Arc<Consensus>) {
        self.consensus = Some(Arc::clone(consensus));
    }

    /// The keys that the newest consensus binds.
    pub(super) fn mix_keys(&mut self, parts: &[Arc<MixKeys>], at: Wall) {
        let Some(consensus) = &self.consensus else { return };
        let current = consensus.key_epoch_at(at);
        for keys in parts {
            let mut places = BTreeMap::<_, Vec<_>>::new();
            for (id, _) in &keys.keys {
                if let Some(position) = consensus.position(id, keys.key_epoch) {
                    places.entry(position).or_default().push(*id);
                }
            }
            self.places.insert(keys.key_epoch, Places { keys: Arc::clone(keys), at: places });
        }
        self.places.retain(|epoch, _| *epoch >= current);
        while self.places.len() > KEY_EPOCHS {
            self.places.pop_last();
        }
    }

    /// When something is to be done.
    pub(super) fn next_due(&self) -> Option<Mono> {
        [self.next, self.ends.first().map(|(at, _)| *at)].into_iter().flatten().min()
    }

    /// No further loops, and none of those under way is judged: the relay stops.
    pub(super) fn stop(&mut self) {
        self.consensus = None;
        self.next = None;
        self.under_way.values_mut().for_each(|one| one.judged = false);
    }

    /// Loops under way.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// The loops of the last hour, or of as much of it as the relay has run.
    pub(super) fn count(&self) -> LoopCount {
        self.windows.iter().fold(LoopCount::default(), |all, one| LoopCount {
            returned: all.returned + one.returned,
            lost: all.lost + one.lost,
        })
    }

    /// How many loops begin now, at most [`MAX_AT_ONCE`].
    pub(super) fn begin(&mut self, now: Now, rng: &mut (dyn CryptoRng + Send)) -> usize {
        self.turn(now.mono);
        if self.places.is_empty() {
            return 0;
        }
        let Some(mean) = self.consensus.as_ref().and_then(|consensus| interval(consensus.params())) else {
            self.next = None;
            return 0;
        };
        let mut next = self.next.unwrap_or_else(|| now.mono + exponential(mean, rng));
        let mut begin = 0;
        while next <= now.mono {
            begin += 1;
            next = if begin < MAX_AT_ONCE { next } else { now.mono } + exponential(mean, rng);
        }
        self.next = Some(next);
        begin.min(MAX_AT_ONCE)
    }

    /// Makes a loop: the packet, and the relay that gets it first. `None` if there is no way now, or there are too many
    /// under way.
    pub(super) fn make(&mut self, now: Now, rng: &mut (dyn CryptoRng + Send)) -> Option<(RelayId, Packet)> {
        let consensus = Arc::clone(self.consensus.as_ref()?);
        if self.under_way.len() >= MAX_LOOPS {
            return None;
        }
        let epoch = consensus.key_epoch_at(now.wall);
        let places = self.places.get(&epoch)?;
        let profile = [Profile::Fast, Profile::Mixed, Profile::Steady].get(below(3, rng)).copied()?;
        let mean = consensus.params().mean_hop_delay(profile);
        let way = Way::draw(&consensus, places, self.me, epoch, mean, rng)?;
        let (first, packet, keys) = way.seal(self.sealing, self.geometry, epoch, rng).ok()?;
        let until = now.mono + way.delays() + LOOP_PATIENCE;
        let ms = consensus.params().key_epoch_ms();
        let ends = Wall(epoch.next().0.saturating_mul(ms));
        let judged = now.wall + until.since(now.mono) + skew(ms) < ends;
        self.ends.insert((until, keys.surb));
        self.under_way.insert(keys.surb, UnderWay { keys, until, judged });
        Some((first, packet))
    }

    /// Whether a reply is to a loop of ours.
    pub(super) fn know(&self, surb: &SurbId) -> bool {
        self.under_way.contains_key(surb)
    }

    /// A loop has come back.
    pub(super) fn returned(&mut self, now: Mono, surb: SurbId, packet: Packet) -> Option<Ended> {
        let UnderWay { keys, until, .. } = self.under_way.remove(&surb)?;
        self.ends.remove(&(until, surb));
        let content = self.sealing.answer(keys, self.geometry, packet);
        let whole = content.is_ok_and(|content| Answer::decode(&content).is_ok_and(|answer| answer.body == Body::Ok));
        let ended = if whole { Ended::Returned } else { Ended::Lost };
        self.note(now, ended);
        Some(ended)
    }

    /// Gives up those that are late. Returns how many of them count as lost.
    pub(super) fn give_up(&mut self, now: Mono) -> u64 {
        let mut lost = 0;
        while self.ends.first().is_some_and(|(until, _)| *until <= now) {
            let Some((_, surb)) = self.ends.pop_first() else { break };
            if self.under_way.remove(&surb).is_some_and(|gone| gone.judged) {
                self.note(now, Ended::Lost);
                lost += 1;
            }
        }
        lost
    }

    fn turn(&mut self, now: Mono) {
        let window = now.0 / LOOP_WINDOW.as_micros() as u64;
        for _ in 0..window.saturating_sub(self.window).min(LOOP_WINDOWS as u64) {
            self.windows.rotate_right(1);
            if let Some(newest) = self.windows.first_mut() {
                *newest = LoopCount::default();
            }
        }
        self.window = self.window.max(window);
    }

    fn note(&mut self, now: Mono, ended: Ended) {
        self.turn(now);
        if let Some(newest) = self.windows.first_mut() {
            match ended {
                Ended::Returned => newest.returned += 1,
                Ended::Lost => newest.lost += 1,
            }
        }
    }
}

/// A hop that was drawn: a relay, its key, its delay.
struct Drawn<'a> {
    relay: RelayId,
    key: &'a KemPublicKey,
    delay: Duration,
}

impl Drawn<'_> {
    const fn hop(&self) -> Hop<'_> {
        Hop { relay: self.relay, key: self.key, delay: self.delay }
    }
}

/// The way of one loop.
struct Way<'a> {
    forth: Vec<Drawn<'a>>,
    back: Vec<Drawn<'a>>,
}

impl<'a> Way<'a> {
    /// Draws relays and delays. As on a client's way no relay stands twice in one direction, and operators and families
    /// differ where there are enough.
    fn draw(
        consensus: &'a Consensus,
        places: &'a Places,
        me: RelayId,
        epoch: KeyEpoch,
        mean: Duration,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Option<Self> {
        let (forth, back): (&[Position], &[Position]) = match consensus.position(&me, epoch)? {
            Position::Edge => (&[Position::Mix1, Position::Mix2, Position::Edge], &[Position::Mix1, Position::Mix2]),
            Position::Mix1 => (&[Position::Mix2, Position::Edge], &[]),
            Position::Mix2 => (&[Position::Edge], &[Position::Mix1]),
        };
        let own = consensus.relay(&me)?;
        let mut pick = |positions: &[Position], others: &[&'a RelayEntry]| {
            let mut taken = others.to_vec();
            for position in positions {
                taken.push(pick(consensus, places.at.get(position)?, &taken, rng)?);
            }
            Some(taken.split_off(others.len()))
        };
        let forth = pick(forth, &[own])?;
        let mut back = pick(back, &[own, *forth.last()?])?;
        back.push(own);
        let mut drawn = |relays: Vec<&RelayEntry>| {
            let hop = |relay: &RelayEntry| {
                let delay = exponential(mean, rng).min(MAX_HOP_DELAY);
                Some(Drawn { relay: relay.id, key: places.keys.get(&relay.id)?, delay })
            };
            relays.into_iter().map(hop).collect::<Option<Vec<_>>>()
        };
        Some(Self { forth: drawn(forth)?, back: drawn(back)? })
    }

    /// What the relays on the way hold it for; the last ones of both directions don't.
    fn delays(&self) -> Duration {
        [&self.forth, &self.back].iter().flat_map(|way| way.iter().rev().skip(1)).map(|hop| hop.delay).sum()
    }

    fn seal(
        &self,
        sealing: &dyn Sealing,
        geometry: Geometry,
        epoch: KeyEpoch,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<(RelayId, Packet, ReplyKeys), Misuse> {
        // Nobody but this relay sees the inbox, and it knows its loops by their reply blocks.
        let mut inbox = InboxId([0; 32]);
        rng.fill_bytes(&mut inbox.0);
        let hops: Vec<_> = self.back.iter().map(Drawn::hop).collect();
        let (block, keys) = sealing.reply_block(geometry, epoch, &hops, inbox, rng)?;
        let content = Envelope { command: Command::Echo, reply: vec![block] }.encode(geometry)?;
        let hops: Vec<_> = self.forth.iter().map(Drawn::hop).collect();
        let packet = sealing.packet(geometry, epoch, &hops, Last::Queue, &content, rng)?;
        let first = hops.first().ok_or_else(|| Misuse::PathLength { got: 0, max: geometry.hops() })?.relay;
        Ok((first, packet, keys))
    }
}

/// One of these relays that isn't among the others, of another operator and family if there is one.
fn pick<'a>(
    consensus: &'a Consensus,
    ids: &[RelayId],
    others: &[&RelayEntry],
    rng: &mut (dyn CryptoRng + Send),
) -> Option<&'a RelayEntry> {
    let mut related = None;
    for _ in 0..DRAWS {
        let relay = ids.get(below(ids.len(), rng)).and_then(|id| consensus.relay(id))?;
        if others.iter().all(|other| !akin(other, relay)) {
            return Some(relay);
        }
        if others.iter().all(|other| other.id != relay.id) {
            related.get_or_insert(relay);
        }
    }
    related
}

fn akin(a: &RelayEntry, b: &RelayEntry) -> bool {
    a.id == b.id || a.operator == b.operator || (a.family.is_some() && a.family == b.family)
}
