//! The profile of a session: what each costs on this network, whether the network is large enough for it, and what is
//! kept of it.

use std::time::Duration;

use posta_protocol::codec::Writer;
use posta_protocol::document::{Consensus, Params, Position};
use posta_protocol::error::Malformed;
use posta_protocol::ids::KeyEpoch;
use posta_protocol::now::Now;
use posta_protocol::params::{DEFAULT_RELAY_LOOP_INTERVAL, MAX_MEAN_HOP_DELAY, MIN_RELAY_LOOP_INTERVAL};
use posta_protocol::registry::parameter;

use super::Session;
use super::event::{ClientEvent, Health, Profile, Warning};
use super::saved::reader;
use super::tempo::Tempo;

/// Packets that a mix should hold on average, so that one that leaves may be any of them.
pub const ENOUGH_TO_MIX: u32 = 20;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What a profile costs, and gives, on this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileCost {
    /// Which profile.
    pub profile: Profile,
    /// Bytes that a client sends a day whatever it says. In `fast`: for each contact, while nothing is said.
    pub up: u64,
    /// Bytes that it gets a day, likewise.
    pub down: u64,
    /// Mean delay at each hop.
    pub hop_delay: Duration,
    /// Packets that a mix holds on average, by the relays' own loops alone: other clients come on top, and nobody can count
    /// them.
    pub mix_holds: u32,
    /// Whether this is the profile in use.
    pub used: bool,
}

impl ProfileCost {
    /// Whether packets have too little company; never for `fast`, which promises none.
    #[must_use]
    pub fn is_too_small(&self) -> bool {
        self.profile != Profile::Fast && self.mix_holds < ENOUGH_TO_MIX
    }
}

/// What relays' loops alone put into a mix, on average: each loop of an edge crosses four mixes, of a mix one other.
fn mix_holds(consensus: &Consensus, epoch: KeyEpoch) -> u32 {
    let params = consensus.params();
    let at = |position| consensus.relays_at(epoch, position).count();
    let (edges, mixes) = (at(Position::Edge), at(Position::Mix1) + at(Position::Mix2));
    let every =
        params.get(parameter::RELAY_LOOP_INTERVAL_US).map_or(DEFAULT_RELAY_LOOP_INTERVAL, Duration::from_micros);
    if mixes == 0 || every.is_zero() {
        return 0;
    }
    // A loop asks for the delays of one of the profiles.
    let delay: Duration = Profile::ALL.iter().map(|p| params.mean_hop_delay(*p).min(MAX_MEAN_HOP_DELAY)).sum();
    let delay = delay.as_secs_f64() / Profile::ALL.len() as f64;
    let crossings = (4 * edges + mixes) as f64 / every.max(MIN_RELAY_LOOP_INTERVAL).as_secs_f64();
    (crossings / mixes as f64 * delay) as u32
}

fn cost(profile: Profile, params: &Params, packet: u64) -> (u64, u64) {
    let tempo = Tempo::new(profile, params);
    if !tempo.covered {
        // Both queues of a contact are polled.
        let polls = 2 * (DAY.as_millis() / tempo.max_heartbeat.as_millis().max(1)) as u64 * packet;
        return (polls, polls);
    }
    let times = |every: Duration| (DAY.as_micros() / every.as_micros().max(1)) as u64 * packet;
    (times(tempo.slot), times(params.downlink_interval(profile)))
}

impl Session {
    /// What each profile costs on this network; none before its documents are there.
    #[must_use]
    pub fn profiles(&self, now: Now) -> Option<[ProfileCost; 3]> {
        let view = self.core.view.as_ref()?;
        let (consensus, used) = (view.consensus(), self.core.line.profile);
        let mix_holds = mix_holds(consensus, view.key_epoch(now.wall));
        Some(Profile::ALL.map(|profile| {
            let (up, down) = cost(profile, consensus.params(), view.geometry().packet_len() as u64);
            let hop_delay = consensus.params().mean_hop_delay(profile);
            ProfileCost { profile, up, down, hop_delay, mix_holds, used: profile == used }
        }))
    }

    /// The profile in use.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.core.line.profile
    }

    /// Chooses another profile: before the first documents come, or for the next start.
    pub fn set_profile(&mut self, now: Now, profile: Profile) {
        let start = self.core.actions.len();
        self.core.options.profile = profile;
        if self.core.view.is_none() {
            self.core.line.profile = profile;
        }
        self.save(now, start);
    }

    /// How packets came back lately.
    #[must_use]
    pub fn health(&self) -> Health {
        self.core.measure.health()
    }

    /// Says so, once, if the network is too small for the profile.
    pub(super) fn warn_if_small(&mut self, now: Now) {
        let used = self.profiles(now).and_then(|all| all.into_iter().find(|cost| cost.used));
        if let Some(cost) = used.filter(ProfileCost::is_too_small)
            && !std::mem::replace(&mut self.told_small, true)
        {
            let warning = Warning::SmallNetwork { profile: cost.profile, holds: cost.mix_holds };
            self.core.emit(ClientEvent::Warning(warning));
        }
    }

    pub(super) fn write_line(&self, w: &mut Writer) {
        w.u8(self.core.options.profile.code());
        self.core.measure.write(w);
    }

    pub(super) fn read_line(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut r = reader(value)?;
        let profile = Profile::from_code(r.u8("profile")?).ok_or(Malformed::Value("profile"))?;
        (self.core.options.profile, self.core.line.profile) = (profile, profile);
        self.core.measure.read(&mut r)?;
        r.finish("line")
    }
}
