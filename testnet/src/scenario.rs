//! Scenarios: a network, traffic, what goes wrong, and what is expected, in a TOML file.
//!
//! ```toml
//! about = "A mix is killed while messages are on their way."
//!
//! [network]             # all of these have defaults
//! relays = 12           # half of them edges, half mixes
//! authorities = 4
//! epoch = 10            # seconds
//! key_epoch = 60        # seconds, a multiple of the epoch
//!
//! [traffic]
//! messages = 100        # each way
//! seconds = 10          # over which they are sent
//! durable = false       # whether the clients keep their state on disk
//!
//! [[fault]]
//! at = 3.0              # seconds after the first message; "start" counts from the network's start instead
//! what = "kill"         # kill: for good; restart: SIGKILL and started again; stop: SIGTERM and started again; pause;
//!                       # lines, partition: see below; crowd: `clients` come at once and send an echo each
//! who = "mix"           # mix, edge, authority: any; queue-edge: one that holds a queue in use; a name; "each relay"
//! seconds = 0.0         # how long a restart, stop or pause takes, or lines are bad; 0: for lines until the end
//! every = 2.0           # for "each ...": seconds between two of them
//!
//! [[fault]]             # lines between `who` and `with`, both ways: names, groups, lists of them; without `with` all
//! at = 3.0
//! what = "lines"        # or "partition": they are cut
//! who = "each mix"
//! with = ["edge-1", "edge-2"]
//! delay_ms = 50.0
//! jitter_ms = 10.0
//! loss = 0.01
//! kbit = 2000           # a second, each line and way
//!
//! [[rogue]]             # a relay or authority that misbehaves from its start
//! who = "mix-1"
//! does = "drop"         # drop, replay, tag, slow, flood, watch, clock; authorities: equivocate, nonsense
//! share = 0.5           # of its packets
//! seconds = 0.0         # how late replayed and slow packets are, or how far ahead the clock is
//! times = 0             # packets of noise behind each, for "flood"
//!
//! [[tap]]               # who watches which lines: NAME.jsonl and NAME.pcap in the folder of the run
//! name = "global"
//! who = "everyone"
//!
//! [[notice]]            # what must be noticed: a relay's counter, a problem of its status, proofs against authorities
//! who = "each relay"
//! counter = "refused"   # or problem = "clock", or evidence = true
//! at_least = 1          # and, or, at_most
//!
//! [expect]              # what else than all messages once and in order
//! lost = 0
//! p50_ms = 100.0
//! patience_s = 60.0     # how long after the last message is waited for those that are missing, and to be noticed
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use self::parts::{FaultPart, Names, NetworkPart, NoticePart, RoguePart, TapPart, Traffic};
use crate::demo::{PATIENCE, Plan};
use crate::layout::Size;
use crate::lines::tap::Tap;
use crate::network::{Makings, Times};
use crate::report::Report;

mod parts;
mod simulated;

/// The scenarios that come with the program, by name.
pub const LIBRARY: [(&str, &str); 27] = [
    ("authorities-gone", include_str!("../scenarios/authorities-gone.toml")),
    ("authority-down", include_str!("../scenarios/authority-down.toml")),
    ("clients-on-disk", include_str!("../scenarios/clients-on-disk.toml")),
    ("clock-skew", include_str!("../scenarios/clock-skew.toml")),
    ("dropping-relay", include_str!("../scenarios/dropping-relay.toml")),
    ("epoch-change", include_str!("../scenarios/epoch-change.toml")),
    ("epoch-change-under-load", include_str!("../scenarios/epoch-change-under-load.toml")),
    ("flash-crowd", include_str!("../scenarios/flash-crowd.toml")),
    ("flooding-relay", include_str!("../scenarios/flooding-relay.toml")),
    ("killed-at-start", include_str!("../scenarios/killed-at-start.toml")),
    ("lossy-lines", include_str!("../scenarios/lossy-lines.toml")),
    ("lying-authority", include_str!("../scenarios/lying-authority.toml")),
    ("mix-crash", include_str!("../scenarios/mix-crash.toml")),
    ("mix-held-up", include_str!("../scenarios/mix-held-up.toml")),
    ("n-minus-one", include_str!("../scenarios/n-minus-one.toml")),
    ("nonsense-authority", include_str!("../scenarios/nonsense-authority.toml")),
    ("one-authority", include_str!("../scenarios/one-authority.toml")),
    ("partition", include_str!("../scenarios/partition.toml")),
    ("queue-relay-held-up", include_str!("../scenarios/queue-relay-held-up.toml")),
    ("queue-relay-lost", include_str!("../scenarios/queue-relay-lost.toml")),
    ("queue-relay-restart", include_str!("../scenarios/queue-relay-restart.toml")),
    ("replaying-relay", include_str!("../scenarios/replaying-relay.toml")),
    ("rolling-restart", include_str!("../scenarios/rolling-restart.toml")),
    ("slow-line", include_str!("../scenarios/slow-line.toml")),
    ("slow-mix", include_str!("../scenarios/slow-mix.toml")),
    ("tagging-relay", include_str!("../scenarios/tagging-relay.toml")),
    ("watched", include_str!("../scenarios/watched.toml")),
];
/// Clients of a scenario.
const CLIENTS: usize = 2;
/// The longest that a run waits at its end.
const LONGEST_PATIENCE: Duration = Duration::from_secs(600);
/// Clients of a scenario at most, crowds included.
const MAX_CLIENTS: usize = 400;

/// One tap for each of these words, in a network of this size.
///
/// # Errors
/// If nobody is called so.
pub fn taps(size: Size, words: &[String]) -> Result<Vec<Tap>> {
    let names = Names::of(size);
    words.iter().map(|word| names.tap(word)).collect()
}

/// A scenario as it was read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    #[serde(default)]
    network: NetworkPart,
    #[serde(default)]
    traffic: Traffic,
    #[serde(default)]
    fault: Vec<FaultPart>,
    #[serde(default)]
    rogue: Vec<RoguePart>,
    #[serde(default)]
    tap: Vec<TapPart>,
    #[serde(default)]
    notice: Vec<NoticePart>,
    #[serde(default)]
    expect: Expect,
}

/// What a run may not exceed. All messages once and in order, if nothing else is said.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Expect {
    lost: usize,
    doubled: usize,
    out_of_order: usize,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    first_message_s: Option<f64>,
    patience_s: Option<f64>,
}

impl Expect {
    fn patience(&self) -> Result<Duration> {
        let Some(patience) = self.patience_s else { return Ok(PATIENCE) };
        let patience = Duration::try_from_secs_f64(patience).ok().filter(|patience| *patience <= LONGEST_PATIENCE);
        patience.context("a patience of 0 to 600 seconds")
    }
}

/// What came of one run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The scenario, as it was named.
    pub scenario: String,
    /// With which it can be run again.
    pub seed: u64,
    /// What was counted.
    pub report: Report,
    /// What was expected and did not hold, a sentence each.
    pub failed: Vec<String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.report.to_string();
        // The report judges by the demo's promise; here the scenario does.
        for line in text.lines().filter(|line| !matches!(*line, "PASSED" | "FAILED")) {
            writeln!(f, "{line}")?;
        }
        for failed in &self.failed {
            writeln!(f, "failed      {failed}")?;
        }
        write!(f, "{}", if self.failed.is_empty() { "PASSED" } else { "FAILED" })
    }
}

impl Scenario {
    /// One of the library by its name, or a file.
    ///
    /// # Errors
    /// If there is none, or something in it is wrong.
    pub fn load(name: &str) -> Result<Self> {
        let text = match LIBRARY.iter().find(|(known, _)| *known == name) {
            Some((_, text)) => (*text).to_owned(),
            None => fs::read_to_string(name).with_context(|| {
                format!("no scenario {name}: 'posta-testnet scenarios' lists those that come with the program")
            })?,
        };
        Self::parse(&text).with_context(|| format!("the scenario {name}"))
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is wrong in it.
    pub fn parse(text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        let NetworkPart { relays, authorities, epoch, key_epoch } = scenario.network;
        ensure!((6..=400).contains(&relays), "{relays} relays: 6 to 400");
        ensure!((1..=10).contains(&authorities), "{authorities} authorities: 1 to 10");
        ensure!(
            epoch >= 5 && key_epoch % epoch == 0 && key_epoch >= 2 * epoch,
            "key_epoch: a multiple of epoch, from 5 s"
        );
        ensure!((1..=10_000).contains(&scenario.traffic.messages), "1 to 10,000 messages");
        ensure!((1.0..=3600.0).contains(&scenario.traffic.seconds), "traffic of 1 to 3,600 seconds");
        let clients = scenario.size().clients;
        ensure!(clients <= MAX_CLIENTS, "{clients} clients: {MAX_CLIENTS} at most");
        scenario.makings(0)?;
        scenario.plan(0)?;
        Ok(scenario)
    }

    /// The same network and traffic with nothing wrong: what is noticed then is noticed for no reason.
    #[must_use]
    pub fn without_faults(mut self) -> Self {
        self.fault.clear();
        self.rogue.clear();
        self
    }

    /// How many of each.
    #[must_use]
    pub fn size(&self) -> Size {
        let crowd: usize = self.fault.iter().map(FaultPart::crowd).sum();
        Size { clients: CLIENTS + crowd, ..Size::of(self.network.authorities, self.network.relays) }
    }

    /// The network of a run.
    ///
    /// # Errors
    /// If somebody in it can't be, or can't do what is said.
    pub fn makings(&self, seed: u64) -> Result<Makings> {
        let names = Names::of(self.size());
        let times = Times {
            epoch: Duration::from_secs(self.network.epoch),
            key_epoch: Duration::from_secs(self.network.key_epoch),
        };
        let mut rogues = BTreeMap::new();
        for part in &self.rogue {
            rogues.extend(part.rogues(&names)?);
        }
        Ok(Makings {
            lines: self.fault.iter().any(FaultPart::is_about_lines),
            taps: self.tap.iter().map(|part| part.tap(&names)).collect::<Result<_>>()?,
            rogues,
            seed,
            ..Makings::plain(self.size(), times)
        })
    }

    /// What a run does.
    ///
    /// # Errors
    /// If a fault can't be.
    pub fn plan(&self, seed: u64) -> Result<Plan> {
        let names = Names::of(self.size());
        let faults = self.fault.iter().map(|part| part.faults(&names)).collect::<Result<Vec<_>>>()?;
        Ok(Plan {
            messages: self.traffic.messages,
            over: Duration::from_secs_f64(self.traffic.seconds),
            faults: faults.into_iter().flatten().collect(),
            notices: self.notice.iter().map(|part| part.notice(&names)).collect::<Result<_>>()?,
            patience: self.expect.patience()?,
            seed,
            durable: self.traffic.durable,
        })
    }

    /// What did not hold, a sentence each.
    #[must_use]
    pub fn judge(&self, report: &Report) -> Vec<String> {
        let Expect { lost, doubled, out_of_order, p50_ms, p99_ms, first_message_s, .. } = self.expect;
        let counts = [
            ("messages lost", report.lost, lost),
            ("messages doubled", report.duplicates, doubled),
            ("messages out of order", report.out_of_order, out_of_order),
        ];
        let counts = counts.iter().filter(|(_, found, most)| found > most);
        let mut failed: Vec<_> = counts.map(|(what, found, most)| format!("{found} {what}, at most {most}")).collect();
        let times = [
            ("p50 of latency, in ms,", report.latency_ms.p50, p50_ms),
            ("p99 of latency, in ms,", report.latency_ms.p99, p99_ms),
            ("seconds to the first message", report.start_to_first_delivery_s, first_message_s),
        ];
        let late =
            times.into_iter().filter_map(|(what, found, most)| Some((what, found, most.filter(|m| found > *m)?)));
        failed.extend(late.map(|(what, found, most)| format!("{what} {found:.1}, at most {most:.1}")));
        failed.extend(report.noticed.iter().filter(|noticed| !noticed.holds()).map(|noticed| match noticed.at_most {
            Some(most) if noticed.count > most => format!("{noticed}, at most {most}"),
            _ => format!("{noticed}, at least {}", noticed.at_least),
        }));
        failed.extend(
            report.crowd.filter(|crowd| crowd.answered < crowd.came).map(|crowd| {
                format!("{} clients of a crowd of {} had no echo", crowd.came - crowd.answered, crowd.came)
            }),
        );
        failed
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::fault::{Deed, Fault, Moment, Target};
    use crate::report::Percentiles;

    #[test]
    fn every_scenario_of_the_library_is_well_formed_and_its_file_is_in_the_list() {
        for (name, text) in LIBRARY {
            let scenario = Scenario::parse(text).unwrap_or_else(|e| panic!("{name}: {e:#}"));
            assert!(scenario.about.ends_with('.'), "{name}");
            assert_eq!(scenario.plan(7).unwrap().seed, 7);
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        assert_eq!(fs::read_dir(folder).unwrap().count(), LIBRARY.len());
    }

    #[test]
    fn each_relay_is_a_fault_for_each_of_them_one_after_the_other() {
        let text = "about = \"x.\"\n[network]\nrelays = 6\n[[fault]]\nat = 1.0\nevery = 2.0\nwhat = \"stop\"\nwho = \"each relay\"";
        let faults = Scenario::parse(text).unwrap().plan(0).unwrap().faults;
        assert_eq!(faults.len(), 6);
        let last = Fault {
            at: Moment::After(Duration::from_secs(11)),
            who: Target::Named("mix-3".into()),
            what: Deed::Stop(Duration::ZERO),
        };
        assert_eq!(faults.last(), Some(&last));
    }

    #[test]
    fn what_is_wrong_in_a_scenario_is_said() {
        let bad = [
            ("about = \"x\"\ncolour = 1", "unknown field `colour`"),
            ("about = \"x\"\n[network]\nrelays = 2", "2 relays"),
            ("about = \"x\"\n[network]\nkey_epoch = 15", "key_epoch"),
            ("about = \"x\"\n[[fault]]\nwhat = \"kill\"\nwho = \"mix\"", "either `at` or `start`"),
            ("about = \"x\"\n[[fault]]\nat = 1.0\nwhat = \"kill\"\nwho = \"mix-9\"", "nobody is called \"mix-9\""),
            ("about = \"x\"\n[[fault]]\nat = -1.0\nwhat = \"kill\"\nwho = \"mix\"", "-1 seconds"),
        ];
        for (text, why) in bad {
            let said = format!("{:#}", Scenario::parse(text).unwrap_err());
            assert!(said.contains(why), "{said}");
        }
        assert!(format!("{:#}", Scenario::load("nothing").unwrap_err()).contains("posta-testnet scenarios"));
    }

    #[test]
    fn a_run_that_exceeds_what_is_expected_fails_with_each_reason() {
        let report = |lost, p50| Report {
            sent: 10,
            stored: 10,
            delivered: 10 - lost,
            lost,
            duplicates: 0,
            out_of_order: 0,
            latency_ms: Percentiles { p50, ..Percentiles::default() },
            start_to_first_delivery_s: 1.0,
            victims: vec![],
            noticed: vec![],
            crowd: None,
            tapped: vec![],
            trace: None,
        };
        let strict = Scenario::parse("about = \"x.\"\n[expect]\np50_ms = 20.0").unwrap();
        assert!(strict.judge(&report(0, 20.0)).is_empty());
        assert_eq!(strict.judge(&report(2, 21.0)).len(), 2);
        let lax = Scenario::parse("about = \"x.\"\n[expect]\nlost = 2").unwrap();
        assert!(lax.judge(&report(2, 900.0)).is_empty());
        assert_eq!(lax.judge(&report(3, 900.0)), ["3 messages lost, at most 2"]);
    }
}
