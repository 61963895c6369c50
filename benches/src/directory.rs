//! The directory with many relays: how large a consensus is, how long an authority takes to tally it and a client to
//! verify it. The relays are synthetic; their keys and signatures are real.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use miniz_oxide::deflate::compress_to_vec;
use posta_directory::intake::Held;
use posta_directory::tally::{Counted, Outcome, tally};
use posta_protocol::crypto::signature::SignKey;
use posta_protocol::crypto::xwing::{KemPublicKey, KemSecretKey};
use posta_protocol::document::{
    Authorities, Authority, Certificate, Consensus, ConsensusDiff, ConsensusSignature, Descriptor, Extensions, MixKeys,
    MixKeysDiff, Params, Purpose, RandomItems, Roles, UnverifiedConsensus, UnverifiedMixKeys, Vote, VotedRelay,
    random_commit, verify_succession, verify_usable,
};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{AuthorityId, Epoch, Hash, KeyEpoch, LinkPublicKey, OperatorId, SigningPublicKey};
use posta_protocol::now::Wall;
use posta_protocol::params::CLIENT_CLOCK_SKEW;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use serde::Serialize;

/// Authorities of the measured network.
const AUTHORITIES: u8 = 9;
/// Turns of each measurement; the median counts.
const TURNS: usize = 5;
const HOUR: Duration = Duration::from_secs(3600);
/// The first epoch of a key epoch, far enough from zero.
const EPOCH: u64 = 472_224;
/// Epochs of a key epoch.
const KEY_EPOCH: u64 = 6;
/// Of this many relays one goes in an hour, and another one comes: 2 %.
const CHURN: usize = 50;
/// Effort of deflate, of 10: as for differences.
const LEVEL: u8 = 9;

/// All figures; times are medians in milliseconds on one core.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// Relays listed.
    pub relays: usize,
    /// Authorities that sign.
    pub authorities: usize,
    /// The consensus, without mix keys.
    pub consensus_bytes: usize,
    /// The same under deflate. (It travels as it is: most of it is keys.)
    pub consensus_deflated_bytes: usize,
    /// How the next hour's consensus differs, as it travels: 2 % of the relays have gone, as many have come.
    pub diff_bytes: usize,
    /// The same, not compressed.
    pub diff_content_bytes: usize,
    /// How the consensus of the next key epoch differs, with the same relays.
    pub rotation_diff_bytes: usize,
    /// How the mix keys of one key epoch differ in the next hour, with the same 2 %.
    pub mix_keys_diff_bytes: usize,
    /// What a client fetches in 24 hours that fetches every hour: differences, and whole mix keys four times.
    pub client_day_bytes: usize,
    /// The same, if everything were fetched whole.
    pub client_day_whole_bytes: usize,
    /// Making the difference, once for everyone.
    pub diff_make_ms: f64,
    /// A client applies the difference; what comes of it is then verified like a whole one.
    pub diff_apply_ms: f64,
    /// The mix keys of one key epoch: what a client fetches besides once in a key epoch.
    pub mix_keys_bytes: usize,
    /// One authority's vote.
    pub vote_bytes: usize,
    /// An authority tallies the votes of all, with the descriptors at hand.
    pub tally_ms: f64,
    /// A client parses a consensus, verifies its signatures and times, and that it follows from the one before.
    pub verify_ms: f64,
    /// A client parses the mix keys of three key epochs and checks every place in the layers by them.
    pub verify_mix_keys_ms: f64,
}

struct Signer {
    identity: SignKey,
    signing: SignKey,
    certificate: Certificate,
}

impl Signer {
    fn new(purpose: Purpose, rng: &mut ChaCha20Rng) -> Self {
        let (identity, signing) = (SignKey::from_seed(&Secret::random(rng)), SignKey::from_seed(&Secret::random(rng)));
        let key = SigningPublicKey(signing.public());
        let certificate = Certificate::issue(&identity, purpose, key, Wall(0), Wall(u64::MAX));
        Self { identity, signing, certificate }
    }
}

struct Network {
    signers: Vec<Signer>,
    authorities: Authorities,
    relays: Vec<Held>,
    descriptors: HashMap<Hash, Arc<Descriptor>>,
}

impl Network {
    fn new(relays: usize, rng: &mut ChaCha20Rng) -> Result<Self> {
        let signers: Vec<_> = (0..AUTHORITIES).map(|_| Signer::new(Purpose::Authority, rng)).collect();
        let listed = |s: &Signer| Authority {
            id: AuthorityId(s.identity.public()),
            link_key: LinkPublicKey([0; 32]),
            addresses: Vec::new(),
        };
        let authorities = Authorities::new(signers.iter().map(listed).collect()).context("authorities")?;
        let held = (0..relays).map(|n| relay(n, rng)).collect::<Result<Vec<_>>>()?;
        let mut network = Self { signers, authorities, relays: held, descriptors: HashMap::new() };
        network.arrange();
        Ok(network)
    }

    fn arrange(&mut self) {
        self.relays.sort_by_key(|relay| relay.descriptor.identity());
        self.descriptors = self.relays.iter().map(|r| (r.digest(), Arc::clone(&r.descriptor))).collect();
    }

    /// Some relays go, and as many come.
    fn churn(&mut self, rng: &mut ChaCha20Rng) -> Result<()> {
        let total = self.relays.len();
        for (n, old) in self.relays.iter_mut().enumerate().filter(|(n, _)| n.is_multiple_of(CHURN)) {
            *old = relay(total + n, rng)?;
        }
        self.arrange();
        Ok(())
    }

    fn votes(&self, epoch: u64, newest: Option<&Consensus>) -> Vec<Vote> {
        let relays: Vec<_> = self
            .relays
            .iter()
            .map(|r| VotedRelay { id: r.descriptor.identity(), digest: r.digest(), class: Default::default() })
            .collect();
        let key_epoch = key_epoch(epoch);
        let vote = |signer: &Signer| {
            let id = AuthorityId(signer.identity.public());
            Vote {
                certificate: signer.certificate,
                epoch: Epoch(epoch),
                attempt: 0,
                published: at(epoch),
                newest: newest.map(Consensus::signed_header),
                random: RandomItems {
                    key_epoch,
                    commits: vec![(id, random_commit(&id, key_epoch, &id.0))],
                    reveals: Vec::new(),
                },
                params: Params::default(),
                relays: relays.clone(),
                extensions: Extensions::default(),
            }
        };
        self.signers.iter().map(vote).collect()
    }

    fn tally(&self, epoch: u64, votes: &[Vote], base: Option<&Consensus>) -> Result<Outcome> {
        let counted: Counted<'_> = votes.iter().map(|vote| (vote.voter(), vote)).collect::<BTreeMap<_, _>>();
        let descriptor = |digest: &Hash| self.descriptors.get(digest).cloned();
        tally(&self.authorities, Geometry::DEFAULT, Epoch(epoch), &counted, base, descriptor).context("a tally")
    }

    fn sign(&self, outcome: &Outcome) -> Vec<u8> {
        let sign = |s: &Signer| ConsensusSignature::sign(&outcome.header, s.certificate, &s.signing);
        let mut signatures: Vec<_> = self.signers.iter().map(sign).collect();
        signatures.sort_by_key(ConsensusSignature::authority);
        Consensus::assemble(&outcome.body, &signatures)
    }
}

const fn at(epoch: u64) -> Wall {
    Wall(epoch * HOUR.as_millis() as u64)
}

const fn key_epoch(epoch: u64) -> KeyEpoch {
    KeyEpoch(epoch / KEY_EPOCH)
}

fn relay(n: usize, rng: &mut ChaCha20Rng) -> Result<Held> {
    let signer = Signer::new(Purpose::Relay, rng);
    let [a, b, c, ..] = u64::try_from(n)?.to_le_bytes();
    let address = |port| vec![SocketAddr::from(([60, c, b, a], port))];
    let edge = n.is_multiple_of(2);
    let key = |epoch: u64, rng: &mut ChaCha20Rng| -> Result<(KeyEpoch, KemPublicKey)> {
        let secret = KemSecretKey::from_seed(&Secret::random(rng)).context("a mix key")?;
        Ok((KeyEpoch(epoch), secret.public().clone()))
    };
    // Those of the measured key epoch, of the one before, and two ahead.
    let first = key_epoch(EPOCH).0 - 1;
    let mix_keys = (first..=first + 3).map(|epoch| key(epoch, rng)).collect::<Result<_>>()?;
    let mut id = [0; 32];
    rng.fill_bytes(&mut id);
    let descriptor = Descriptor {
        certificate: signer.certificate,
        link_key: LinkPublicKey(id),
        link_addresses: address(4433),
        client_addresses: if edge { address(4434) } else { Vec::new() },
        roles: if edge { Roles::EDGE } else { Roles::MIX },
        family: None,
        operator: OperatorId([a; 16]),
        capacity: 500 + rng.next_u32() % 2_000,
        protocols: Default::default(),
        published: at(EPOCH),
        mix_keys,
        extensions: Extensions::default(),
    };
    let bytes = descriptor.clone().sign(&signer.signing).context("a descriptor")?;
    Ok(Held::new(bytes.as_bytes(), descriptor))
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn median<T>(mut work: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut times = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let start = Instant::now();
        std::hint::black_box(work()?);
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let middle = times.get(TURNS / 2).copied().unwrap_or_default();
    Ok((middle.as_secs_f64() * 1e5).round() / 100.0)
}

/// Measures on the thread that calls.
///
/// # Errors
/// If a document is not what it should be, which would be a bug.
pub fn measure(relays: usize) -> Result<Figures> {
    let rng = &mut ChaCha20Rng::seed_from_u64(1);
    let mut network = Network::new(relays, rng)?;
    // The start of a key epoch, the start of the next one with the same relays, and an hour later.
    let (start, now) = (EPOCH - KEY_EPOCH, at(EPOCH + 1));
    let first = network.sign(&network.tally(start, &network.votes(start, None), None)?);
    let first = UnverifiedConsensus::decode(&first)?.verify_signatures(&network.authorities)?;
    let turned = network.tally(EPOCH, &network.votes(EPOCH, Some(&first)), Some(&first))?;
    let held = UnverifiedConsensus::decode(&network.sign(&turned))?.verify_signatures(&network.authorities)?;
    network.churn(rng)?;
    let votes = network.votes(EPOCH + 1, Some(&held));
    let outcome = network.tally(EPOCH + 1, &votes, Some(&held))?;
    let bytes = network.sign(&outcome);

    let verify = || -> Result<Consensus> {
        let consensus = UnverifiedConsensus::decode(&bytes)?.verify(&network.authorities, now, CLIENT_CLOCK_SKEW)?;
        verify_succession(&consensus, &held, &network.authorities)?;
        Ok(consensus)
    };
    let consensus = verify()?;
    ensure!(consensus.relays().len() == relays, "{} of {relays} relays are listed", consensus.relays().len());
    let parts = || -> Result<Vec<MixKeys>> {
        outcome.parts.iter().map(|(_, part)| Ok(UnverifiedMixKeys::decode(part)?.verify(&consensus)?)).collect()
    };
    ensure!(outcome.parts.len() == 3, "{} key epochs have mix keys", outcome.parts.len());

    let diff = ConsensusDiff::between(&held, &consensus);
    let packed = diff.encode();
    let apply = || -> Result<UnverifiedConsensus> { Ok(ConsensusDiff::decode(&packed)?.apply(&held)?) };
    let again = apply()?.verify(&network.authorities, now, CLIENT_CLOCK_SKEW)?;
    ensure!(again.encode() == bytes, "the difference leads to other bytes");
    let rotation = ConsensusDiff::between(&first, &held).encode().len();
    let part_of =
        |outcome: &Outcome, n: usize| outcome.parts.get(n).map(|(_, part)| Arc::clone(part)).context("a part");
    let (old, new) = (part_of(&turned, 0)?, part_of(&outcome, 0)?);
    let part_diff = MixKeysDiff::between(&old, &new).context("two parts of one key epoch")?.len();
    // Of 24 fetches 4 are the first of a key epoch.
    let day = 20 * (packed.len() + 3 * part_diff) + 4 * (rotation + 2 * part_diff + new.len());
    let signer = network.signers.first().context("a signer")?;
    Ok(Figures {
        relays,
        authorities: usize::from(AUTHORITIES),
        consensus_bytes: bytes.len(),
        consensus_deflated_bytes: compress_to_vec(&bytes, LEVEL).len(),
        diff_bytes: packed.len(),
        diff_content_bytes: diff.content().len(),
        rotation_diff_bytes: rotation,
        mix_keys_diff_bytes: part_diff,
        client_day_bytes: day,
        client_day_whole_bytes: 24 * (bytes.len() + 3 * new.len()),
        diff_make_ms: median(|| Ok(ConsensusDiff::between(&held, &consensus).encode()))?,
        diff_apply_ms: median(apply)?,
        mix_keys_bytes: new.len(),
        vote_bytes: votes.first().map_or(0, |vote| vote.sign(&signer.signing).len()),
        tally_ms: median(|| network.tally(EPOCH + 1, &votes, Some(&held)))?,
        verify_ms: median(verify)?,
        verify_mix_keys_ms: median(|| Ok(verify_usable(&consensus, &parts()?, now)?))?,
    })
}
