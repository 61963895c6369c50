//! The relay and the directory: keys turned in time, descriptors posted, consensuses fetched.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use posta_link::Endpoint;
use posta_link::fetch::{FetchError, Network, fetch_consensus, post_descriptor};
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{Consensus, Descriptor, Extensions, MixKeys, Refusal};
use posta_protocol::error::Untrusted;
use posta_protocol::ids::{KeyEpoch, OperatorId, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::RELAY_CLOCK_SKEW;
use rand::RngExt;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::cache::Cache;
use super::clock::{Utc, wall};
use super::links::Held;
use crate::config::Config;
use crate::failure::Failure;
use crate::keys::{KeyError, Keys};
use crate::relay::replay::Fill;
use crate::relay::worker::Ring;

/// Between two attempts while there is no consensus at all, or the descriptor isn't everywhere: at first, at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Between two looks for a consensus that is late, at least and at most.
const LATE_MIN: Duration = Duration::from_millis(250);
const LATE_MAX: Duration = Duration::from_secs(300);
/// How often the wall clock is looked at while waiting for a key epoch's turn: it may be set meanwhile.
const CLOCK_LOOK: Duration = Duration::from_secs(30);
/// With less than this left to the certificate, the log says so.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(7 * 24 * 3600);

/// Public mix keys, as the descriptor carries them.
pub(crate) type PublicKeys = Vec<(KeyEpoch, KemPublicKey)>;

/// The mix keys that the newest consensus binds; none after a start from the one on disk, until there is a newer one.
pub(crate) type Parts = Vec<Arc<MixKeys>>;

/// What is posted and fetched with.
pub(crate) struct Directory {
    pub(crate) network: Network,
    pub(crate) dialer: Endpoint,
    pub(crate) config: Config,
    pub(crate) relay: RelayId,
}

/// Turns the keys in time: makes new ones, tells the workers, destroys old ones. Ends only if a file can't be written.
pub(crate) async fn turn_keys(
    mut keys: Keys,
    hint_ms: u64,
    mut consensus: Held,
    public: watch::Sender<PublicKeys>,
    rings: watch::Sender<Option<Ring>>,
) -> KeyError {
    let mut shown: Option<(u64, Vec<KeyEpoch>)> = None;
    loop {
        let held = consensus.borrow_and_update().clone();
        let ms = held.as_ref().map_or(hint_ms, |c| c.params().key_epoch_ms());
        let now = wall();
        if let Err(e) = keys.make_ahead(now, ms) {
            return e;
        }
        // Before a consensus has said how long key epochs are, nothing is known to be past.
        if held.is_some()
            && let Err(e) = keys.learn_length(ms).and_then(|()| keys.destroy_past(now, ms))
        {
            return e;
        }
        let current = keys.mix_public(now, ms);
        public.send_if_modified(|shown| {
            let changed = current.iter().any(|(e, key)| !shown.iter().any(|(s, k)| s == e && k == key));
            if changed {
                *shown = current;
            }
            changed
        });
        if let Some(held) = &held {
            match keys.ring(now, ms, held.geometry()) {
                Ok(ring) if shown.as_ref().is_none_or(|(m, e)| *m != ms || *e != ring.epochs) => {
                    shown = Some((ms, ring.epochs.clone()));
                    rings.send_replace(Some(ring));
                }
                Ok(_) => {}
                Err(e) => return e,
            }
        }
        let wait = Keys::next_change(now, ms).since(wall()).clamp(Duration::from_millis(1), CLOCK_LOOK);
        tokio::select! {
            () = sleep(wait) => {}
            changed = consensus.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}

impl Directory {
    /// Fetches each consensus as it comes, and keeps it on disk.
    pub(crate) async fn fetch(
        self: Arc<Self>,
        newest: watch::Sender<Option<Arc<Consensus>>>,
        parts: watch::Sender<Parts>,
        cache: Cache,
    ) {
        let mut pause = RETRY_FIRST;
        let mut said = String::new();
        loop {
            let held = newest.borrow().clone();
            match fetch_consensus(&self.network, &self.dialer, wall(), held.as_deref()).await {
                Ok((consensus, keys)) => {
                    self.look_at(&consensus, held.is_none());
                    said.clear();
                    let consensus = Arc::new(consensus);
                    // Before anyone acts on it: a relay that must start again because of it starts with it.
                    keep(&cache, &consensus, held).await;
                    parts.send_replace(keys.into_iter().map(Arc::new).collect());
                    newest.send_replace(Some(consensus));
                }
                Err(FetchError::NothingNewer) => {}
                // A network that is just starting.
                Err(e @ FetchError::NoConsensus) => info!("{e}"),
                Err(e) => say_once(&mut said, &self.explain(&e), held.is_none()),
            }
            let held = newest.borrow().clone();
            let wait = match held {
                Some(held) => next_look(&held, wall()),
                None => {
                    pause = (pause * 2).min(RETRY_LAST);
                    pause / 2
                }
            };
            sleep(wait).await;
        }
    }

    fn explain(&self, e: &FetchError) -> String {
        match e {
            FetchError::Untrusted(Untrusted::TooEarly(_) | Untrusted::Expired(_)) => {
                format!("{e} (this machine's clock says {})", Utc(wall()))
            }
            _ => e.to_string(),
        }
    }

    /// What an operator should know of a new consensus.
    fn look_at(&self, consensus: &Consensus, first: bool) {
        let now = wall();
        if now + RELAY_CLOCK_SKEW < consensus.valid_after() || now > consensus.valid_until() + RELAY_CLOCK_SKEW {
            warn!(
                "this machine's clock says {}, the newest consensus is valid from {} to {}: set the clock",
                Utc(now),
                Utc(consensus.valid_after()),
                Utc(consensus.valid_until())
            );
        }
        let listed = consensus.relay(&self.relay).is_some();
        if first {
            info!("consensus {} with {} relays", consensus.epoch().0, consensus.relays().len());
        }
        if !listed {
            info!("consensus {} does not list this relay yet", consensus.epoch().0);
        }
    }

    /// Posts the descriptor: at the start, with new keys, when the replay filter fills up, every half epoch. Ends only if the authorities refuse a first
    /// one for a reason that doesn't pass.
    pub(crate) async fn post(
        self: Arc<Self>,
        signer: Arc<Signer>,
        mut public: watch::Receiver<PublicKeys>,
        consensus: Held,
        mut fill: watch::Receiver<Fill>,
    ) -> Failure {
        let mut pause = RETRY_FIRST;
        let mut said = String::new();
        let mut accepted_once = false;
        signer.warn_of_expiry(wall());
        loop {
            let mix_keys = public.borrow_and_update().clone();
            let epoch = consensus.borrow().as_ref().map(|c| c.params().epoch_ms());
            let capacity = fill.borrow_and_update().advertised(self.config.capacity);
            let posted = match self.descriptor(&signer, mix_keys, capacity, wall()) {
                Ok(bytes) => post_descriptor(&self.network, &self.dialer, &bytes).await,
                Err(failure) => return failure,
            };
            let everywhere = match posted {
                Ok(accepted) => {
                    accepted_once = true;
                    said.clear();
                    accepted == self.network.authorities().len()
                }
                Err(FetchError::Refused(reason)) if !accepted_once && lasting(reason) => {
                    return Failure::network(format_args!("the authorities do not admit this relay: {reason}"));
                }
                Err(e) => {
                    say_once(&mut said, &format!("the descriptor was not posted: {e}"), true);
                    false
                }
            };
            // Before the first consensus an epoch's length isn't known; then each post is new to nobody, and cheap.
            let half = epoch.map_or(RETRY_LAST, |ms| Duration::from_millis(ms / 2));
            let wait = if everywhere {
                pause = RETRY_FIRST;
                half.mul_f64(rand::rng().random_range(0.75..1.0))
            } else {
                pause = (pause * 2).min(half.max(RETRY_FIRST));
                pause / 2
            };
            tokio::select! {
                () = sleep(wait) => {}
                changed = public.changed() => if changed.is_err() { sleep(wait).await },
                changed = fill.changed() => if changed.is_err() { sleep(wait).await },
            }
        }
    }

    fn descriptor(&self, signer: &Signer, mix_keys: PublicKeys, capacity: u32, now: Wall) -> Result<Vec<u8>, Failure> {
        let config = &self.config;
        let descriptor = Descriptor {
            certificate: *signer.keys.certificate(),
            link_key: signer.keys.link_public(),
            link_addresses: config.advertised_link(),
            client_addresses: config.advertised_client(),
            roles: config.directory_roles(),
            family: config.family_key(),
            operator: signer.operator,
            capacity,
            published: now,
            mix_keys,
            extensions: Extensions::default(),
        };
        let signed = descriptor.sign(signer.keys.signing()).map_err(Failure::usage)?;
        Ok(signed.into_bytes())
    }
}

async fn keep(cache: &Cache, consensus: &Arc<Consensus>, held: Option<Arc<Consensus>>) {
    let (cache, consensus) = (cache.clone(), Arc::clone(consensus));
    let kept = spawn_blocking(move || cache.keep(&consensus, held.as_deref())).await;
    if let Err(e) = kept.unwrap_or_else(|e| Err(io::Error::other(e))) {
        warn!("the consensus can't be kept on disk: {e}; a restart will need an authority");
    }
}

/// What descriptors are signed with: a second view of the keys, without the mix keys' turns.
pub(crate) struct Signer {
    pub(crate) keys: Keys,
    pub(crate) operator: OperatorId,
}

impl Signer {
    fn warn_of_expiry(&self, now: Wall) {
        let expires = self.keys.certificate().expires;
        if expires < now + CERTIFICATE_WARNING {
            warn!("the signing key's certificate ends on {}: put identity.key back to renew it", Utc(expires));
        }
    }
}

/// A refusal that trying again won't change.
const fn lasting(reason: Refusal) -> bool {
    matches!(reason, Refusal::Malformed | Refusal::Untrusted | Refusal::Address | Refusal::Unsupported)
}

/// Says each new trouble once, not at every attempt.
fn say_once(said: &mut String, what: &str, loud: bool) {
    if said != what {
        if loud {
            error!("{what}");
        } else {
            warn!("{what}");
        }
        what.clone_into(said);
    }
}

/// When to look for the next consensus: a little after it is due, at a time of our own, then eight times an epoch.
fn next_look(held: &Consensus, now: Wall) -> Duration {
    let epoch = held.params().epoch_ms();
    let late = Duration::from_millis(epoch / 8).clamp(LATE_MIN, LATE_MAX);
    if now >= held.fresh_until() {
        return late;
    }
    let jitter = rand::rng().random_range(0..=epoch / 16);
    held.fresh_until().since(now) + Duration::from_millis(jitter)
}
