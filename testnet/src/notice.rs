//! What somebody in the network must have noticed, or must not: the assertions about detection.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::layout::Layout;
use crate::network::Network;

/// How often it is looked what was noticed.
const EVERY: Duration = Duration::from_millis(500);

/// By what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sign {
    /// A counter of relays, by its name in `posta_node::relay::Counters`.
    Counter(String),
    /// A problem that a relay's `status` names, by its code.
    Problem(String),
    /// Proofs in an authority's folder `evidence`.
    Evidence,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counter(name) => write!(f, "the counter {name}"),
            Self::Problem(code) => write!(f, "relays with the problem {code}"),
            Self::Evidence => f.write_str("proofs against authorities"),
        }
    }
}

/// What must be noticed, by all of some together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// By whom.
    pub who: BTreeSet<String>,
    /// What.
    pub sign: Sign,
    /// At least so often.
    pub at_least: u64,
    /// At most so often.
    pub at_most: Option<u64>,
}

/// What was noticed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Noticed {
    /// By what, in words.
    pub sign: String,
    /// How often, by all together.
    pub count: u64,
    /// From the first message to when it was often enough, in seconds, looked at each half second.
    pub after_s: Option<f64>,
    /// How often it should be.
    pub at_least: u64,
    /// And at most.
    pub at_most: Option<u64>,
}

impl Noticed {
    /// Whether it is as it should be.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.count >= self.at_least && self.at_most.is_none_or(|most| self.count <= most)
    }
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sign, self.count)?;
        if let Some(after) = self.after_s {
            write!(f, ", noticed after {after:.1} s")?;
        }
        Ok(())
    }
}

impl Notice {
    async fn count(&self, network: &Network) -> u64 {
        match &self.sign {
            Sign::Counter(counter) => self.who.iter().map(|name| network.counter(name, counter)).sum(),
            Sign::Evidence => {
                let dir = &network.layout().dir;
                self.who.iter().map(|name| proofs(&dir.join(name))).sum()
            }
            Sign::Problem(code) => {
                let mut count = 0;
                for name in &self.who {
                    let config = Layout::config_in(&network.layout().dir, name);
                    let asked = tokio::task::spawn_blocking(move || posta_node::cli::report(&config)).await;
                    // A relay that can't be asked has no problem of this name.
                    let Ok(Ok(report)) = asked else { continue };
                    count += u64::from(report.problems.iter().any(|problem| problem.code == *code));
                }
                count
            }
        }
    }

    fn noticed(&self, count: u64, after: Option<Duration>) -> Noticed {
        // What may not happen too often has no moment.
        let after = after.filter(|_| self.at_least > 0);
        let after_s = after.map(|after| (after.as_secs_f64() * 10.0).round() / 10.0);
        Noticed { sign: self.sign.to_string(), count, after_s, at_least: self.at_least, at_most: self.at_most }
    }
}

/// Looks now and then what was noticed of what is to be.
#[derive(Debug)]
pub struct Watch {
    notices: Vec<Open>,
    next: Instant,
}

#[derive(Debug)]
struct Open {
    notice: Notice,
    count: u64,
    since: Option<Instant>,
}

impl Watch {
    /// Watches for these, from now on.
    #[must_use]
    pub fn new(notices: &[Notice], now: Instant) -> Self {
        let open = |notice: &Notice| Open { notice: notice.clone(), count: 0, since: None };
        Self { notices: notices.iter().map(open).collect(), next: now + EVERY }
    }

    /// Whether something that is to be noticed wasn't yet.
    #[must_use]
    pub fn open(&self) -> bool {
        self.notices.iter().any(|open| open.since.is_none() && open.notice.at_least > 0)
    }

    /// When to look; `None` when nothing is missing.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        self.open().then_some(self.next)
    }

    /// Looks.
    pub async fn look(&mut self, network: &Network) {
        for Open { notice, count, since } in &mut self.notices {
            // What was noticed stays noticed, even if the relay that counted was started again.
            *count = notice.count(network).await.max(*count);
            if *count >= notice.at_least {
                since.get_or_insert_with(Instant::now);
            }
        }
        self.next = Instant::now() + EVERY;
    }

    /// What it came to, with times from `begun` on.
    #[must_use]
    pub fn noticed(&self, begun: Instant) -> Vec<Noticed> {
        let noticed = |open: &Open| open.notice.noticed(open.count, open.since.map(|at| at.duration_since(begun)));
        self.notices.iter().map(noticed).collect()
    }
}

fn proofs(authority: &Path) -> u64 {
    fs::read_dir(authority.join("evidence")).map_or(0, |files| files.flatten().count() as u64)
}
