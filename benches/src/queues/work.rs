//! A relay at work: of every four clients one makes queues, one looks queues up, and two send and acknowledge.

use std::ops::{Range, RangeFrom};

use anyhow::{Result, bail};
use posta_store::{Outcome, QueueOp};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::CLIENTS;
use crate::load::{Load, Samples, create, ids};
use crate::store::Sender;

/// What is measured of it.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) creates: Samples,
    pub(super) lookups: Samples,
}

/// Runs all of it. Takes the numbers of queues that it makes from `new`.
pub(super) fn work(
    load: &mut Load,
    seconds: f64,
    new: &mut RangeFrom<u64>,
    known: &Range<u64>,
    sender: &mut Sender<'_>,
) -> Result<Work> {
    let mut known = lookups_of(known);
    let mut acks = vec![None; CLIENTS];
    let next = |client: usize| match client % 4 {
        0 => new.next().map(create),
        1 => Some(known()),
        _ => {
            let slot = acks.get_mut(client)?;
            if let Some(ack) = slot.take() {
                return Some(ack);
            }
            let (send, queue, sequence) = sender.next(client)?;
            *slot = Some(QueueOp::Ack { queue: ids(queue).0, up_to: sequence });
            Some(send)
        }
    };
    let mut work = Work::default();
    let lasted = load.run_timed(CLIENTS, seconds, next, |client, outcome, took| {
        match (client % 4, outcome) {
            (0, Outcome::Created) => work.creates.add(took, 1),
            (1, Outcome::Empty | Outcome::Message { .. }) => work.lookups.add(took, 1),
            (2 | 3, Outcome::Accepted { .. } | Outcome::Done) => {}
            (_, other) => bail!("a command was refused: {other:?}"),
        }
        Ok(())
    })?;
    work.creates.lasted(lasted);
    work.lookups.lasted(lasted);
    Ok(work)
}

/// Lookups of queues in no order.
pub(super) fn lookups_of(known: &Range<u64>) -> impl FnMut() -> QueueOp + use<> {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let (start, count) = (known.start, known.end - known.start);
    move || QueueOp::Read { queue: ids(start + rng.next_u64() % count).0, after: 0, skip: Vec::new() }
}
