//! The pages of an authority: the newest consensus and those before as bytes and as JSON, a status page, metrics.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posta_link::http::{self, Asked, Page};
use posta_protocol::document::{Authorities, RoundReport, UnverifiedConsensus, VoteState};
use posta_protocol::ids::Epoch;
use posta_protocol::now::Wall;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::{info, warn};

use super::Clock;
use crate::archive::History;
use crate::authority::Published;
use crate::page::{RoundLine, Status, metrics, page};
use crate::show::View;

/// Rounds on the status page; older ones are forgotten.
const MAX_ROUNDS: usize = 24;
/// Before the port is tried again.
const RETRY: Duration = Duration::from_secs(60);
const BYTES: &str = "application/octet-stream";
const JSON: &str = "application/json";
const THERE_IS: &str = "there is /, /consensus, /consensus.json, /consensus/EPOCH, /consensus/EPOCH.json, /history.json, \
                        and on this machine /metrics\n";

/// What the pages show. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub(super) struct Board {
    notes: Arc<Mutex<Notes>>,
    history: History,
    authorities: Authorities,
    clock: Clock,
}

#[derive(Debug)]
struct Notes {
    newest: Option<Arc<Published>>,
    /// The newest first.
    rounds: VecDeque<RoundLine>,
    evidence: u64,
    /// When the signing key ends.
    expires: Wall,
}

impl Board {
    pub(super) fn new(
        newest: Option<Arc<Published>>,
        history: History,
        authorities: Authorities,
        clock: Clock,
        expires: Wall,
    ) -> Self {
        let notes = Arc::new(Mutex::new(Notes { newest, rounds: VecDeque::new(), evidence: 0, expires }));
        Self { notes, history, authorities, clock }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Notes) -> T) -> T {
        f(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// There is a new consensus, made in this round.
    pub(super) fn published(&self, published: &Arc<Published>, round: Option<&RoundReport>, now: Wall) {
        let line = round.filter(|round| round.epoch == published.consensus.epoch()).map(|round| {
            let count = |state| round.votes.iter().filter(|vote| vote.state == state).count();
            let start = published.consensus.valid_after();
            RoundLine {
                epoch: round.epoch.0,
                failed: round.attempt,
                counted: count(VoteState::Counted),
                not_counted: count(VoteState::NotCounted),
                twice: count(VoteState::Twice),
                after_start_ms: i64::try_from(i128::from(now.0) - i128::from(start.0)).unwrap_or(i64::MAX),
            }
        });
        self.with(|notes| {
            notes.newest = Some(Arc::clone(published));
            if let Some(line) = line {
                notes.rounds.push_front(line);
                notes.rounds.truncate(MAX_ROUNDS);
            }
        });
    }

    /// Somebody has cheated.
    pub(super) fn evidence(&self) {
        self.with(|notes| notes.evidence += 1);
    }

    /// The signing key was renewed.
    pub(super) fn signing_until(&self, expires: Wall) {
        self.with(|notes| notes.expires = expires);
    }

    fn shown(&self, show: impl FnOnce(&Status<'_>) -> String) -> String {
        let (newest, rounds, evidence, expires) = self.with(|notes| {
            let rounds: Vec<_> = notes.rounds.iter().copied().collect();
            (notes.newest.clone(), rounds, notes.evidence, notes.expires)
        });
        show(&Status {
            consensus: newest.as_ref().map(|newest| &*newest.consensus),
            rounds: &rounds,
            authorities: self.authorities.len(),
            evidence,
            expires,
            now: self.clock.now().wall,
        })
    }

    async fn answer(self, asked: Asked) -> Page {
        // Making a page of thousands of relays, or reading a file, is no work for this task.
        tokio::task::spawn_blocking(move || self.make(&asked))
            .await
            .unwrap_or_else(|_| Page::unavailable("the page could not be made\n"))
    }

    fn make(&self, asked: &Asked) -> Page {
        let newest = || self.with(|notes| notes.newest.clone());
        match asked.path.as_str() {
            "/" => Page::new("text/html; charset=utf-8", self.shown(page).into_bytes()),
            // It says how the authority runs, which is its operator's business.
            "/metrics" if asked.from.to_canonical().is_loopback() => {
                Page::new("text/plain; version=0.0.4; charset=utf-8", self.shown(metrics).into_bytes())
            }
            "/history.json" => json(&self.history.epochs().iter().map(|epoch| epoch.0).collect::<Vec<_>>()),
            "/consensus" => newest().map_or_else(none, |newest| Page::new(BYTES, Arc::clone(&newest.bytes))),
            "/consensus.json" => newest().map_or_else(none, |newest| json(&View::new(&newest.consensus))),
            path => self.past(path).unwrap_or_else(|| Page::not_found(THERE_IS)),
        }
    }

    /// A consensus of the history.
    fn past(&self, path: &str) -> Option<Page> {
        let name = path.strip_prefix("/consensus/")?;
        let (epoch, view) = name.strip_suffix(".json").map_or((name, false), |epoch| (epoch, true));
        let bytes = self.history.read(Epoch(epoch.parse().ok()?))?;
        if !view {
            return Some(Page::new(BYTES, bytes));
        }
        let read = UnverifiedConsensus::decode(&bytes).and_then(|c| c.verify_signatures(&self.authorities)).ok()?;
        Some(json(&View::new(&read)))
    }
}

fn none() -> Page {
    Page::unavailable("there is no consensus yet\n")
}

fn json(value: &impl serde::Serialize) -> Page {
    match serde_json::to_vec(value) {
        Ok(bytes) => Page::new(JSON, bytes),
        Err(_) => Page::unavailable("the view could not be made\n"),
    }
}

/// Serves the pages at this address until the process ends.
pub(super) async fn serve(address: SocketAddr, board: Board) {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                info!("pages are served on http://{address}/");
                let board = board.clone();
                let e = http::serve(&listener, move |asked| board.clone().answer(asked)).await;
                warn!(kind = ?e.kind(), "the pages take no connection");
            }
            Err(e) => warn!("pages can't be served on {address}: {e}; trying again"),
        }
        sleep(RETRY).await;
    }
}
