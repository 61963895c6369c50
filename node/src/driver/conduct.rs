//! What a relay does with packets that its workers have peeled: what it should, in every program of ours.
//!
//! The laboratory builds relays from this library that drop, repeat, mark or hold up packets, to show that the others
//! notice. There is no option and no configuration for it: it takes another program.

use std::fmt;
use std::sync::Arc;

use posta_protocol::onion::Peeled;
use posta_protocol::packet::Packet;

use crate::relay::Source;

/// A peeled packet: from whom, what it is to become, and itself.
pub type Arrived = (Source, Peeled, Packet);

/// Stands between a relay's workers and its core.
#[derive(Clone, Default)]
pub struct Conduct(Option<Arc<dyn Fn(Arrived) -> Vec<Arrived> + Send + Sync>>);

impl fmt::Debug for Conduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Conduct(another)" } else { "Conduct(honest)" })
    }
}

impl Conduct {
    /// The core is told what `instead` makes of each packet; it runs in the owner's task and must not wait.
    #[must_use]
    pub fn another(instead: impl Fn(Arrived) -> Vec<Arrived> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(instead)))
    }

    pub(super) fn judge(&self, batch: Vec<Arrived>) -> Vec<Arrived> {
        match &self.0 {
            None => batch,
            Some(instead) => batch.into_iter().flat_map(|arrived| instead(arrived)).collect(),
        }
    }
}
