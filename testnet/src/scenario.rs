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
//! what = "kill"         # kill: for good; restart: SIGKILL and started again; stop: SIGTERM and started again; pause
//! who = "mix"           # mix, edge, authority: any; queue-edge: one that holds a queue in use; a name; "each relay"
//! seconds = 0.0         # how long a restart, stop or pause takes
//! every = 2.0           # for "each ...": seconds between two of them
//!
//! [expect]              # what else than all messages once and in order
//! lost = 0
//! p50_ms = 100.0
//! ```

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::demo::Plan;
use crate::fault::{Deed, Fault, Moment, Target};
use crate::layout::{Layout, Size};
use crate::network::Times;
use crate::report::Report;

/// The scenarios that come with the program, by name.
pub const LIBRARY: [(&str, &str); 12] = [
    ("authority-down", include_str!("../scenarios/authority-down.toml")),
    ("authorities-gone", include_str!("../scenarios/authorities-gone.toml")),
    ("clients-on-disk", include_str!("../scenarios/clients-on-disk.toml")),
    ("epoch-change", include_str!("../scenarios/epoch-change.toml")),
    ("killed-at-start", include_str!("../scenarios/killed-at-start.toml")),
    ("mix-crash", include_str!("../scenarios/mix-crash.toml")),
    ("mix-held-up", include_str!("../scenarios/mix-held-up.toml")),
    ("one-authority", include_str!("../scenarios/one-authority.toml")),
    ("queue-relay-held-up", include_str!("../scenarios/queue-relay-held-up.toml")),
    ("queue-relay-lost", include_str!("../scenarios/queue-relay-lost.toml")),
    ("queue-relay-restart", include_str!("../scenarios/queue-relay-restart.toml")),
    ("rolling-restart", include_str!("../scenarios/rolling-restart.toml")),
];
/// Clients of a scenario.
const CLIENTS: usize = 2;

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
    expect: Expect,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NetworkPart {
    relays: usize,
    authorities: usize,
    epoch: u64,
    key_epoch: u64,
}

impl Default for NetworkPart {
    fn default() -> Self {
        Self { relays: 12, authorities: 4, epoch: 10, key_epoch: 60 }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Traffic {
    messages: usize,
    seconds: f64,
    durable: bool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { messages: 100, seconds: 10.0, durable: false }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultPart {
    #[serde(default)]
    at: Option<f64>,
    #[serde(default)]
    start: Option<f64>,
    what: What,
    who: String,
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    every: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Kill,
    Restart,
    Stop,
    Pause,
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
        scenario.faults()?;
        Ok(scenario)
    }

    /// How many of each.
    #[must_use]
    pub const fn size(&self) -> Size {
        Size { clients: CLIENTS, ..Size::of(self.network.authorities, self.network.relays) }
    }

    /// Lengths of epochs.
    #[must_use]
    pub const fn times(&self) -> Times {
        Times { epoch: Duration::from_secs(self.network.epoch), key_epoch: Duration::from_secs(self.network.key_epoch) }
    }

    /// What a run does.
    ///
    /// # Errors
    /// If a fault can't be.
    pub fn plan(&self, seed: u64) -> Result<Plan> {
        Ok(Plan {
            messages: self.traffic.messages,
            over: Duration::from_secs_f64(self.traffic.seconds),
            faults: self.faults()?,
            seed,
            durable: self.traffic.durable,
        })
    }

    fn faults(&self) -> Result<Vec<Fault>> {
        let mut all = Vec::new();
        for part in &self.fault {
            let seconds = |s: f64| Duration::try_from_secs_f64(s).with_context(|| format!("{s} seconds"));
            let from = match (part.at, part.start) {
                (Some(at), None) => Moment::After(seconds(at)?),
                (None, Some(start)) => Moment::Start(seconds(start)?),
                _ => bail!("a fault needs either `at` or `start`"),
            };
            let time = seconds(part.seconds)?;
            let what = match part.what {
                What::Kill => Deed::Kill,
                What::Restart => Deed::Restart(time),
                What::Stop => Deed::Stop(time),
                What::Pause => Deed::Pause(time),
            };
            let every = seconds(part.every)?;
            for (n, who) in (0_u32..).zip(self.targets(&part.who)?) {
                let at = match from {
                    Moment::After(at) => Moment::After(at + every * n),
                    Moment::Start(at) => Moment::Start(at + every * n),
                    share @ Moment::Share(_) => share,
                };
                all.push(Fault { at, who, what });
            }
        }
        Ok(all)
    }

    fn targets(&self, who: &str) -> Result<Vec<Target>> {
        let layout = Layout { size: self.size(), dir: Path::new("").to_owned(), port: 0 };
        let relays: Vec<String> = (0..layout.size.relays()).map(|r| layout.relay_name(r)).collect();
        let authorities = (0..layout.size.authorities).map(|a| layout.authority_name(a));
        let each = |of: Vec<String>| of.into_iter().map(Target::Named).collect();
        Ok(match who {
            "mix" => vec![Target::Mix],
            "queue-edge" => vec![Target::QueueEdge],
            "edge" => vec![Target::Role("edge")],
            "authority" => vec![Target::Role("authority")],
            "each relay" => each(relays),
            "each authority" => each(authorities.collect()),
            name if relays.iter().any(|r| r == name) || authorities.into_iter().any(|a| a == name) => {
                vec![Target::Named(name.to_owned())]
            }
            _ => bail!(
                "nobody is called {who:?}: mix, edge, authority, queue-edge, each relay, each authority, or a name like {}",
                relays.first().map_or("edge-1", String::as_str)
            ),
        })
    }

    /// What did not hold, a sentence each.
    #[must_use]
    pub fn judge(&self, report: &Report) -> Vec<String> {
        let Expect { lost, doubled, out_of_order, p50_ms, p99_ms, first_message_s } = self.expect;
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
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let faults = Scenario::parse(text).unwrap().faults().unwrap();
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
        };
        let strict = Scenario::parse("about = \"x.\"\n[expect]\np50_ms = 20.0").unwrap();
        assert!(strict.judge(&report(0, 20.0)).is_empty());
        assert_eq!(strict.judge(&report(2, 21.0)).len(), 2);
        let lax = Scenario::parse("about = \"x.\"\n[expect]\nlost = 2").unwrap();
        assert!(lax.judge(&report(2, 900.0)).is_empty());
        assert_eq!(lax.judge(&report(3, 900.0)), ["3 messages lost, at most 2"]);
    }
}
