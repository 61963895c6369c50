//! A scenario in one process, under virtual time: the same cores and keys, the same trace for a seed.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::Scenario;
use crate::demo::Plan;
use crate::fault::{Deed, Fault, Moment, Target};
use crate::layout::Layout;
use crate::network::Makings;
use crate::report::{Report, Victim};
use crate::sim::directory::{AUTHORITIES, Directory};
use crate::sim::{self, Kill, Options};

/// The latency of a link: a machine's own, as where processes run.
const LATENCY: (Duration, Duration) = (Duration::from_micros(100), Duration::from_micros(500));
/// Mean time between two loops of a relay, as the consensus has it by default.
const LOOPS: Duration = Duration::from_secs(1);

impl Scenario {
    /// Runs it once with this seed. Latency then is that of the network alone: cores take no time.
    ///
    /// # Errors
    /// What in it can't be simulated, or that the simulation failed.
    pub fn simulate(&self, seed: u64) -> Result<Report> {
        let (makings, plan) = (self.makings(seed)?, self.plan(seed)?);
        let (options, victims) = options(&makings, &plan)?;
        let outcome = sim::run(&options)?;
        if let Some(failure) = outcome.join_failed {
            bail!("the clients did not connect: {failure}");
        }
        let trace = outcome.trace.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Report { victims, trace: Some(trace), ..Report::of(&outcome.ledger) })
    }
}

fn options(makings: &Makings, plan: &Plan) -> Result<(Options, Vec<Victim>)> {
    let Makings { size, times, taps, rogues, .. } = makings;
    ensure!(size.authorities == AUTHORITIES, "a simulated network has {AUTHORITIES} authorities: run it with --real");
    ensure!(!plan.durable, "simulated clients keep nothing on disk: run it with --real");
    ensure!(
        taps.is_empty() && rogues.is_empty() && plan.notices.is_empty(),
        "who watches, misbehaves or notices: run it with --real, or see 'posta-testnet sim --help'"
    );
    let mut options = Options {
        seed: plan.seed,
        edges: size.edges,
        mixes: size.mixes,
        messages: plan.messages,
        over: plan.over,
        latency: LATENCY,
        epoch: times.epoch,
        key_epoch: times.key_epoch,
        loops: LOOPS,
        ..Options::default()
    };
    let places = Places::new(&options, makings)?;
    let mut rng = ChaCha20Rng::seed_from_u64(plan.seed);
    let mut victims = Vec::new();
    for Fault { at, who, what } in &plan.faults {
        let Moment::After(at) = *at else { bail!("a fault at the network's start: run it with --real") };
        let (deed, restart_after) = match what {
            Deed::Kill => ("kill", None),
            // A stop is a kill here: what a relay says goodbye with is the driver's.
            Deed::Restart(after) | Deed::Stop(after) => (what.word(), Some(*after)),
            other => bail!("{}: run it with --real", other.word()),
        };
        let (name, relay) = places.pick(who, &mut rng)?;
        options.kills.push(Kill { relay, at, restart_after, only_edges: false });
        let role = if name.starts_with("edge") { "edge" } else { "mix" };
        let role = if relay >= size.relays() { "authority" } else { role };
        victims.push(Victim { name, role, deed, restarted: restart_after.is_some(), packets_carried: 0 });
    }
    // The simulated directory has no round that fails: without enough authorities it has nothing to say.
    let gone = victims.iter().filter(|victim| victim.role == "authority").count();
    ensure!(gone * 3 < AUTHORITIES, "{gone} of {AUTHORITIES} authorities are killed: run it with --real");
    Ok((options, victims))
}

/// Names, and who in the simulation has them.
struct Places(Vec<(String, usize)>);

impl Places {
    fn new(options: &Options, makings: &Makings) -> Result<Self> {
        // The same keys as in the run: the first thing that its seed gives.
        let mut seed = [0; 32];
        ChaCha20Rng::seed_from_u64(options.seed).fill_bytes(&mut seed);
        let directory = Directory::new(seed, options.edges, options.mixes, options.epoch, options.key_epoch)?;
        let layout = Layout { size: makings.size, dir: "".into(), port: 0, doors: false };
        let relays = directory.relays();
        let numbers =
            |edge: bool| (0..relays.len()).filter(move |r| relays.get(*r).is_some_and(|r| r.roles.edge == edge));
        let relays = numbers(true).chain(numbers(false)).enumerate().map(|(n, r)| (layout.relay_name(n), r));
        let authorities = (0..AUTHORITIES).map(|a| (layout.authority_name(a), makings.size.relays() + a));
        Ok(Self(relays.chain(authorities).collect()))
    }

    fn pick(&self, who: &Target, rng: &mut ChaCha20Rng) -> Result<(String, usize)> {
        let fits = |name: &str| match who {
            Target::Mix => name.starts_with("mix"),
            // Who will hold a queue isn't known before; most edges do.
            Target::QueueEdge => name.starts_with("edge"),
            Target::Role(role) => name.starts_with(role),
            Target::Named(named) => name == named,
            Target::Group(_) | Target::Any(_) => false,
        };
        let candidates: Vec<_> = self.0.iter().filter(|(name, _)| fits(name)).collect();
        let n = rng.random_range(0..candidates.len().max(1));
        candidates.get(n).map(|place| (*place).clone()).with_context(|| format!("no process fits {who:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn simulated(text: &str, seed: u64) -> Result<Report> {
        Scenario::parse(&format!("about = \"x.\"\n[traffic]\nmessages = 10\nseconds = 5\n{text}"))?.simulate(seed)
    }

    #[test]
    fn a_scenario_of_kills_loses_nothing_and_has_the_same_trace_for_a_seed() {
        let text = "[[fault]]\nat = 1.0\nwhat = \"kill\"\nwho = \"mix\"\n\
                    [[fault]]\nat = 2.0\nwhat = \"restart\"\nwho = \"queue-edge\"\nseconds = 1.0\n";
        let report = simulated(text, 7).unwrap();
        assert_eq!((report.sent, report.delivered, report.victims.len()), (20, 20, 2), "{report}");
        assert_eq!(report.trace, simulated(text, 7).unwrap().trace);
        assert_ne!(report.trace, simulated(text, 8).unwrap().trace);
        assert_ne!(report.trace, simulated("", 7).unwrap().trace, "the faults are in it");
    }

    #[test]
    fn what_cannot_be_simulated_is_said() {
        for text in [
            "[network]\nauthorities = 1",
            "[[fault]]\nat = 1.0\nwhat = \"kill\"\nwho = \"each authority\"",
            "[[fault]]\nat = 1.0\nwhat = \"pause\"\nwho = \"mix\"\nseconds = 1.0",
            "[[fault]]\nat = 1.0\nwhat = \"partition\"\nwho = \"mix-1\"",
            "[[fault]]\nstart = 1.0\nwhat = \"kill\"\nwho = \"mix-1\"",
            "[[rogue]]\nwho = \"mix-1\"\ndoes = \"drop\"",
        ] {
            let said = simulated(text, 1).unwrap_err().to_string();
            assert!(said.contains("--real"), "{said}");
        }
    }
}
