//! Descriptors that relays post: which are accepted, and which are held.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use posta_protocol::crypto::context::DESCRIPTOR;
use posta_protocol::crypto::hash;
use posta_protocol::document::{
    Class, Descriptor, Refusal, UnverifiedDescriptor, UnverifiedWithdrawal, VotedRelay, is_public,
};
use posta_protocol::error::Untrusted;
use posta_protocol::ids::{Hash, RelayId};
use posta_protocol::now::{Mono, Now, Wall};
use posta_protocol::params::MAX_RELAYS;
pub use posta_protocol::params::MAX_RELAYS_PER_ADDRESS;

use crate::admission::Policy;

/// A relay's descriptor is replaced at most this often.
pub const MIN_REPOST: Duration = Duration::from_millis(100);
/// Descriptors verified in one second at most; more are refused with `busy`. Verifying one takes about 0.2 ms.
pub const MAX_POSTS_PER_SECOND: u32 = 1_000;
/// Of these, from one IPv4 address or IPv6 /64 at most: two relays may share one, and each posts a few times an epoch.
pub const MAX_POSTS_PER_ADDRESS: u32 = 32;

/// A descriptor that was accepted.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its exact bytes.
    pub bytes: Arc<[u8]>,
    /// What they say.
    pub descriptor: Arc<Descriptor>,
    digest: Hash,
}

impl Held {
    /// Takes over a descriptor that was verified.
    #[must_use]
    pub fn new(bytes: &[u8], descriptor: Descriptor) -> Self {
        Self { bytes: bytes.into(), descriptor: Arc::new(descriptor), digest: hash(DESCRIPTOR, bytes) }
    }

    /// The hash by which votes name it.
    #[must_use]
    pub const fn digest(&self) -> Hash {
        self.digest
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.descriptor.link_addresses.iter().chain(&self.descriptor.client_addresses).map(|a| a.ip()).collect()
    }
}

#[derive(Debug)]
struct Slot {
    newest: Held,
    /// The one before: another authority may have voted for it just now.
    former: Option<Held>,
    /// `None` for one that was read from disk.
    accepted: Option<Mono>,
}

/// All descriptors held: at most [`MAX_RELAYS`] relays, two for each.
#[derive(Debug)]
pub struct Intake {
    reserved_networks: bool,
    policy: Policy,
    slots: BTreeMap<RelayId, Slot>,
    by_digest: HashMap<Hash, RelayId>,
    by_address: BTreeMap<IpAddr, BTreeSet<RelayId>>,
    second: u64,
    posts: u32,
    /// Posts of this second by whom they came from; not longer than there are posts.
    posts_from: BTreeMap<IpAddr, u32>,
    /// Relays that were held and have withdrawn, and when: descriptors that are not newer are refused. At most
    /// [`MAX_RELAYS`], for as long as such descriptors could be listed.
    withdrawn: BTreeMap<RelayId, Wall>,
    /// The one that was taken last, until somebody asks.
    taken: Option<(RelayId, Wall)>,
}

impl Intake {
    /// An empty intake. With `reserved_networks`, addresses are not judged at all: test networks only.
    #[must_use]
    pub fn new(reserved_networks: bool) -> Self {
        Self {
            reserved_networks,
            policy: Policy::default(),
            slots: BTreeMap::new(),
            by_digest: HashMap::new(),
            by_address: BTreeMap::new(),
            second: 0,
            posts: 0,
            posts_from: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            taken: None,
        }
    }

    /// Admits by this from now on; relays that it doesn't admit are forgotten.
    pub fn decide(&mut self, policy: Policy) {
        self.policy = policy;
        let out: Vec<_> = self.slots.keys().filter(|id| !self.policy.admits(id)).copied().collect();
        for id in out {
            self.remove(&id);
        }
    }

    /// Relays held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no relay is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Takes a descriptor in that came from an address. One that is held already is accepted again without a change.
    ///
    /// # Errors
    /// The [`Refusal`] that the relay is told.
    pub fn offer(&mut self, now: Now, from: Option<IpAddr>, bytes: &[u8]) -> Result<(), Refusal> {
        if self.by_digest.contains_key(&hash(DESCRIPTOR, bytes)) {
            return Ok(());
        }
        self.admit(now, from)?;
        let descriptor = UnverifiedDescriptor::decode(bytes).and_then(|d| d.verify(now.wall)).map_err(refusal)?;
        self.insert(Some(now.mono), Held::new(bytes, descriptor))
    }

    /// Takes a withdrawal: the relay is not voted for any more, until it posts a descriptor that is newer.
    ///
    /// # Errors
    /// The [`Refusal`] that the relay is told.
    pub fn withdraw(&mut self, now: Now, from: Option<IpAddr>, bytes: &[u8]) -> Result<(), Refusal> {
        self.admit(now, from)?;
        let withdrawal = UnverifiedWithdrawal::decode(bytes).and_then(|w| w.verify(now.wall)).map_err(refusal)?;
        let (id, published) = (withdrawal.identity(), withdrawal.published);
        match self.slots.get(&id) {
            Some(slot) if slot.newest.descriptor.published > published => return Err(Refusal::Outdated),
            Some(_) if self.withdrawn.len() >= MAX_RELAYS => return Err(Refusal::Full),
            Some(_) => {}
            // Gone already, or never here: nobody can fill our memory with relays that don't exist.
            None => return Ok(()),
        }
        self.remove(&id);
        self.withdrawn.insert(id, published);
        self.taken = Some((id, published));
        Ok(())
    }

    /// The withdrawal that was taken last, once: it must be on disk before its relay is told that it was taken.
    pub fn last_withdrawal(&mut self) -> Option<(RelayId, Wall)> {
        self.taken.take()
    }

    /// All withdrawals that still matter.
    #[must_use]
    pub fn withdrawals(&self) -> Vec<(RelayId, Wall)> {
        self.withdrawn.iter().map(|(id, at)| (*id, *at)).collect()
    }

    /// Takes back the withdrawals that were taken before a restart; before the descriptors.
    pub fn restore_withdrawals(&mut self, list: &[(RelayId, Wall)]) {
        for (id, at) in list.iter().take(MAX_RELAYS) {
            let held = self.withdrawn.entry(*id).or_insert(*at);
            *held = (*held).max(*at);
        }
    }

    /// Counts a post, before anything is verified.
    fn admit(&mut self, now: Now, from: Option<IpAddr>) -> Result<(), Refusal> {
        let second = now.mono.0 / 1_000_000;
        if second != self.second {
            (self.second, self.posts) = (second, 0);
            self.posts_from.clear();
        }
        if self.posts >= MAX_POSTS_PER_SECOND {
            return Err(Refusal::Busy);
        }
        if let Some(from) = from {
            let posts = self.posts_from.entry(network_of(from)).or_default();
            if *posts >= MAX_POSTS_PER_ADDRESS {
                return Err(Refusal::Busy);
            }
            *posts += 1;
        }
        self.posts += 1;
        Ok(())
    }

    /// Takes back what was held before a restart; what isn't valid any more is left out.
    pub fn restore(&mut self, now: Now, bytes: &[u8]) {
        if let Ok(descriptor) = UnverifiedDescriptor::decode(bytes).and_then(|d| d.verify(now.wall)) {
            // One that is not admitted any more is left out too; its relay is told when it posts again.
            let _ = self.insert(None, Held::new(bytes, descriptor));
        }
    }

    fn insert(&mut self, now: Option<Mono>, held: Held) -> Result<(), Refusal> {
        let id = held.descriptor.identity();
        if !self.policy.admits(&id) {
            return Err(Refusal::Policy);
        }
        match self.slots.get(&id) {
            Some(slot) if slot.newest.descriptor.published >= held.descriptor.published => {
                return Err(Refusal::Outdated);
            }
            Some(Slot { accepted: Some(at), .. }) if now.is_some_and(|now| now.since(*at) < MIN_REPOST) => {
                return Err(Refusal::Busy);
            }
            None if self.slots.len() >= MAX_RELAYS => return Err(Refusal::Full),
            _ => {}
        }
        if self.withdrawn.get(&id).is_some_and(|at| *at >= held.descriptor.published) {
            return Err(Refusal::Outdated);
        }
        let addresses = held.addresses();
        if held.descriptor.link_addresses.is_empty()
            || (held.descriptor.roles.edge && held.descriptor.client_addresses.is_empty())
        {
            return Err(Refusal::Address);
        }
        if !self.reserved_networks {
            let crowded = |ip: &IpAddr| {
                let others = self.by_address.get(ip).map_or(0, |ids| ids.iter().filter(|other| **other != id).count());
                others >= MAX_RELAYS_PER_ADDRESS
            };
            if addresses.iter().any(|ip| !is_public(*ip) || crowded(ip)) {
                return Err(Refusal::Address);
            }
        }
        let former = self.remove(&id).map(|slot| slot.newest);
        if let Some(former) = &former {
            self.by_digest.insert(former.digest, id);
        }
        self.by_digest.insert(held.digest, id);
        for ip in addresses {
            self.by_address.entry(ip).or_default().insert(id);
        }
        self.withdrawn.remove(&id);
        self.slots.insert(id, Slot { newest: held, former, accepted: now });
        Ok(())
    }

    fn remove(&mut self, id: &RelayId) -> Option<Slot> {
        let slot = self.slots.remove(id)?;
        for ip in slot.newest.addresses() {
            if let Some(ids) = self.by_address.get_mut(&ip) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_address.remove(&ip);
                }
            }
        }
        self.by_digest.remove(&slot.newest.digest);
        if let Some(former) = &slot.former {
            self.by_digest.remove(&former.digest);
        }
        Some(slot)
    }

    /// Forgets relays that published nothing since.
    pub fn expire(&mut self, oldest: Wall) {
        let stale: Vec<_> =
            self.slots.iter().filter(|(_, s)| s.newest.descriptor.published < oldest).map(|(id, _)| *id).collect();
        for id in stale {
            self.remove(&id);
        }
        self.withdrawn.retain(|_, at| *at >= oldest);
    }

    /// A descriptor by its digest: the newest of a relay, or the one before.
    #[must_use]
    pub fn get(&self, digest: &Hash) -> Option<&Held> {
        let slot = self.slots.get(self.by_digest.get(digest)?)?;
        if slot.newest.digest == *digest { Some(&slot.newest) } else { slot.former.as_ref() }
    }

    /// What this authority votes for: every relay, sorted, and not measured.
    #[must_use]
    pub fn votes(&self) -> Vec<VotedRelay> {
        self.slots
            .iter()
            .map(|(id, slot)| VotedRelay { id: *id, digest: slot.newest.digest, class: Class::default() })
            .collect()
    }

    /// The newest descriptor of every relay.
    pub fn iter(&self) -> impl Iterator<Item = &Held> {
        self.slots.values().map(|slot| &slot.newest)
    }
}

fn refusal(e: Untrusted) -> Refusal {
    match e {
        Untrusted::Malformed(_) => Refusal::Malformed,
        Untrusted::Version(_) => Refusal::Unsupported,
        _ => Refusal::Untrusted,
    }
}

/// What counts as one address: whoever has an IPv6 address has all of its /64.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use posta_protocol::crypto::signature::SignKey;
    use posta_protocol::document::{Certificate, Extensions, Family, Purpose, Roles, Withdrawal};
    use posta_protocol::ids::{LinkPublicKey, OperatorId, SigningPublicKey};
    use posta_protocol::secret::Secret;

    use super::*;

    const START: Now = Now { mono: Mono(0), wall: Wall(1_700_000_000_000) };

    const FROM: Option<IpAddr> = None;

    fn descriptor(n: u8, ip: &str, published: Wall) -> Vec<u8> {
        let key = |kind| SignKey::from_seed(&Secret::new([kind + n; 32]));
        let (identity, signing) = (key(0), key(100));
        let day = Duration::from_secs(86_400);
        let signing_key = SigningPublicKey(signing.public());
        let descriptor = Descriptor {
            certificate: Certificate::issue(&identity, Purpose::Relay, signing_key, START.wall - day, START.wall + day),
            link_key: LinkPublicKey([n; 32]),
            link_addresses: vec![format!("{ip}:4433").parse().unwrap()],
            client_addresses: vec![format!("{ip}:4434").parse().unwrap()],
            roles: Roles::EDGE,
            family: None,
            operator: OperatorId([n; 16]),
            capacity: 1,
            protocols: Default::default(),
            published,
            mix_keys: vec![],
            extensions: Extensions::default(),
        };
        descriptor.sign(&signing).unwrap().into_bytes()
    }

    #[test]
    fn an_older_descriptor_never_replaces_a_newer_one() {
        let mut intake = Intake::new(false);
        let later = START + Duration::from_secs(10);
        let (old, new) = (descriptor(1, "9.9.9.9", START.wall), descriptor(1, "9.9.9.9", later.wall));
        assert_eq!(intake.offer(later, FROM, &new), Ok(()));
        let after = later + MIN_REPOST;
        assert_eq!(intake.offer(after, FROM, &old), Err(Refusal::Outdated), "a replayed one");
        assert_eq!(intake.offer(after, FROM, &new), Ok(()), "the same one again");
        assert_eq!(intake.len(), 1);
    }

    #[test]
    fn the_one_before_stays_within_reach() {
        let mut intake = Intake::new(false);
        let later = START + Duration::from_secs(10);
        let bytes: Vec<_> = [START.wall, later.wall].map(|at| descriptor(1, "9.9.9.9", at)).into();
        assert_eq!(intake.offer(START, FROM, &bytes[0]), Ok(()));
        assert_eq!(intake.offer(START, FROM, &bytes[1]), Err(Refusal::Busy), "too soon");
        assert_eq!(intake.offer(later, FROM, &bytes[1]), Ok(()));
        assert!(bytes.iter().all(|b| intake.get(&hash(DESCRIPTOR, b)).is_some()));
        assert_eq!(intake.votes()[0].digest, hash(DESCRIPTOR, &bytes[1]));
        intake.expire(later.wall + Duration::from_secs(1));
        assert!(intake.is_empty() && intake.get(&hash(DESCRIPTOR, &bytes[1])).is_none());
    }

    #[test]
    fn at_most_two_relays_share_an_address_and_it_must_be_public() {
        let mut intake = Intake::new(false);
        assert_eq!(intake.offer(START, FROM, &descriptor(1, "127.0.0.1", START.wall)), Err(Refusal::Address));
        for n in 1..=2 {
            assert_eq!(intake.offer(START, FROM, &descriptor(n, "9.9.9.9", START.wall)), Ok(()));
        }
        assert_eq!(intake.offer(START, FROM, &descriptor(3, "9.9.9.9", START.wall)), Err(Refusal::Address));
        let later = START + Duration::from_secs(5);
        assert_eq!(intake.offer(later, FROM, &descriptor(2, "9.9.9.10", later.wall)), Ok(()), "one moves away");
        assert_eq!(intake.offer(later, FROM, &descriptor(3, "9.9.9.9", later.wall)), Ok(()));
        let mut test_network = Intake::new(true);
        for n in 1..=5 {
            assert_eq!(test_network.offer(START, FROM, &descriptor(n, "127.0.0.1", START.wall)), Ok(()));
        }
    }

    #[test]
    fn a_flood_is_refused_before_it_costs_much() {
        let mut intake = Intake::new(true);
        let rubbish = |n: u32| n.to_le_bytes();
        for n in 0..MAX_POSTS_PER_SECOND {
            assert_ne!(intake.offer(START, FROM, &rubbish(n)), Err(Refusal::Busy));
        }
        assert_eq!(intake.offer(START, FROM, &descriptor(1, "127.0.0.1", START.wall)), Err(Refusal::Busy));
        let later = START + Duration::from_secs(1);
        assert_eq!(intake.offer(later, FROM, &descriptor(1, "127.0.0.1", START.wall)), Ok(()));
        assert_eq!(
            intake.offer(later, FROM, &descriptor(2, "127.0.0.1", later.wall + Duration::from_secs(600))),
            Err(Refusal::Untrusted)
        );
    }

    #[test]
    fn a_flood_from_one_address_or_of_one_relay_leaves_room_for_others() {
        let mut intake = Intake::new(true);
        let from = |ip: &str| Some(ip.parse().unwrap());
        for n in 0..MAX_POSTS_PER_ADDRESS {
            assert_eq!(intake.offer(START, from("9.9.9.9"), &n.to_le_bytes()), Err(Refusal::Malformed));
        }
        let good = descriptor(1, "127.0.0.1", START.wall);
        assert_eq!(intake.offer(START, from("9.9.9.9"), &good), Err(Refusal::Busy), "whatever it posts");
        assert_eq!(intake.withdraw(START, from("9.9.9.9"), b"rubbish"), Err(Refusal::Busy));
        assert_eq!(intake.offer(START, from("9.9.9.10"), &good), Ok(()), "another address");
        // Whoever has an IPv6 address has a whole network of them.
        for n in 0..MAX_POSTS_PER_ADDRESS {
            let post = intake.offer(START, from(&format!("2620:fe::{n:x}")), &n.to_be_bytes());
            assert_eq!(post, Err(Refusal::Malformed));
        }
        assert_eq!(intake.offer(START, from("2620:fe::ffff"), b"rubbish"), Err(Refusal::Busy));
        assert_eq!(intake.offer(START, from("2620:fe:0:1::1"), b"rubbish"), Err(Refusal::Malformed));

        // One relay that signs ever newer descriptors has one taken, from wherever it posts.
        let mut taken = 0;
        for n in 1..20_u64 {
            let newer = descriptor(1, "127.0.0.1", Wall(START.wall.0 + n));
            let ip = format!("9.9.8.{n}");
            taken += u32::from(intake.offer(START, from(&ip), &newer).is_ok());
        }
        assert_eq!(taken, 0, "the first was a moment ago");
        let later = START + MIN_REPOST;
        let newer = descriptor(1, "127.0.0.1", later.wall);
        assert_eq!(intake.offer(later, from("9.9.9.11"), &newer), Ok(()));
    }

    #[test]
    fn a_relay_that_is_not_admitted_is_told_so_and_forgotten() {
        let id = |n: u8| RelayId(SignKey::from_seed(&Secret::new([n; 32])).public());
        let mut intake = Intake::new(true);
        for n in 1..=2 {
            assert_eq!(intake.offer(START, FROM, &descriptor(n, "127.0.0.1", START.wall)), Ok(()));
        }
        intake.decide(Policy::all_but([id(1)]));
        assert_eq!(intake.votes().iter().map(|r| r.id).collect::<Vec<_>>(), [id(2)], "it is forgotten");
        let later = START + MIN_REPOST;
        let denied = descriptor(1, "127.0.0.1", later.wall);
        assert_eq!(intake.offer(later, FROM, &denied), Err(Refusal::Policy));
        intake.decide(Policy::only([id(1)]));
        assert_eq!(intake.offer(later, FROM, &descriptor(2, "127.0.0.1", later.wall)), Err(Refusal::Policy));
        assert_eq!(intake.offer(later, FROM, &denied), Ok(()), "the operator has changed his mind");
    }

    #[test]
    fn a_relay_that_its_family_does_not_know_is_not_taken() {
        let key = |n: u8| SignKey::from_seed(&Secret::new([n; 32]));
        let family = key(200);
        let (signing, relay) = (key(101), RelayId(key(1).public()));
        let posted = |family, published| {
            let bytes = descriptor(1, "127.0.0.1", published);
            let plain = UnverifiedDescriptor::decode(&bytes).unwrap().verify(published).unwrap();
            Descriptor { family: Some(family), published, ..plain }.sign(&signing).unwrap().into_bytes()
        };
        let mut intake = Intake::new(true);
        let stolen = Family::admit(&family, &RelayId([9; 32]));
        assert_eq!(intake.offer(START, FROM, &posted(stolen, START.wall)), Err(Refusal::Untrusted));
        let own = Family::admit(&family, &relay);
        assert_eq!(intake.offer(START, FROM, &posted(own, START.wall)), Ok(()));
        assert_eq!(intake.iter().next().unwrap().descriptor.family.unwrap().key, family.public());
    }

    #[test]
    fn a_withdrawn_relay_is_not_voted_for_until_it_says_something_newer() {
        let mut intake = Intake::new(true);
        let withdrawal = |n: u8, published| {
            let key = |kind: u8| SignKey::from_seed(&Secret::new([kind + n; 32]));
            let day = Duration::from_secs(86_400);
            let (identity, signing) = (key(0), key(100));
            let public = SigningPublicKey(signing.public());
            let certificate = Certificate::issue(&identity, Purpose::Relay, public, START.wall - day, START.wall + day);
            Withdrawal { certificate, published }.sign(&signing).unwrap()
        };
        let old = descriptor(1, "127.0.0.1", START.wall);
        assert_eq!(intake.offer(START, FROM, &old), Ok(()));
        assert_eq!(intake.withdraw(START, FROM, &withdrawal(2, START.wall)), Ok(()), "one that is not here");
        let before = Wall(START.wall.0 - 1);
        assert_eq!(intake.withdraw(START, FROM, &withdrawal(1, before)), Err(Refusal::Outdated), "a replayed one");
        assert_eq!(intake.votes().len(), 1);
        assert_eq!(intake.withdraw(START, FROM, &withdrawal(1, START.wall)), Ok(()));
        assert!(intake.is_empty() && intake.votes().is_empty());
        assert_eq!(intake.offer(START, FROM, &old), Err(Refusal::Outdated));
        assert!(intake.last_withdrawal().is_some() && intake.last_withdrawal().is_none(), "once, for the disk");
        let mut restarted = Intake::new(true);
        restarted.restore_withdrawals(&intake.withdrawals());
        restarted.restore(START, &old);
        assert!(restarted.is_empty(), "nor does a restart bring it back");
        let later = START + Duration::from_secs(1);
        assert_eq!(intake.offer(later, FROM, &descriptor(1, "127.0.0.1", later.wall)), Ok(()));
        assert_eq!(intake.len(), 1);
        let early = later.wall + Duration::from_secs(600);
        assert_eq!(intake.withdraw(later, FROM, &withdrawal(1, early)), Err(Refusal::Untrusted), "from the future");
    }
}
