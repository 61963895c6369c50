//! When clients are handed what came for them.
//!
//! A client of `fast` gets everything as it comes. One of `mixed` or `steady` has said so by a `pace` frame: then its link
//! has slots, at times of a Poisson process or at a constant rate, and in each slot it gets what waits longest, or a packet
//! of zeros if nothing waits. Who watches its line sees the slots; they depend on nothing but when the frame came.
//!
//! Cover costs the relay its line, so a client pays for it: one that has sent nothing for [`COVER_PATIENCE`] of its own
//! intervals gets what is for it, in slots, and no zeros.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use posta_protocol::document::{Params, Profile};
use posta_protocol::geometry::Geometry;
use posta_protocol::now::Mono;
use posta_protocol::packet::Packet;
use posta_protocol::params::COVER_PATIENCE;
use rand_core::CryptoRng;

use super::ClientLink;
use super::delay::exponential;

/// Packets that wait for the slots of one link, about 1.3 MB; then the oldest is dropped.
pub const MAX_WAITING: usize = 64;
/// Links with slots; a `pace` frame beyond is ignored, and the link gets everything as it comes.
pub const MAX_PACED: usize = 16_384;

#[derive(Debug)]
struct Paced {
    profile: Profile,
    interval: Duration,
    next: Mono,
    waiting: VecDeque<Packet>,
    /// When the client has sent something last.
    heard: Mono,
}

/// All links with slots.
#[derive(Debug, Default)]
pub(super) struct Downlinks {
    links: BTreeMap<ClientLink, Paced>,
    slots: BTreeSet<(Mono, ClientLink)>,
}

impl Downlinks {
    /// Gives a link slots from now on, at the rate of its profile, or takes them away. What waited comes first then.
    pub(super) fn pace(
        &mut self,
        now: Mono,
        link: ClientLink,
        profile: Profile,
        params: &Params,
        rng: &mut (dyn CryptoRng + Send),
    ) -> VecDeque<Packet> {
        let waiting = self.gone(link);
        let interval = params.downlink_interval(profile);
        if interval.is_zero() || self.links.len() >= MAX_PACED {
            return waiting;
        }
        let next = now + wait(profile, interval, rng);
        self.slots.insert((next, link));
        self.links.insert(link, Paced { profile, interval, next, waiting, heard: now });
        VecDeque::new()
    }

    /// The link is closed. Returns what waited.
    pub(super) fn gone(&mut self, link: ClientLink) -> VecDeque<Packet> {
        let Some(paced) = self.links.remove(&link) else { return VecDeque::new() };
        self.slots.remove(&(paced.next, link));
        paced.waiting
    }

    /// The client has sent something.
    pub(super) fn heard(&mut self, now: Mono, link: ClientLink) {
        if let Some(paced) = self.links.get_mut(&link) {
            paced.heard = now;
        }
    }

    /// Something for a client: it comes back if the link has no slots. Else it waits; returns how many were dropped.
    pub(super) fn hold(&mut self, link: ClientLink, packet: Packet) -> Result<u64, Packet> {
        let Some(paced) = self.links.get_mut(&link) else { return Err(packet) };
        paced.waiting.push_back(packet);
        let over = paced.waiting.len() > MAX_WAITING;
        if over {
            paced.waiting.pop_front();
        }
        Ok(u64::from(over))
    }

    /// The next slot that has come, and what is in it: a reply and `true`, or zeros.
    pub(super) fn pop_due(
        &mut self,
        now: Mono,
        geometry: Geometry,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Option<(ClientLink, Packet, bool)> {
        loop {
            let (at, link) = *self.slots.first().filter(|(at, _)| *at <= now)?;
            self.slots.remove(&(at, link));
            let Some(paced) = self.links.get_mut(&link) else { continue };
            let interval = paced.interval;
            paced.next = at + wait(paced.profile, interval, rng);
            if now.since(paced.next) > interval * COVER_PATIENCE {
                // The driver was away: slots that it has missed are not made up for.
                paced.next = now + wait(paced.profile, interval, rng);
            }
            self.slots.insert((paced.next, link));
            if let Some(packet) = paced.waiting.pop_front() {
                return Some((link, packet, true));
            }
            let own = interval * posta_protocol::params::DOWNLINK_PER_UPLINK;
            if now.since(paced.heard) <= own * COVER_PATIENCE {
                return Some((link, Packet::zeroed(geometry), false));
            }
        }
    }

    pub(super) fn next_due(&self) -> Option<Mono> {
        self.slots.first().map(|(at, _)| *at)
    }
}

/// From one slot to the next.
fn wait(profile: Profile, interval: Duration, rng: &mut (dyn CryptoRng + Send)) -> Duration {
    let wait = if profile == Profile::Mixed { exponential(interval, rng) } else { interval };
    wait.max(Duration::from_micros(1))
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    use super::*;

    const LINK: ClientLink = ClientLink(1);

    fn packet(n: u8) -> Packet {
        let mut packet = Packet::zeroed(Geometry::DEFAULT);
        packet.as_bytes_mut().fill(n);
        packet
    }

    /// What an hour looks like on the line, and how many packets were replies. The client sends all the time.
    fn hour(profile: Profile, arrivals: &[u64], leaky: bool) -> (Vec<(Mono, usize)>, u64) {
        let rng = &mut ChaCha20Rng::seed_from_u64(1);
        let mut all = Downlinks::default();
        all.pace(Mono(0), LINK, profile, &Params::default(), rng);
        let (mut seen, mut replies) = (Vec::new(), 0);
        let mut arrivals = arrivals.iter().map(|s| Mono(s * 1_000_000)).peekable();
        let end = Mono(0) + Duration::from_secs(3600);
        while let Some(at) = all.next_due().filter(|at| *at < end) {
            while let Some(arrival) = arrivals.next_if(|a| *a <= at) {
                assert!(all.hold(LINK, packet(7)).is_ok());
                if leaky {
                    seen.push((arrival, packet(7).as_bytes().len()));
                }
            }
            all.heard(at, LINK);
            let (_, packet, real) = all.pop_due(at, Geometry::DEFAULT, rng).unwrap();
            assert_eq!(real, packet.as_bytes()[0] == 7);
            seen.push((at, packet.as_bytes().len()));
            replies += u64::from(real);
        }
        (seen, replies)
    }

    #[test]
    fn the_line_of_a_paced_client_looks_the_same_idle_and_busy() {
        let busy: Vec<u64> = (0..3000).map(|n| 10 + n).collect();
        for profile in [Profile::Mixed, Profile::Steady] {
            let (idle, none) = hour(profile, &[], false);
            let (seen, replies) = hour(profile, &busy, false);
            assert!(idle == seen && none == 0 && replies > 500, "{profile:?}: {replies}");
            let (leaky, _) = hour(profile, &busy, true);
            assert!(idle != leaky, "the control must be caught");
        }
        let (steady, _) = hour(Profile::Steady, &[], false);
        assert_eq!(steady.len(), 1439, "one each 2.5 s");
    }

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes() {
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let mut all = Downlinks::default();
        assert!(all.hold(LINK, packet(1)).is_err(), "without slots nothing waits");
        all.pace(Mono(0), LINK, Profile::Steady, &Params::default(), rng);
        let dropped: u64 = (0..MAX_WAITING as u8 + 3).map(|n| all.hold(LINK, packet(n)).unwrap()).sum();
        assert_eq!(dropped, 3);
        let at = all.next_due().unwrap();
        assert_eq!(all.pop_due(at, Geometry::DEFAULT, rng).unwrap().1.as_bytes()[0], 3);
        assert_eq!(all.gone(LINK).len(), MAX_WAITING - 1);
        assert_eq!(all.next_due(), None);
    }

    #[test]
    fn there_is_no_cover_for_a_client_that_sends_none() {
        let rng = &mut ChaCha20Rng::seed_from_u64(3);
        let mut all = Downlinks::default();
        all.pace(Mono(0), LINK, Profile::Steady, &Params::default(), rng);
        let mut cover = 0;
        while let Some(at) = all.next_due().filter(|at| *at < Mono(0) + Duration::from_secs(3600)) {
            cover += u32::from(all.pop_due(at, Geometry::DEFAULT, rng).is_some());
        }
        assert_eq!(cover, COVER_PATIENCE * 2, "eighty seconds, and no more");
        all.hold(LINK, packet(9)).unwrap();
        let at = all.next_due().unwrap();
        assert!(all.pop_due(at, Geometry::DEFAULT, rng).unwrap().2, "what is for it comes all the same");
    }

    #[test]
    fn slots_that_were_missed_are_not_made_up_for() {
        let rng = &mut ChaCha20Rng::seed_from_u64(4);
        let mut all = Downlinks::default();
        all.pace(Mono(0), LINK, Profile::Steady, &Params::default(), rng);
        let late = Mono(0) + Duration::from_secs(3600);
        all.heard(late, LINK);
        assert!(all.pop_due(late, Geometry::DEFAULT, rng).is_some());
        assert!(all.pop_due(late, Geometry::DEFAULT, rng).is_none());
    }
}
