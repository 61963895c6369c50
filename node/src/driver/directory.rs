//! The relay and the directory: keys turned in time, descriptors posted, consensuses fetched.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use posta_link::Endpoint;
use posta_link::fetch::{
    self, FetchError, Network, fetch_consensus, fetch_mix_keys, fetch_newer, look_for_forks, post_descriptor, withdraw,
};
use posta_protocol::crypto::xwing::KemPublicKey;
use posta_protocol::document::{
    Consensus, Descriptor, Extensions, MixKeys, Protocols, Refusal, Roles, Shelf, Succession, Withdrawal,
    verify_succession,
};
use posta_protocol::error::Untrusted;
use posta_protocol::ids::{KeyEpoch, RelayId};
use posta_protocol::now::Wall;
use posta_protocol::params::RELAY_CLOCK_SKEW;
use rand::RngExt;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use super::board::{Board, Settings};
use super::cache::Cache;
use super::clock::{Utc, wall};
use super::links::Held;
use super::mirroring;
use super::retire::Retires;
use crate::failure::Failure;
use crate::keys::{self, KeyError, Keys};
use crate::relay::replay::Fill;
use crate::relay::worker::Ring;
use crate::report::{DAY, KEY_WARNINGS, SigningKey, apart};

/// Between two attempts while there is no consensus at all, or the descriptor isn't everywhere: at first, at most.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(2);
/// Between two looks for a consensus that is late, at least and at most.
const LATE_MIN: Duration = Duration::from_millis(250);
const LATE_MAX: Duration = Duration::from_secs(300);
/// How often the wall clock is looked at while waiting for a key epoch's turn: it may be set meanwhile.
const CLOCK_LOOK: Duration = Duration::from_secs(30);
/// Between two searches for forks.
const FORK_PAUSE: Duration = Duration::from_secs(60);
/// How long a stopping relay waits for the authorities.
pub(crate) const WITHDRAW_WITHIN: Duration = Duration::from_secs(2);

/// Public mix keys, as the descriptor carries them.
pub(crate) type PublicKeys = Vec<(KeyEpoch, KemPublicKey)>;

/// The mix keys that the newest consensus binds; none after a start from the one on disk, until there is a newer one.
pub(crate) type Parts = Vec<Arc<MixKeys>>;

/// What is posted and fetched with.
pub(crate) struct Directory {
    pub(crate) network: Network,
    pub(crate) dialer: Endpoint,
    pub(crate) settings: Settings,
    pub(crate) relay: RelayId,
    pub(crate) board: Board,
    pub(crate) retires: Retires,
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
        shelf: watch::Sender<Arc<Shelf>>,
        cache: Cache,
    ) {
        let mut pause = RETRY_FIRST;
        let mut said = String::new();
        loop {
            let held = newest.borrow().clone();
            let mix_keys = parts.borrow().clone();
            let found = match held.clone() {
                Some(consensus) => {
                    let mirrors = mirroring::others(&consensus, &self.relay);
                    let held = fetch::Held { consensus, mix_keys };
                    fetch_newer(&self.network, &mirrors, &self.dialer, wall(), &held).await
                }
                None => fetch_consensus(&self.network, &self.dialer, wall(), None).await,
            };
            match found {
                Ok((consensus, keys)) => {
                    self.board.fetched(Ok(()));
                    self.look_at(&consensus, held.is_none());
                    said.clear();
                    let consensus = Arc::new(consensus);
                    self.look_at_versions(&consensus, held.as_deref());
                    if let Some(held) = &held {
                        self.look_at_chain(&consensus, held, &cache);
                    }
                    // Before anyone acts on it: a relay that must start again because of it starts with it.
                    keep(&cache, &consensus, held).await;
                    mirroring::put(&shelf, &consensus, &keys).await;
                    parts.send_replace(keys);
                    newest.send_replace(Some(consensus));
                }
                Err(FetchError::NothingNewer) => {
                    if let Some(held) = held.filter(|_| parts.borrow().is_empty()) {
                        self.complete(held, &newest, &parts, &shelf).await;
                    }
                }
                // A network that is just starting.
                Err(e @ FetchError::NoConsensus) => {
                    info!("{e}");
                    // It can be there any moment, and clients that have it send: who has it late loses their packets.
                    pause = RETRY_FIRST;
                    self.board.fetched(Err(e.to_string()));
                }
                Err(e) => {
                    let why = self.explain(&e);
                    say_once(&mut said, &why, held.is_none());
                    self.board.fetched(Err(why));
                }
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

    /// Fetches the mix keys of a consensus from the disk, so that this relay's loops go on after a restart, and so that it
    /// mirrors them. If they are not to be had, they come with the next consensus.
    async fn complete(
        &self,
        held: Arc<Consensus>,
        newest: &watch::Sender<Option<Arc<Consensus>>>,
        parts: &watch::Sender<Parts>,
        shelf: &watch::Sender<Arc<Shelf>>,
    ) {
        let mirrors = mirroring::others(&held, &self.relay);
        match fetch_mix_keys(&self.network, &mirrors, &self.dialer, &held).await {
            Ok(keys) => {
                mirroring::put(shelf, &held, &keys).await;
                parts.send_replace(keys);
                // The owner looks at the keys when it is told of a consensus.
                newest.send_replace(Some(held));
            }
            Err(e) => debug!("the mix keys of the kept consensus were not fetched: {e}"),
        }
    }

    /// Says what a newer consensus wants of programs like this one, unless the one before wanted it too.
    fn look_at_versions(&self, new: &Consensus, held: Option<&Consensus>) {
        let standing = new.params().standing(Protocols::default());
        if held.is_none_or(|held| held.params().standing(Protocols::default()) != standing)
            && let Some(says) = standing.says(Protocols::default())
        {
            warn!("{says}");
        }
    }

    /// A break in the chain is an alarm: both documents are kept, and the newer one is used.
    fn look_at_chain(&self, new: &Consensus, held: &Consensus, cache: &Cache) {
        if verify_succession(new, held, self.network.authorities()) != Ok(Succession::Break) {
            return;
        }
        error!(
            "the consensus of epoch {} does not build on the one of epoch {} that was held: the authorities may have been \
             split; both are kept in the folder alarms: show them to the authorities' operators",
            new.epoch().0,
            held.epoch().0
        );
        if let Err(e) = cache.keep_break(held, new) {
            warn!("they can't be kept: {e}");
        }
    }

    /// Another relay holds another consensus of our epoch: looks for the proof, and keeps it.
    pub(crate) async fn look_for_forks(self: Arc<Self>, consensus: Held, cache: Cache, forks: Arc<Notify>) {
        loop {
            forks.notified().await;
            let Some(held) = consensus.borrow().clone() else { continue };
            if let Some(evidence) = look_for_forks(&self.network, &self.dialer, held.epoch(), Some(&held)).await {
                match cache.keep_evidence(&evidence) {
                    Ok(path) => error!("{evidence}: the proof is in {}", path.display()),
                    Err(e) => error!("{evidence}: the proof can't be kept: {e}"),
                }
            }
            sleep(FORK_PAUSE).await;
        }
    }

    /// Tells the authorities that this relay goes, so that the next consensus leaves it out. Takes [`WITHDRAW_WITHIN`] at
    /// most; what comes of it is only told in the log, for the relay stops anyway.
    pub(crate) async fn withdraw(&self, signer: &Signer) {
        let withdrawal = Withdrawal { certificate: *signer.keys.certificate(), published: wall() };
        let Ok(bytes) = withdrawal.sign(signer.keys.signing()) else { return };
        match timeout(WITHDRAW_WITHIN, withdraw(&self.network, &self.dialer, &bytes)).await {
            Ok(Ok(accepted)) => info!("withdrawn: {accepted} authorities know that this relay stops"),
            Ok(Err(e)) => warn!("no authority was told that this relay stops: {e}"),
            Err(_) => warn!("no authority could be told in time that this relay stops"),
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
        mut signer: Signer,
        mut public: watch::Receiver<PublicKeys>,
        consensus: Held,
        mut fill: watch::Receiver<Fill>,
    ) -> Failure {
        let mut pause = RETRY_FIRST;
        let mut said = String::new();
        let mut accepted_once = false;
        let mut settings = self.settings.clone();
        let mut retires = self.retires.clone();
        let mut warned = None;
        loop {
            let state = settings.borrow_and_update().state_dir.clone();
            signer.renew(state, wall()).await;
            self.board.signs_until(signer.keys.certificate().expires);
            warn_of_expiry(&mut warned, signer.keys.certificate().expires, wall());
            let mix_keys = public.borrow_and_update().clone();
            retires.mark_unchanged();
            let epoch = consensus.borrow().as_ref().map(|c| c.params().epoch_ms());
            let capacity = fill.borrow_and_update().advertised(settings.borrow().capacity);
            let posted = match self.descriptor(&signer, mix_keys, capacity, wall()) {
                Ok(bytes) => post_descriptor(&self.network, &self.dialer, &bytes).await,
                Err(failure) => return failure,
            };
            let everywhere = match posted {
                Ok(accepted) => {
                    self.board.posted(Ok(accepted));
                    accepted_once = true;
                    said.clear();
                    accepted == self.network.authorities().len()
                }
                Err(FetchError::Refused(reason)) if !accepted_once && lasting(reason) => {
                    return Failure::network(format_args!("the authorities do not admit this relay: {reason}"));
                }
                Err(e) => {
                    let why = format!("the descriptor was not posted: {e}");
                    say_once(&mut said, &why, true);
                    self.board.posted(Err(why));
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
                changed = retires.changed() => if changed.is_err() { sleep(wait).await },
                changed = fill.changed() => if changed.is_err() { sleep(wait).await },
                changed = settings.changed() => if changed.is_err() { sleep(wait).await },
            }
        }
    }

    fn descriptor(&self, signer: &Signer, mix_keys: PublicKeys, capacity: u32, now: Wall) -> Result<Vec<u8>, Failure> {
        let config = Arc::clone(&self.settings.borrow());
        let family = keys::family(&config.state_dir, &self.relay).map_err(Failure::disk)?;
        if config.family_key().is_some_and(|wanted| family.is_none_or(|family| family.key != wanted)) {
            return Err(Failure::usage(
                "`family` names a family that has not taken this relay in: run `posta-node keys family --key FILE`",
            ));
        }
        let descriptor = Descriptor {
            certificate: *signer.keys.certificate(),
            link_key: signer.keys.link_public(),
            link_addresses: config.advertised_link(),
            client_addresses: config.advertised_client(),
            roles: Roles { retiring: self.retires.borrow().is_some(), ..config.directory_roles() },
            family,
            operator: config.operator_id(&self.relay),
            capacity,
            protocols: Protocols::default(),
            published: now,
            mix_keys,
            extensions: Extensions::default(),
        };
        let signed = descriptor.sign(signer.keys.signing()).map_err(Failure::usage)?;
        Ok(signed.into_bytes())
    }
}

/// Posts once there are keys to post.
pub(super) async fn posts(
    directory: Arc<Directory>,
    signer: Signer,
    mut public: watch::Receiver<PublicKeys>,
    consensus: Held,
    fill: watch::Receiver<Fill>,
) -> Failure {
    if public.wait_for(|keys| !keys.is_empty()).await.is_err() {
        // The keys' own task says why it has ended.
        std::future::pending::<()>().await;
    }
    directory.post(signer, public, consensus, fill).await
}

/// The first consensus and the keys that go with it.
pub(super) async fn first_of(
    consensus: &mut Held,
    rings: &mut watch::Receiver<Option<Ring>>,
) -> (Arc<Consensus>, Ring) {
    loop {
        let held = consensus.wait_for(Option::is_some).await.ok().and_then(|held| held.clone());
        let ring = rings.wait_for(Option::is_some).await.ok().and_then(|ring| ring.clone());
        if let (Some(held), Some(ring)) = (held, ring) {
            return (held, ring);
        }
        // Only when the tasks behind have ended, which another branch reports.
        std::future::pending::<()>().await;
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
}

impl Signer {
    /// Reads the signing key and its certificate anew: it may have been renewed by hand, and is by this when it ends soon
    /// and the identity key is there.
    async fn renew(&mut self, state: PathBuf, now: Wall) {
        match spawn_blocking(move || Keys::open(&state, now)).await {
            Ok(Ok(keys)) if keys.relay() == self.keys.relay() => self.keys = keys,
            Ok(Ok(_)) => warn!("the keys on disk are another relay's: they are used from the next start on"),
            Ok(Err(e)) => warn!("the signing key can't be read again: {e}"),
            // The process ends.
            Err(_) => {}
        }
    }
}

/// Says that the signing key ends soon: once at each of the times at which `status` says it too.
fn warn_of_expiry(warned: &mut Option<i64>, expires: Wall, now: Wall) {
    let left_s = apart(expires, now);
    let step = KEY_WARNINGS.into_iter().rev().find(|days| left_s <= days * DAY);
    if step.is_some() && *warned != step {
        let text = SigningKey { left_s, ..SigningKey::default() }.warning().map(|(_, says)| says);
        warn!("{}; it ends on {}", text.unwrap_or_default(), Utc(expires));
    }
    *warned = step;
}

/// A refusal that trying again won't change.
const fn lasting(reason: Refusal) -> bool {
    matches!(
        reason,
        Refusal::Malformed | Refusal::Untrusted | Refusal::Address | Refusal::Unsupported | Refusal::Policy
    )
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
