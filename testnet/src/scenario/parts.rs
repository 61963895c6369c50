//! A scenario's parts as they stand in the file, and what is made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::fault::{Deed, Fault, Moment, Target};
use crate::layout::{Layout, Size};
use crate::lines::tap::Tap;
use crate::lines::{Between, Line};
use crate::notice::{Notice, Sign};
use crate::rogue::{Does, Misdeed};

/// Clients that come in a crowd, at most.
const MAX_CROWD: usize = 200;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NetworkPart {
    pub(super) relays: usize,
    pub(super) authorities: usize,
    pub(super) epoch: u64,
    pub(super) key_epoch: u64,
}

impl Default for NetworkPart {
    fn default() -> Self {
        Self { relays: 12, authorities: 4, epoch: 10, key_epoch: 60 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Traffic {
    pub(super) messages: usize,
    pub(super) seconds: f64,
    pub(super) durable: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { messages: 100, seconds: 10.0, durable: false }
    }
}

/// One, or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Who {
    One(String),
    Some(Vec<String>),
}

impl Who {
    fn words(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Some(some) => some,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultPart {
    #[serde(default)]
    at: Option<f64>,
    #[serde(default)]
    start: Option<f64>,
    what: What,
    #[serde(default)]
    who: Option<Who>,
    #[serde(default)]
    with: Option<Who>,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    every: f64,
    #[serde(default)]
    delay_ms: f64,
    #[serde(default)]
    jitter_ms: f64,
    #[serde(default)]
    loss: f64,
    #[serde(default)]
    kbit: Option<u64>,
    #[serde(default)]
    clients: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Kill,
    Restart,
    Stop,
    Pause,
    Lines,
    Partition,
    Crowd,
}

impl FaultPart {
    /// Clients that it brings.
    pub(super) const fn crowd(&self) -> usize {
        self.clients
    }

    pub(super) const fn is_about_lines(&self) -> bool {
        matches!(self.what, What::Lines | What::Partition)
    }

    /// One fault, or one for each of several, one after the other.
    pub(super) fn faults(&self, names: &Names) -> Result<Vec<Fault>> {
        let seconds = |s: f64| Duration::try_from_secs_f64(s).with_context(|| format!("{s} seconds"));
        let from = match (self.at, self.start) {
            (Some(at), None) => Moment::After(seconds(at)?),
            (None, Some(start)) => Moment::Start(seconds(start)?),
            _ => bail!("a fault needs either `at` or `start`"),
        };
        let time = seconds(self.seconds)?;
        let bad_line = self.delay_ms != 0.0 || self.jitter_ms != 0.0 || self.loss != 0.0 || self.kbit.is_some();
        ensure!(
            bad_line == (self.what == What::Lines),
            "delay_ms, jitter_ms, loss or kbit: for `lines`, and for it only"
        );
        ensure!(self.with.is_none() || self.is_about_lines(), "`with`: for `lines` and `partition` only");
        ensure!((self.clients != 0) == (self.what == What::Crowd), "`clients`: for `crowd`, and for it only");
        let what = match self.what {
            What::Kill => Deed::Kill,
            What::Restart => Deed::Restart(time),
            What::Stop => Deed::Stop(time),
            What::Pause => Deed::Pause(time),
            What::Lines | What::Partition => Deed::Lines {
                those: self.with.as_ref().map(|with| names.all(with)).transpose()?,
                line: self.line()?,
                time: (!time.is_zero()).then_some(time),
            },
            What::Crowd => {
                ensure!(
                    self.who.is_none() && self.clients <= MAX_CROWD,
                    "a crowd has 1 to {MAX_CROWD} clients, and no `who`"
                );
                return Ok(vec![Fault { at: from, who: Target::Any(0), what: Deed::Crowd(self.clients) }]);
            }
        };
        let who = self.who.as_ref().context("a fault needs `who`")?;
        let targets = if self.is_about_lines() { names.lines_of(who)? } else { names.targets(who)? };
        let every = seconds(self.every)?;
        let moments = (0_u32..).map(|n| match from {
            Moment::After(at) => Moment::After(at + every * n),
            Moment::Start(at) => Moment::Start(at + every * n),
            share @ Moment::Share(_) => share,
        });
        Ok(moments.zip(targets).map(|(at, who)| Fault { at, who, what: what.clone() }).collect())
    }

    fn line(&self) -> Result<Line> {
        if self.what == What::Partition {
            return Ok(Line::CUT);
        }
        let ms = |ms: f64| Duration::try_from_secs_f64(ms / 1000.0).with_context(|| format!("{ms} milliseconds"));
        ensure!((0.0..=1.0).contains(&self.loss), "a loss of {}: 0.0 to 1.0", self.loss);
        ensure!(self.kbit != Some(0), "a rate of nothing: `partition` cuts lines");
        let rate = self.kbit.map(|kbit| kbit.saturating_mul(1000));
        Ok(Line { delay: ms(self.delay_ms)?, jitter: ms(self.jitter_ms)?, loss: self.loss, rate })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RoguePart {
    who: Who,
    does: Does,
    #[serde(default = "all")]
    share: f64,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    times: u16,
}

const fn all() -> f64 {
    1.0
}

impl RoguePart {
    pub(super) fn rogues(&self, names: &Names) -> Result<BTreeMap<String, Misdeed>> {
        let Self { does, share, seconds, times, .. } = *self;
        let misdeed = Misdeed { does, share, seconds, times };
        misdeed.check()?;
        let who = names.all(&self.who)?;
        let able =
            |name: &String| !names.clients.contains(name) && names.authorities.contains(name) == does.by_authority();
        ensure!(who.iter().all(able), "{does:?}: not all of {who:?} can do that");
        Ok(who.into_iter().map(|name| (name, misdeed)).collect())
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TapPart {
    name: String,
    who: Who,
    #[serde(default)]
    with: Option<Who>,
}

impl TapPart {
    pub(super) fn tap(&self, names: &Names) -> Result<Tap> {
        let plain = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(plain, "a tap's name is letters, digits and hyphens, not {:?}", self.name);
        let those = self.with.as_ref().map(|with| names.all(with)).transpose()?;
        Ok(Tap { name: self.name.clone(), between: Between { these: names.all(&self.who)?, those } })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoticePart {
    who: Who,
    #[serde(default)]
    counter: Option<String>,
    #[serde(default)]
    problem: Option<String>,
    #[serde(default)]
    evidence: bool,
    #[serde(default)]
    at_least: Option<u64>,
    #[serde(default)]
    at_most: Option<u64>,
}

impl NoticePart {
    pub(super) fn notice(&self, names: &Names) -> Result<Notice> {
        let sign = match (&self.counter, &self.problem, self.evidence) {
            (Some(counter), None, false) => Sign::Counter(counter.clone()),
            (None, Some(problem), false) => Sign::Problem(problem.clone()),
            (None, None, true) => Sign::Evidence,
            _ => bail!("a notice needs one of `counter`, `problem` and `evidence = true`"),
        };
        let at_least = self.at_least.unwrap_or_else(|| u64::from(self.at_most.is_none()));
        Ok(Notice { who: names.all(&self.who)?, sign, at_least, at_most: self.at_most })
    }
}

/// Who there is in a network.
#[derive(Clone, Debug)]
pub(super) struct Names {
    edges: BTreeSet<String>,
    mixes: BTreeSet<String>,
    authorities: BTreeSet<String>,
    clients: BTreeSet<String>,
    relays: Vec<String>,
}

impl Names {
    pub(super) fn of(size: Size) -> Self {
        let layout = Layout { size, dir: Path::new("").to_owned(), port: 0, doors: false };
        let relays: Vec<String> = (0..size.relays()).map(|r| layout.relay_name(r)).collect();
        let (edges, mixes) = relays.iter().cloned().partition(|name| name.starts_with("edge"));
        let authorities = (0..size.authorities).map(|a| layout.authority_name(a)).collect();
        let clients = (0..size.clients).map(|k| layout.client_name(k)).collect();
        Self { edges, mixes, authorities, clients, relays }
    }

    fn group(&self, word: &str) -> Option<BTreeSet<String>> {
        let everyone = || [&self.edges, &self.mixes, &self.authorities, &self.clients].into_iter().flatten();
        Some(match word {
            "everyone" => everyone().cloned().collect(),
            "each relay" => self.relays.iter().cloned().collect(),
            "each edge" => self.edges.clone(),
            "each mix" => self.mixes.clone(),
            "each authority" => self.authorities.clone(),
            "each client" => self.clients.clone(),
            name if everyone().any(|known| known == name) => BTreeSet::from([name.to_owned()]),
            _ => return None,
        })
    }

    fn nobody(&self, word: &str) -> anyhow::Error {
        anyhow::anyhow!(
            "nobody is called {word:?}: mix, edge, authority, queue-edge, each relay, each edge, each mix, each authority, \
             each client, everyone, or a name like {}",
            self.relays.first().map_or("edge-1", String::as_str)
        )
    }

    /// A tap on all lines of those whom a word means, called like it.
    pub(super) fn tap(&self, word: &str) -> Result<Tap> {
        let these = self.group(word).ok_or_else(|| self.nobody(word))?;
        Ok(Tap { name: word.replace(' ', "-"), between: Between { these, those: None } })
    }

    /// All that are meant.
    fn all(&self, who: &Who) -> Result<BTreeSet<String>> {
        let groups = who.words().iter().map(|word| self.group(word).ok_or_else(|| self.nobody(word)));
        Ok(groups.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn any(word: &str) -> Option<Target> {
        Some(match word {
            "mix" => Target::Mix,
            "queue-edge" => Target::QueueEdge,
            "edge" => Target::Role("edge"),
            "authority" => Target::Role("authority"),
            _ => return None,
        })
    }

    /// All at once, or one that turns out later.
    fn lines_of(&self, who: &Who) -> Result<Vec<Target>> {
        if let Who::One(word) = who
            && let Some(target) = Self::any(word)
        {
            return Ok(vec![target]);
        }
        Ok(vec![Target::Group(self.all(who)?)])
    }

    /// One after the other.
    fn targets(&self, who: &Who) -> Result<Vec<Target>> {
        let mut targets = Vec::new();
        for word in who.words() {
            if let Some(target) = Self::any(word) {
                targets.push(target);
                continue;
            }
            let group = self.group(word).ok_or_else(|| self.nobody(word))?;
            ensure!(group.is_disjoint(&self.clients), "nothing happens to clients, only to their lines");
            // Relays in the order of their numbers.
            let relays = self.relays.iter().filter(|relay| group.contains(*relay));
            let others = group.iter().filter(|name| !self.relays.contains(name));
            targets.extend(others.chain(relays).cloned().map(Target::Named));
        }
        Ok(targets)
    }
}
