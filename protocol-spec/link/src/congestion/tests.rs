//! The controller on a line of the test's own, in virtual time: a sender that always has something to send, a queue with a
//! bound, a delay, and loss from a seed. No pacing, which would only help.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const MTU: u64 = 1_452;
/// Datagrams lost beyond a gap of so many, as QUIC has it.
const REORDERING: u64 = 3;

/// A line. 200 Mbit/s are 25 bytes in a microsecond.
#[derive(Clone, Copy)]
struct Line {
    bytes_per_us: f64,
    round_trip_us: u64,
    queue_us: u64,
    loss: f64,
    /// Acknowledgements come only so often: a receiver that shares its processor.
    ack_every_us: u64,
}

const LONG: Line = Line { bytes_per_us: 25.0, round_trip_us: 40_000, queue_us: 50_000, loss: 0.0, ack_every_us: 0 };

/// What a controller is to a sender.
trait Window {
    fn window(&self) -> u64;
    fn on_sent(&mut self, number: u64);
    fn on_acked(&mut self, round_trip: Duration);
    fn on_end(&mut self, now: Instant, in_flight: u64, largest: u64);
    fn on_lost(&mut self, datagrams: u64);
}

impl Window for Delay {
    fn window(&self) -> u64 {
        self.window
    }
    fn on_sent(&mut self, number: u64) {
        self.sent(number);
    }
    fn on_acked(&mut self, round_trip: Duration) {
        self.acked(round_trip, MTU);
    }
    fn on_end(&mut self, now: Instant, in_flight: u64, largest: u64) {
        self.end_acks(now, in_flight, Some(largest));
    }
    fn on_lost(&mut self, datagrams: u64) {
        if datagrams > 0 {
            self.lost(datagrams * MTU, false);
        }
    }
}

/// The control: grows by a datagram a window, halves at a loss.
struct Halving {
    window: f64,
    /// Until this datagram is acknowledged, a loss is of the same event.
    until: u64,
    sent: u64,
    acked: u64,
}

impl Window for Halving {
    fn window(&self) -> u64 {
        self.window as u64
    }
    fn on_sent(&mut self, number: u64) {
        self.sent = number;
    }
    fn on_acked(&mut self, _round_trip: Duration) {
        self.window += (MTU * MTU) as f64 / self.window;
    }
    fn on_end(&mut self, _now: Instant, _in_flight: u64, largest: u64) {
        self.acked = largest;
    }
    fn on_lost(&mut self, datagrams: u64) {
        if datagrams > 0 && self.acked >= self.until {
            self.until = self.sent;
            self.window = (self.window / 2.0).max(4.0 * MTU as f64);
        }
    }
}

/// The other control: always the same, too much.
struct Fixed(u64);

impl Window for Fixed {
    fn window(&self) -> u64 {
        self.0
    }
    fn on_sent(&mut self, _number: u64) {}
    fn on_acked(&mut self, _round_trip: Duration) {}
    fn on_end(&mut self, _now: Instant, _in_flight: u64, _largest: u64) {}
    fn on_lost(&mut self, _datagrams: u64) {}
}

#[derive(Clone, Copy, Debug)]
struct Outcome {
    /// Of the line's bytes, those that arrived.
    used: f64,
    /// Of the datagrams sent, those for which the queue had no room.
    own_loss: f64,
    /// The median time in the queue.
    queue_ms: f64,
}

/// Sends for so many seconds.
#[expect(clippy::disallowed_methods, reason = "only a beginning: time is virtual")]
fn run(mut control: impl Window, line: Line, seconds: u64, seed: u64) -> Outcome {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let at = |us: u64| start + Duration::from_micros(us);
    let service = MTU as f64 / line.bytes_per_us;
    // Sent at, by number from `first` on; none once it is settled.
    let (mut first, mut open): (u64, VecDeque<Option<u64>>) = (1, VecDeque::new());
    let mut acks: VecDeque<(u64, u64)> = VecDeque::new();
    let (mut now, mut free, mut in_flight, mut number) = (0_u64, 0.0_f64, 0_u64, 0_u64);
    let (mut arrived, mut overflowed) = (0_u64, 0_u64);
    let mut queues = Vec::new();
    while now < seconds * 1_000_000 {
        while in_flight + MTU <= control.window() {
            number += 1;
            in_flight += MTU;
            open.push_back(Some(now));
            control.on_sent(number);
            let queue = (free - now as f64).max(0.0);
            if queue > line.queue_us as f64 {
                overflowed += 1;
                continue;
            }
            free = free.max(now as f64) + service;
            queues.push(queue);
            if rng.random_bool(line.loss) {
                continue;
            }
            let back = free as u64 + line.round_trip_us;
            acks.push_back((back.next_multiple_of(line.ack_every_us.max(1)), number));
        }
        let Some((due, _)) = acks.front().copied() else {
            // All that was under way is lost: a timeout.
            now += 200_000;
            control.on_lost(open.iter().flatten().count() as u64);
            first += open.len() as u64;
            open.clear();
            in_flight = 0;
            continue;
        };
        now = now.max(due);
        let mut largest = 0;
        while let Some((_, acked)) = acks.pop_front_if(|(at, _)| *at <= now) {
            let sent = open[(acked - first) as usize].take().unwrap();
            control.on_acked(Duration::from_micros(now - sent));
            (in_flight, arrived, largest) = (in_flight - MTU, arrived + 1, acked);
        }
        control.on_end(at(now), in_flight, largest);
        let mut lost = 0;
        while first + REORDERING <= largest
            && let Some(sent) = open.pop_front()
        {
            first += 1;
            lost += u64::from(sent.is_some());
        }
        in_flight -= lost * MTU;
        control.on_lost(lost);
    }
    queues.sort_by(f64::total_cmp);
    Outcome {
        used: (arrived * MTU) as f64 / (now as f64 * line.bytes_per_us),
        own_loss: overflowed as f64 / number as f64,
        queue_ms: queues[queues.len() / 2] / 1e3,
    }
}

#[expect(clippy::disallowed_methods, reason = "only a beginning: time is virtual")]
fn delay() -> Delay {
    Delay::new(Instant::now(), MTU as u16)
}

/// 160 of 200 Mbit/s, and at most 2 % of loss of its own, over a minute; the median of five seeds.
#[test]
fn a_line_that_loses_some_datagrams_at_random_is_used_all_the_same() {
    for loss in [0.0, 0.01, 0.03] {
        let line = Line { loss, ..LONG };
        let mut runs: Vec<_> = (0..5).map(|seed| run(delay(), line, 60, seed)).collect();
        runs.sort_by(|a, b| a.used.total_cmp(&b.used));
        eprintln!("loss {loss}: {runs:?}");
        assert!(runs[2].used >= 0.8, "loss {loss}: {runs:?}");
        assert!(runs.iter().all(|run| run.own_loss <= 0.02 && run.queue_ms <= 25.0), "loss {loss}: {runs:?}");
    }
    // The controls: one that takes each loss for its own fault, and one that knows no bound.
    let halving = Halving { window: FIRST_WINDOW as f64, until: 0, sent: 0, acked: 0 };
    assert!(run(halving, Line { loss: 0.01, ..LONG }, 60, 1).used < 0.1);
    assert!(run(Fixed(16 << 20), LONG, 60, 1).own_loss > 0.1);
}

#[test]
fn a_busy_receiver_is_no_reason_to_slow_down() {
    // Two processes on one core: a way of no length, and acknowledgements when the other has its turn.
    for ack_every_us in [1_000, 4_000, 10_000] {
        let line = Line { bytes_per_us: 150.0, round_trip_us: 60, queue_us: 50_000, loss: 0.0, ack_every_us };
        let busy = run(delay(), line, 20, 1);
        assert!(busy.used >= 0.9, "{ack_every_us}: {busy:?}");
    }
}

#[test]
fn a_queue_too_short_to_be_measured_costs_no_more_than_the_loss_that_is_allowed() {
    let short = run(delay(), Line { queue_us: 3_000, ..LONG }, 60, 1);
    eprintln!("{short:?}");
    assert!(short.used >= 0.8 && short.own_loss <= 1.0 / LOSS as f64, "{short:?}");
}

#[test]
fn slow_and_fast_lines_are_both_filled() {
    for (bytes_per_us, round_trip_us) in
        [(1.25, 20_000), (1.25, 200_000), (2.5, 5_000), (125.0, 10_000), (125.0, 80_000)]
    {
        let line = Line { bytes_per_us, round_trip_us, ..LONG };
        let run = run(delay(), line, 60, 1);
        eprintln!("{bytes_per_us} {round_trip_us}: {run:?}");
        assert!(run.used >= 0.8 && run.own_loss <= 0.02, "{bytes_per_us} {round_trip_us}: {run:?}");
    }
}

#[test]
fn what_was_known_of_a_way_is_forgotten_when_nothing_comes_through() {
    let mut control = delay();
    control.sent(10);
    control.acked(Duration::from_millis(1), MTU);
    control.lost(MTU, true);
    assert_eq!((control.window, control.mode, control.shortest), (MIN_WINDOW, Mode::Start, [None; 2]));
}
