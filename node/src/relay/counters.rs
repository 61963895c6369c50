//! What a relay counts: totals without a peer, queue or client in them.

use serde::Serialize;

/// Packets and commands since the start, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Packets passed on to another relay.
    pub forwarded: u64,
    /// Replies handed to a client's link.
    pub delivered: u64,
    /// Commands for the queue service, whatever became of them.
    pub commands: u64,
    /// Answers sent through reply blocks, messages included.
    pub answers: u64,
    /// Messages that the store has accepted.
    pub stored: u64,
    /// Cover that ended here.
    pub cover: u64,
    /// Loops of this relay's own that were sent.
    pub loops_sent: u64,
    /// Loops that came back whole.
    pub loops_returned: u64,
    /// Loops that didn't come back in time, or garbled.
    pub loops_lost: u64,
    /// Dropped: failed to peel, or a replay.
    pub refused: u64,
    /// Dropped: the replay filter of a key epoch is full.
    pub replay_full: u64,
    /// Dropped: the replay log could not be written.
    pub replay_unwritten: u64,
    /// Dropped: came from, or was to go to, a place that isn't next on a path.
    pub illegal_route: u64,
    /// Dropped: too many packets, or bytes, were being delayed, and these were due last.
    pub delay_full: u64,
    /// Dropped: the relay stops before their time.
    pub stopped: u64,
    /// Dropped: for an inbox that isn't here.
    pub no_inbox: u64,
    /// Dropped: the oldest packet of an inbox whose buffer was full.
    pub inbox_overflow: u64,
    /// Attach requests refused: too many inboxes.
    pub inboxes_full: u64,
    /// Dropped: the client reads too slowly, or has gone.
    pub client_backlog: u64,
    /// Dropped: the next relay takes too little, or can't be reached.
    pub link_backlog: u64,
    /// Times that the workers, and so the senders, were made to wait because too much waited for other relays.
    pub held_back: u64,
    /// Commands that don't parse.
    pub malformed: u64,
    /// Commands answered with what this relay asks for first: a password, a puzzle.
    pub not_admitted: u64,
    /// Commands to make a queue refused because too many were made in this second.
    pub create_rate: u64,
    /// Commands for a new queue or blob refused because the relay retires.
    pub retiring: u64,
    /// Commands refused because too many wait for the store.
    pub busy: u64,
    /// Answers not sent: no reply block, or one that can't be used now.
    pub unanswered: u64,
    /// Reply blocks of a queue replaced by newer ones, or dropped with a subscription.
    pub blocks_dropped: u64,
}

impl Counters {
    /// Packets that this relay did something for.
    #[must_use]
    pub const fn carried(&self) -> u64 {
        self.forwarded + self.delivered + self.commands
    }
}
