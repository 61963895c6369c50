//! Entries as a record: who was sampled, in which order, and since when one doesn't work.

use std::collections::VecDeque;

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::now::Now;

use super::{Entries, Guard, LinkState};
use crate::session::saved::{hour_of, mono_of};

/// Entries of a record, at most; far more than are sampled.
const MAX: usize = 64;

impl Entries {
    pub(crate) fn write(&self, w: &mut Writer, now: Now) {
        w.count(self.guards.len());
        for guard in &self.guards {
            guard.relay.write(w);
            // 0 for one that works.
            w.u32(if guard.rests > 0 { hour_of(guard.first_failure, now) } else { 0 });
        }
        w.count(self.current);
        w.u32(self.replaced_at.map_or(0, |at| hour_of(at, now)));
    }

    pub(crate) fn read(&mut self, r: &mut Reader<'_>, now: Now) -> Result<(), Malformed> {
        for _ in 0..r.count(MAX, "entries")? {
            let relay = RelayId::read(r)?;
            let hour = r.u32("hour")?;
            let failing = hour > 0;
            self.guards.push(Guard {
                relay,
                link: LinkState::Down,
                failures: u32::from(failing),
                first_failure: if failing { mono_of(hour, now) } else { now.mono },
                retry_at: now.mono,
                rests: u32::from(failing),
                attach_sent: None,
                attach_again: now.mono,
                inboxes: VecDeque::new(),
            });
        }
        self.current = r.count(MAX, "entry")?;
        let hour = r.u32("hour")?;
        self.replaced_at = (hour > 0).then(|| mono_of(hour, now));
        r.clone().finish("entries")
    }
}
