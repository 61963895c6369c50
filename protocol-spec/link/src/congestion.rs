//! How much a link to a relay may have in flight: by delay, not by loss.
//!
//! What stock controllers do there was measured. Cubic and NewReno take every loss for a full queue and collapse at 1 % of
//! random loss. BBR takes the shortest round trip for the time that an acknowledgement takes, and collapses on a busy
//! machine, where acknowledgements wait for the processor many times as long as they travel; unbounded it floods.
//!
//! This one asks one question each round trip: how long did the fastest packet of the round stand in a queue? The window
//! grows while that is below [`TARGET`] and shrinks above it, wherever the queue is, in a router or in front of a busy
//! process. So the way is always full, and the queue short:
//!
//! ```text
//! start    window doubles each round                     until the queue reaches half the target, or a loss above LOSS
//!                                                        (or the target, for the last packet of a round); then it halves
//! steady   + a sixteenth of it x (1 - queue / target)     each round in which the window was at least half full
//!          - half of what is above the target             each such round with a longer queue, 30 % at most
//!          - a fifth                                      for a loss above LOSS in LOSS_SAMPLE datagrams, or a mark (ECN)
//! drain    for two rounds, each PERIOD                    so that the round trip without a queue is seen again: to three
//!                                                        quarters of what the shortest round trip known would take
//! ```
//! Up to [`LOSS`] lost datagrams mean nothing: a line may lose some, and where a queue is too short to be measured, that
//! is what this controller may cost itself. Whoever fills a queue shared with it and keeps it full gets more of the line
//! than this link: relays' lines are sized for their traffic.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};

/// How long a packet may stand in a queue, about: above what scheduling alone adds, far below what people notice.
const TARGET: Duration = Duration::from_millis(15);
/// Bytes in flight that are always allowed: 10 datagrams.
const MIN_WINDOW: u64 = 16 * 1024;
/// Bytes in flight at first: three packets.
const FIRST_WINDOW: u64 = 64 * 1024;
/// Bytes in flight at most; the transport's send window is usually less.
const MAX_WINDOW: u64 = 64 << 20;
/// One of so many datagrams may be lost without any consequence.
const LOSS: u64 = 16;
/// Datagrams by which loss is judged.
const LOSS_SAMPLE: u64 = 1_000;
/// How often the queue is drained, and how long the shortest round trip is remembered, at least.
const PERIOD: Duration = Duration::from_secs(10);
/// Rounds that a drain takes.
const DRAIN_ROUNDS: u8 = 2;

/// Makes a controller for each connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DelayConfig;

impl ControllerFactory for DelayConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Delay::new(now, current_mtu))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Start,
    Steady,
    /// So many rounds to go, and the window before.
    Drain(u8, u64),
}

/// The controller of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Delay {
    mtu: u64,
    window: u64,
    mode: Mode,
    /// The shortest round trips of this period and of the one before.
    shortest: [Option<Duration>; 2],
    period_ends: Instant,
    /// The fastest packet of this round, and the last one.
    fastest: Option<Duration>,
    latest: Duration,
    /// The round ends when a packet sent after this one is acknowledged.
    round_end: u64,
    last_sent: u64,
    /// Bytes acknowledged since the controller last looked, and whether the window has been full in this round.
    acked_now: u64,
    full: bool,
    /// Bytes acknowledged and lost since loss was last judged.
    acked: u64,
    lost: u64,
    marked: bool,
}

impl Delay {
    fn new(now: Instant, mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            window: FIRST_WINDOW,
            mode: Mode::Start,
            shortest: [None; 2],
            period_ends: now + PERIOD,
            fastest: None,
            latest: Duration::ZERO,
            round_end: 0,
            last_sent: 0,
            acked_now: 0,
            full: false,
            acked: 0,
            lost: 0,
            marked: false,
        }
    }

    fn sent(&mut self, number: u64) {
        self.last_sent = self.last_sent.max(number);
    }

    fn acked(&mut self, round_trip: Duration, bytes: u64) {
        self.acked_now += bytes;
        self.acked += bytes;
        let shorter = |held: Option<Duration>| Some(held.map_or(round_trip, |held| held.min(round_trip)));
        self.fastest = shorter(self.fastest);
        self.latest = round_trip;
        let [now, _] = &mut self.shortest;
        *now = shorter(*now);
    }

    /// After all packets of an acknowledgement. `in_flight` is what is left.
    fn end_acks(&mut self, now: Instant, in_flight: u64, largest: Option<u64>) {
        self.full |= (in_flight + self.acked_now) * 2 >= self.window;
        self.acked_now = 0;
        if largest.is_some_and(|largest| largest > self.round_end) {
            self.round_end = self.last_sent;
            self.round(now);
        }
    }

    /// A round trip is over.
    fn round(&mut self, now: Instant) {
        let lossy = self.lossy();
        let (full, marked) = (std::mem::take(&mut self.full), std::mem::take(&mut self.marked));
        let Some(fastest) = self.fastest.take() else { return };
        let shortest = self.shortest.iter().flatten().min().copied().unwrap_or(fastest);
        let queue = fastest.saturating_sub(shortest);
        self.mode = match self.mode {
            Mode::Drain(rounds, before) if rounds > 1 => Mode::Drain(rounds - 1, before),
            Mode::Drain(_, before) => {
                self.window = before;
                Mode::Steady
            }
            Mode::Start if !lossy && !marked && queue < TARGET / 2 && self.latest.saturating_sub(shortest) < TARGET => {
                if full {
                    self.window *= 2;
                }
                Mode::Start
            }
            mode @ (Mode::Start | Mode::Steady) => {
                if mode == Mode::Start {
                    // The last doubling was one too many.
                    self.window /= 2;
                }
                self.steady(queue, full, lossy || marked);
                self.period(now, full, shortest.as_secs_f64() / fastest.as_secs_f64().max(1e-6))
            }
        };
        self.window = self.window.clamp(MIN_WINDOW, MAX_WINDOW);
    }

    fn steady(&mut self, queue: Duration, full: bool, back: bool) {
        let part = |of: u64, share: f64| (of as f64 * share) as u64;
        if back {
            self.window -= self.window / 5;
        } else if !full {
            // Whatever the packets waited for, it was not for ours.
        } else if queue > TARGET {
            let above = 1.0 - TARGET.as_secs_f64() / queue.as_secs_f64();
            self.window -= part(self.window, (above / 2.0).min(0.3));
        } else {
            let below = 1.0 - queue.as_secs_f64() / TARGET.as_secs_f64();
            self.window += part(self.window / 16, below) + part(self.mtu, below);
        }
    }

    /// Begins a new period when the last one is over; with a drain, if there may be a queue of ours to drain. `part` of
    /// what is in flight is under way, as far as known, and not in a queue.
    fn period(&mut self, now: Instant, full: bool, part: f64) -> Mode {
        if now < self.period_ends {
            return Mode::Steady;
        }
        self.period_ends = now + PERIOD;
        let [this, _] = self.shortest;
        self.shortest = [None, this];
        if !full {
            return Mode::Steady;
        }
        let before = self.window;
        self.window = (self.window as f64 * part.min(1.0) * 0.75) as u64;
        Mode::Drain(DRAIN_ROUNDS, before)
    }

    /// Whether more than [`LOSS`] of the last datagrams were lost; judged over [`LOSS_SAMPLE`] of them, or as soon as that
    /// is certain.
    const fn lossy(&mut self) -> bool {
        let sample = LOSS_SAMPLE * self.mtu;
        let all = self.acked + self.lost;
        let lossy = self.lost * LOSS > if all > sample { all } else { sample };
        if lossy || all >= sample {
            (self.acked, self.lost) = (0, 0);
        }
        lossy
    }

    const fn lost(&mut self, bytes: u64, persistent: bool) {
        self.lost += bytes;
        if bytes == 0 {
            self.marked = true;
        }
        if persistent {
            // Nothing came through for several timeouts: what was known of the way is void.
            self.window = MIN_WINDOW;
            self.mode = Mode::Start;
            self.shortest = [None; 2];
        }
    }
}

impl Controller for Delay {
    fn on_sent(&mut self, _now: Instant, _bytes: u64, last_packet_number: u64) {
        self.sent(last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _limited: bool, _rtt: &quinn_proto::RttEstimator) {
        self.acked(now.saturating_duration_since(sent), bytes);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _limited: bool, largest: Option<u64>) {
        self.end_acks(now, in_flight, largest);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, persistent: bool, lost_bytes: u64) {
        self.lost(lost_bytes, persistent);
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests;
