//! What can go wrong in a network of processes: who, when, and what.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::lines::{Change, Line};

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When.
    pub at: Moment,
    /// Who.
    pub who: Target,
    /// What is done to it.
    pub what: Deed,
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Moment {
    /// So long after the network was started, while the clients are connecting at the latest.
    Start(Duration),
    /// So long after the first message was sent.
    After(Duration),
    /// After this share of all messages was sent, 0.0 to 1.0.
    Share(f64),
}

/// Whom it happens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A mix that has carried packets.
    Mix,
    /// An edge that holds a queue in use.
    QueueEdge,
    /// Any process whose name starts so: `edge`, `mix`, `authority`.
    Role(&'static str),
    /// This one.
    Named(String),
    /// All of these at once; for lines only.
    Group(BTreeSet<String>),
    /// The n-th process of the network that isn't a client, authorities first.
    Any(usize),
}

/// What is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// SIGKILL, for good.
    Kill,
    /// SIGKILL, and started again so long after.
    Restart(Duration),
    /// SIGTERM, waited for, and started again so long after.
    Stop(Duration),
    /// SIGSTOP for so long: it holds its connections and says nothing.
    Pause(Duration),
    /// SIGKILL; an edge is started again at once, others are gone.
    KillButRestartEdges,
    /// Its lines to some, or to everybody, are as bad as this for so long, or until the end.
    Lines {
        /// To whom; `None` for everybody.
        those: Option<BTreeSet<String>>,
        /// How they are.
        line: Line,
        /// For how long; `None` until the end.
        time: Option<Duration>,
    },
    /// So many clients come at once, and each sends an echo through the network.
    Crowd(usize),
}

impl Deed {
    /// As it stands in reports.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Kill | Self::Restart(_) | Self::KillButRestartEdges => "kill",
            Self::Stop(_) => "stop",
            Self::Pause(_) => "pause",
            Self::Lines { line, .. } if *line == Line::CUT => "cut off",
            Self::Lines { .. } => "bad lines",
            Self::Crowd(_) => "crowd",
        }
    }
}

/// What follows from a fault.
#[derive(Clone, Debug)]
pub enum Later {
    /// The fault itself, at its time.
    Strike(Fault),
    /// A process starts again.
    Start(String),
    /// A process that was held up goes on.
    Resume(String),
    /// The lines of these are as they were.
    Lift(Change, String),
}
