//! What goes wrong during a run: faults, and what follows from them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use tokio::time::Instant;

use super::Demo;
use crate::fault::{Deed, Fault, Later, Moment, Target};
use crate::ledger::Side;
use crate::lines::{Between, Line};
use crate::report::Victim;

fn role(name: &str) -> &'static str {
    ["edge", "mix", "authority", "client"].into_iter().find(|role| name.starts_with(role)).unwrap_or("some")
}

impl Demo<'_> {
    /// Turns the faults whose moment is known from `begin` on into what is done then.
    pub(super) fn plan_ahead(&mut self, begin: Instant, after: impl Fn(Moment) -> Option<Duration>) {
        for fault in std::mem::take(&mut self.faults) {
            match after(fault.at) {
                Some(after) => self.later.push((begin + after, Later::Strike(fault))),
                None => self.faults.push(fault),
            }
        }
    }

    /// Does what is due.
    pub(super) async fn follow(&mut self, due: Instant) -> Result<()> {
        while let Some(i) = self.later.iter().position(|(at, _)| *at <= due) {
            match self.later.swap_remove(i).1 {
                Later::Strike(fault) => self.strike(fault).await?,
                Later::Start(name) => {
                    self.progress.say(&format!("{name} is started again"));
                    self.network.restart(&name)?;
                }
                Later::Resume(name) => {
                    self.progress.say(&format!("{name} goes on"));
                    self.network.resume(&name)?;
                }
                Later::Lift(change, name) => {
                    self.progress.say(&format!("the lines of {name} are as they were"));
                    if let Some(lines) = self.network.lines() {
                        lines.lift(change);
                    }
                }
            }
        }
        Ok(())
    }

    /// Does to somebody what the plan says.
    pub(super) async fn strike(&mut self, fault: Fault) -> Result<()> {
        match fault.what {
            Deed::Lines { those, line, time } => return self.change_lines(&fault.who, those, line, time),
            Deed::Crowd(clients) => return self.bring(clients),
            _ => {}
        }
        let name = self.victim(&fault.who)?;
        let role = role(&name);
        let packets_carried = self.network.carried(&name);
        let deed = match fault.what {
            Deed::KillButRestartEdges if role == "edge" => Deed::Restart(Duration::ZERO),
            Deed::KillButRestartEdges => Deed::Kill,
            deed => deed,
        };
        let word = deed.word();
        self.progress.say(&format!("{word} {name} after {packets_carried} packets"));
        let again = match deed {
            Deed::Kill | Deed::KillButRestartEdges => {
                self.network.kill(&name).await?;
                None
            }
            Deed::Restart(after) => {
                self.network.kill(&name).await?;
                Some((after, Later::Start(name.clone())))
            }
            Deed::Stop(after) => {
                self.network.terminate(&name).await?;
                Some((after, Later::Start(name.clone())))
            }
            Deed::Pause(time) => {
                self.network.pause(&name)?;
                Some((time, Later::Resume(name.clone())))
            }
            Deed::Lines { .. } | Deed::Crowd(_) => None,
        };
        let restarted = again.is_some();
        match again {
            Some((Duration::ZERO, Later::Start(name))) => self.network.restart(&name)?,
            Some((after, later)) => self.later.push((Instant::now() + after, later)),
            None => {}
        }
        self.victims.push(Victim { name, role, deed: word, restarted, packets_carried });
        Ok(())
    }

    fn change_lines(
        &mut self,
        who: &Target,
        those: Option<BTreeSet<String>>,
        line: Line,
        time: Option<Duration>,
    ) -> Result<()> {
        let these = match who {
            Target::Group(names) => names.clone(),
            who => BTreeSet::from([self.victim(who)?]),
        };
        let lines = self.network.lines().context("the network's lines can't be changed")?;
        let name = match (these.first(), these.len()) {
            (Some(one), 1) => one.clone(),
            (_, n) => format!("{n} nodes"),
        };
        let (role, packets_carried) = (role(&name), these.iter().map(|name| self.network.carried(name)).sum());
        let change = lines.change(Between { these, those: those.clone() }, line);
        let deed = Deed::Lines { those, line, time }.word();
        self.progress.say(&format!("{deed}: {name}"));
        if let Some(time) = time {
            self.later.push((Instant::now() + time, Later::Lift(change, name.clone())));
        }
        self.victims.push(Victim { name, role, deed, restarted: time.is_some(), packets_carried });
        Ok(())
    }

    /// Lets clients come, all at once.
    fn bring(&mut self, clients: usize) -> Result<()> {
        self.progress.say(&format!("{clients} clients come at once"));
        let crowd = self.crowd.get_or_insert_default();
        let first = Side::BOTH.len() + crowd.came;
        crowd.came += clients;
        for k in first..first + clients {
            let name = self.network.layout().client_name(k);
            self.network.start_ping(&name, k)?;
            self.coming.insert(name);
        }
        Ok(())
    }

    fn victim(&mut self, who: &Target) -> Result<String> {
        let candidates: Vec<String> = match who {
            Target::Mix => self.network.names("mix").filter(|n| self.network.carried(n) > 0).collect(),
            Target::QueueEdge => self.network.names("edge").filter(|n| self.network.stored(n) > 0).collect(),
            Target::Role(role) => self.network.names(role).collect(),
            Target::Named(name) => self.network.names(name).filter(|n| n == name).collect(),
            Target::Group(names) => names.iter().cloned().collect(),
            Target::Any(n) => {
                let all: Vec<String> =
                    ["authority", "edge", "mix"].iter().flat_map(|r| self.network.names(r)).collect();
                let n = n % all.len().max(1);
                all.into_iter().skip(n).take(1).collect()
            }
        };
        if candidates.is_empty() {
            bail!("no process fits {who:?}: none is running, or none has carried anything yet");
        }
        let n = self.rng.random_range(0..candidates.len());
        candidates.into_iter().nth(n).context("a candidate")
    }
}
