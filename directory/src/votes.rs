//! What each authority said in the last round, and why a relay is in the consensus or not. Everything here is read from
//! signed votes and the consensus, so that anyone can check it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use posta_link::fetch::to_hex;
use posta_protocol::document::{Authorities, Consensus, RoundReport, Vote, VoteReport, VoteState};
use posta_protocol::ids::{AuthorityId, Hash, RelayId};

/// A round's votes, verified.
#[derive(Debug)]
pub struct Said {
    /// What became of each vote.
    pub report: RoundReport,
    /// Votes by authority; of one who voted twice there is none.
    pub votes: BTreeMap<AuthorityId, Vote>,
}

/// Why a relay is in a consensus, or isn't.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It is listed.
    In,
    /// Half of the counted votes or fewer list it.
    TooFewVotes,
    /// More than half list it, and not enough of them with the same descriptor.
    NoDescriptor,
    /// Enough agree on a descriptor that is too old, or whose certificate is.
    TooOld,
    /// Nobody lists it.
    Unknown,
}

impl Said {
    fn counted(&self) -> impl Iterator<Item = &Vote> {
        let counts =
            |id: &AuthorityId| self.report.votes.iter().any(|v| v.voter == *id && v.state == VoteState::Counted);
        self.votes.iter().filter(move |(id, _)| counts(id)).map(|(_, vote)| vote)
    }

    /// How many counted votes list the relay, and how many of them agree on one descriptor.
    #[must_use]
    pub fn listed(&self, relay: &RelayId) -> (usize, usize) {
        let mut digests: BTreeMap<Hash, usize> = BTreeMap::new();
        for digest in self.counted().filter_map(|vote| vote.digest_of(relay)) {
            *digests.entry(digest).or_default() += 1;
        }
        (digests.values().sum(), digests.values().copied().max().unwrap_or(0))
    }

    /// Why a relay is in the consensus of this round, or isn't.
    #[must_use]
    pub fn why(&self, relay: &RelayId, consensus: &Consensus, authorities: &Authorities) -> Why {
        let (listed, agreed) = self.listed(relay);
        if consensus.relay(relay).is_some() {
            Why::In
        } else if listed == 0 {
            Why::Unknown
        } else if listed * 2 <= self.counted().count() {
            Why::TooFewVotes
        } else if agreed < authorities.one_honest() {
            Why::NoDescriptor
        } else {
            Why::TooOld
        }
    }

    /// All of it as text; with `only`, of the relays whose identity begins so.
    #[must_use]
    pub fn table(&self, consensus: &Consensus, authorities: &Authorities, only: Option<&str>) -> String {
        let mut out = String::new();
        // Writing to a string doesn't fail.
        let _ = writeln!(
            out,
            "epoch {}, attempt {}: a vote counts if {} authorities have echoed it\n\n{:20}{:14}{:8}{:12}parameters",
            self.report.epoch.0,
            self.report.attempt,
            authorities.threshold(),
            "authority",
            "vote",
            "relays",
            "builds on"
        );
        for authority in authorities.list() {
            let state = self.report.votes.iter().find(|v| v.voter == authority.id);
            let vote = self.votes.get(&authority.id);
            let relays = vote.map_or_else(|| "-".to_owned(), |v| v.relays.len().to_string());
            let newest = vote.and_then(|v| v.newest.as_ref());
            let newest = newest.map_or_else(|| "-".to_owned(), |n| format!("epoch {}", n.header.epoch.0));
            let params =
                vote.map(|v| v.params.iter().map(|(code, value)| format!("{code}={value}")).collect::<Vec<_>>());
            let params = params.unwrap_or_default().join(" ");
            let _ = writeln!(
                out,
                "{:20}{:14}{relays:8}{newest:12}{params}",
                short(&authority.id.0),
                described(state.map(|v: &VoteReport| v.state))
            );
        }
        let all: BTreeSet<RelayId> = self
            .votes
            .values()
            .flat_map(|v| v.relays.iter().map(|r| r.id))
            .chain(consensus.relays().iter().map(|r| r.id))
            .collect();
        let counted = self.counted().count();
        let _ = writeln!(out, "\n{:20}{:9}{:12}why", "relay", "listed", "same words");
        for relay in all.iter().filter(|id| only.is_none_or(|only| to_hex(&id.0).starts_with(only))) {
            let (listed, agreed) = self.listed(relay);
            let why = self.why(relay, consensus, authorities);
            let missing: Vec<_> = self
                .votes
                .iter()
                .filter(|(_, vote)| vote.digest_of(relay).is_none())
                .map(|(id, _)| short(&id.0))
                .collect();
            let reason = match why {
                Why::In if missing.is_empty() => "in".to_owned(),
                Why::In => format!("in; not listed by {}", missing.join(", ")),
                Why::TooFewVotes => format!("out: more than half must list it; not listed by {}", missing.join(", ")),
                Why::NoDescriptor => {
                    format!("out: {} must name the same descriptor; has it posted to all?", authorities.one_honest())
                }
                Why::TooOld => "out: its descriptor or its certificate is too old; does it still post?".to_owned(),
                Why::Unknown => "out: nobody lists it".to_owned(),
            };
            let _ = writeln!(
                out,
                "{:20}{:9}{:12}{reason}",
                short(&relay.0),
                format!("{listed}/{counted}"),
                format!("{agreed}/{counted}")
            );
        }
        out
    }
}

const fn described(state: Option<VoteState>) -> &'static str {
    match state {
        Some(VoteState::Counted) => "counted",
        Some(VoteState::NotCounted) => "too late",
        Some(VoteState::Twice) => "voted twice",
        None => "none",
    }
}

fn short(id: &[u8; 32]) -> String {
    id.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
