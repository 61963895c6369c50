//! An adversary of a simulated network: which lines it watches, and what it does to packets.
//!
//! What it sees is a time and the two ends of a line: packets are all of one length, and a line's encryption hides the
//! rest. What is true stands elsewhere (`Message` of the simulator) and is never mixed in.

use std::io::{self, Write};
use std::time::Duration;

use posta_protocol::now::Mono;
use serde::Serialize;

use crate::sim::large::CLIENT;

/// A packet on a line, as an observer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When it left, microseconds since the start.
    pub at_us: u64,
    /// Who sent it: a relay's number, or a client's with [`CLIENT`] set.
    pub from: u32,
    /// Who it was for.
    pub to: u32,
}

/// Which lines are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// None.
    #[default]
    Nothing,
    /// Every line: a global passive observer.
    Everything,
    /// The lines of these nodes: relays that it runs, or a client's access.
    Nodes(Vec<u32>),
    /// These lines, in this direction.
    Lines(Vec<(u32, u32)>),
}

impl Watch {
    /// Whether a packet from one node to another is seen.
    #[must_use]
    pub fn sees(&self, from: u32, to: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Nodes(nodes) => nodes.contains(&from) || nodes.contains(&to),
            Self::Lines(lines) => lines.contains(&(from, to)),
        }
    }

    /// Whether any line is watched.
    #[must_use]
    pub fn anything(&self) -> bool {
        *self != Self::Nothing
    }
}

/// What is done to the packets that go to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// This share of them is lost.
    Drop(f64),
    /// They come later.
    Delay(Duration),
    /// Each comes a second time, a second later.
    Replay,
    /// A bit of each is changed.
    Tag,
    /// So many packets a second come besides.
    Flood(f64),
    /// None of them comes, and so many of the adversary's own do: the (n-1) attack.
    Isolate(f64),
}

impl Deed {
    /// Packets a second of its own.
    #[must_use]
    pub const fn flood(&self) -> f64 {
        match self {
            Self::Flood(rate) | Self::Isolate(rate) => *rate,
            _ => 0.0,
        }
    }
}

/// An active adversary.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Active {
    /// The relay on whose way in it sits.
    pub target: u32,
    /// When it begins, since the start.
    pub from: Duration,
    /// When it ends.
    pub until: Duration,
    /// What it does.
    pub deed: Deed,
}

impl Active {
    /// Whether it works on what goes to this node at this time.
    #[must_use]
    pub fn works(&self, at: Mono, to: u32) -> bool {
        to == self.target && (self.from..self.until).contains(&at.since(Mono(0)))
    }
}

/// A node's name in traces: `r7`, `c3`.
#[must_use]
pub fn name(node: u32) -> String {
    if node & CLIENT == 0 { format!("r{node}") } else { format!("c{}", node & !CLIENT) }
}

/// Writes what was seen, a line of JSON for each packet: `{"us":12,"from":"c3","to":"r7","bytes":21573}`.
///
/// # Errors
/// Of the file.
pub fn write_seen(seen: &[Seen], bytes: usize, to: &mut impl Write) -> io::Result<()> {
    for Seen { at_us, from, to: there } in seen {
        let (from, there) = (name(*from), name(*there));
        writeln!(to, "{{\"us\":{at_us},\"from\":\"{from}\",\"to\":\"{there}\",\"bytes\":{bytes}}}")?;
    }
    Ok(())
}
