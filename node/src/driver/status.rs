//! What the program says on standard output when another program listens: one JSON object a line.

use std::io::{self, Write};
use std::time::Duration;

use posta_link::fetch::to_hex;
use posta_protocol::document::Consensus;
use posta_protocol::ids::RelayId;
use posta_protocol::now::{Mono, Now};
use serde_json::json;

use crate::relay::Counters;

/// How often the counters are said while they change.
const COUNTERS_EVERY: Duration = Duration::from_millis(250);

/// Says `ready` once, and the counters now and then.
pub(crate) struct Status {
    relay: RelayId,
    ready: bool,
    said: Counters,
    next: Mono,
}

impl Status {
    pub(crate) fn new(relay: RelayId) -> Self {
        Self { relay, ready: false, said: Counters::default(), next: Mono(0) }
    }

    /// Ready: listening, and listed with a place in the current key epoch.
    pub(crate) fn consensus(&mut self, now: Now, consensus: &Consensus) {
        let place = consensus.position(&self.relay, consensus.key_epoch_at(now.wall));
        if let Some(place) = place.filter(|_| !self.ready) {
            self.ready = true;
            say(&json!({
                "event": "ready",
                "ready": true,
                "relay": to_hex(&self.relay.0),
                "epoch": consensus.epoch().0,
                "position": format!("{place:?}").to_lowercase(),
            }));
        }
    }

    pub(crate) fn counters(&mut self, now: Now, counters: &Counters) {
        if now.mono < self.next || *counters == self.said {
            return;
        }
        self.next = now.mono + COUNTERS_EVERY;
        self.said = *counters;
        say(&json!({
            "event": "counters",
            "carried": counters.carried(),
            "stored": counters.stored,
            "counters": counters,
        }));
    }
}

fn say(line: &serde_json::Value) {
    // Nobody may be listening any more; the relay goes on.
    let _ = writeln!(io::stdout().lock(), "{line}");
}
