//! Clients of a network that stays: pairs that find each other by an invitation, and talk now and then.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::network::Network;

/// How far a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// It isn't ready, because of this.
    Waits(&'static str),
    /// It is connected with its other one.
    Connected,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Clients {
    stands: Vec<Stand>,
    turn: Interval,
    next: usize,
    sent: u64,
}

/// What somebody who isn't started yet waits for.
const RELAYS: &str = "waits until all relays are ready";
const INVITED: &str = "waits for the invitation of the client before it";

impl Clients {
    /// So many, each of which says something every `every`.
    pub(super) fn new(clients: usize, every: Duration) -> Self {
        let mut turn = interval(every.div_f64(clients.max(1) as f64));
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stands: vec![Stand::Waits(RELAYS); clients], turn, next: 0, sent: 0 }
    }

    /// Starts the first of each pair.
    pub(super) fn start(&mut self, network: &mut Network) -> Result<()> {
        for k in 0..self.stands.len() {
            if k % 2 == 0 {
                network.start_client(&network.layout().client_name(k), k, &[])?;
                self.set(k, Stand::Waits("is reaching the network"));
            } else {
                self.set(k, Stand::Waits(INVITED));
            }
        }
        Ok(())
    }

    fn set(&mut self, k: usize, stand: Stand) {
        if let Some(old) = self.stands.get_mut(k) {
            *old = stand;
        }
    }

    /// How each is.
    pub(super) fn stands(&self) -> &[Stand] {
        &self.stands
    }

    /// Which client has this name.
    pub(super) fn number(&self, name: &str) -> Option<usize> {
        let k: usize = name.strip_prefix("client-")?.parse().ok()?;
        k.checked_sub(1).filter(|k| *k < self.stands.len())
    }

    /// Takes over what a client said. Whether its stand, or that of its other one, has changed.
    pub(super) async fn said(&mut self, network: &mut Network, k: usize, line: &Value) -> Result<bool> {
        match line.get("event").and_then(Value::as_str) {
            Some("ready") if k.is_multiple_of(2) => self.set(k, Stand::Waits("is making an invitation")),
            Some("invitation") => {
                let link = line.get("link").and_then(Value::as_str).context("an invitation without a link")?;
                let other = network.layout().client_name(k + 1);
                network.start_client(&other, k + 1, &["--join"])?;
                network.say(&other, &json!({ "join": link })).await?;
                self.set(k, Stand::Waits("waits for the other one to follow its invitation"));
                self.set(k + 1, Stand::Waits("is following its invitation"));
            }
            Some("connected") => self.set(k, Stand::Connected),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Lets the next one talk, when it is time. Safe to cancel.
    pub(super) async fn turn(&mut self) -> usize {
        if self.stands.is_empty() {
            return std::future::pending().await;
        }
        self.turn.tick().await;
        self.next = (self.next + 1) % self.stands.len();
        self.next
    }

    /// Says something as this client, if it is connected. One that has ended says nothing.
    pub(super) async fn talk(&mut self, network: &mut Network, k: usize) {
        if self.stands.get(k) == Some(&Stand::Connected) {
            self.sent += 1;
            let name = network.layout().client_name(k);
            // Its end is told by itself.
            let _ = network.say(&name, &json!({ "send": format!("{} from {name}", self.sent) })).await;
        }
    }
}
