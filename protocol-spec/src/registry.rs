//! Every number that stands for something on the wire. A retired number is listed and never used again.

/// Command blocks in a packet's routing.
pub mod hop {
    /// Pass the packet on to a relay after a delay.
    pub const FORWARD: u8 = 1;
    /// The payload is for this relay's queue service.
    pub const QUEUE: u8 = 2;
    /// The payload is for a client's inbox at this relay.
    pub const INBOX: u8 = 3;
    /// Drop the packet: cover made by a relay for itself.
    pub const DROP: u8 = 4;
    /// All of them.
    pub const ALL: &[u8] = &[FORWARD, QUEUE, INBOX, DROP];
}

/// Queue commands.
pub mod command {
    /// Make a queue.
    pub const CREATE: u8 = 1;
    /// Replace the invited writer capability by the writer's own.
    pub const SECURE: u8 = 2;
    /// Put a message in.
    pub const SEND: u8 = 3;
    /// Hand over reply blocks for what is there and what will come.
    pub const SUBSCRIBE: u8 = 4;
    /// Read the next message.
    pub const FETCH: u8 = 5;
    /// Erase everything up to a sequence number.
    pub const ACK: u8 = 6;
    /// Erase the queue.
    pub const DELETE: u8 = 7;
    /// Keep a blob.
    pub const BLOB_PUT: u8 = 8;
    /// Read a blob.
    pub const BLOB_GET: u8 = 9;
    /// Answer, and do nothing else: loops and reachability.
    pub const ECHO: u8 = 10;
    /// Erase a blob.
    pub const BLOB_DELETE: u8 = 11;
    /// Kept for: how many messages wait.
    pub const INFO: u8 = 12;
    /// Kept for: refuse writers for a while.
    pub const SUSPEND: u8 = 13;
    /// Kept for: accept writers again.
    pub const RESUME: u8 = 14;
    /// Kept for: prolong a queue's life.
    pub const EXTEND: u8 = 15;
    /// All of them.
    pub const ALL: &[u8] = &[
        CREATE,
        SECURE,
        SEND,
        SUBSCRIBE,
        FETCH,
        ACK,
        DELETE,
        BLOB_PUT,
        BLOB_GET,
        ECHO,
        BLOB_DELETE,
        INFO,
        SUSPEND,
        RESUME,
        EXTEND,
    ];
}

/// Answers of a queue relay.
pub mod answer {
    /// Done, or had been done already by the same command.
    pub const OK: u8 = 0;
    /// A message of the queue.
    pub const MESSAGE: u8 = 1;
    /// No message after the one named.
    pub const EMPTY: u8 = 2;
    /// A blob.
    pub const BLOB: u8 = 3;
    /// The queue holds as many messages as it may.
    pub const FULL: u8 = 16;
    /// The relay has no space left for messages.
    pub const NO_SPACE: u8 = 17;
    /// The queue's or blob's life is over.
    pub const EXPIRED: u8 = 18;
    /// The queue's reader has suspended it.
    pub const SUSPENDED: u8 = 19;
    /// The queue or blob was deleted.
    pub const GONE: u8 = 20;
    /// No such capability; or it doesn't permit this. Both look the same.
    pub const BAD_CAPABILITY: u8 = 21;
    /// Another writer secured the queue, or another reader took the blob, first.
    pub const TAKEN: u8 = 22;
    /// The sequence number lies behind the window or too far ahead.
    pub const OUT_OF_WINDOW: u8 = 23;
    /// The same id is in use with other content.
    pub const CONFLICT: u8 = 24;
    /// The relay does not know this command.
    pub const UNSUPPORTED: u8 = 25;
    /// The command does not parse.
    pub const MALFORMED: u8 = 26;
    /// The relay has too much to do: try again later.
    pub const BUSY: u8 = 27;
    /// The relay admits no new queue without more (a password, a puzzle).
    pub const NOT_ADMITTED: u8 = 28;
    /// The relay's operator is retiring it: move the queue.
    pub const RETIRING: u8 = 29;
    /// All of them.
    pub const ALL: &[u8] = &[
        OK,
        MESSAGE,
        EMPTY,
        BLOB,
        FULL,
        NO_SPACE,
        EXPIRED,
        SUSPENDED,
        GONE,
        BAD_CAPABILITY,
        TAKEN,
        OUT_OF_WINDOW,
        CONFLICT,
        UNSUPPORTED,
        MALFORMED,
        BUSY,
        NOT_ADMITTED,
        RETIRING,
    ];
}

/// Control frames on a link.
pub mod frame {
    /// Attach an inbox.
    pub const ATTACH: u8 = 1;
    /// The inbox is attached.
    pub const ATTACHED: u8 = 2;
    /// Nothing more will come.
    pub const GOODBYE: u8 = 3;
    /// All of them.
    pub const ALL: &[u8] = &[ATTACH, ATTACHED, GOODBYE];
}

/// Requests to an authority and their answers.
pub mod directory {
    /// Post a descriptor.
    pub const POST_DESCRIPTOR: u8 = 1;
    /// The newest consensus.
    pub const GET_CONSENSUS: u8 = 2;
    /// The mix keys of a key epoch, by hash.
    pub const GET_MIX_KEYS: u8 = 3;
    /// Descriptors, by hash (between authorities).
    pub const GET_DESCRIPTOR: u8 = 4;
    /// A vote (between authorities).
    pub const VOTE: u8 = 5;
    /// An echo of the votes seen (between authorities).
    pub const ECHO: u8 = 6;
    /// A signature under a consensus (between authorities).
    pub const SIGNATURE: u8 = 7;
    /// A vote, by hash (between authorities).
    pub const GET_VOTE: u8 = 8;
    /// All requests.
    pub const ALL: &[u8] =
        &[POST_DESCRIPTOR, GET_CONSENSUS, GET_MIX_KEYS, GET_DESCRIPTOR, VOTE, ECHO, SIGNATURE, GET_VOTE];
    /// Answer: accepted, or here it is.
    pub const OK: u8 = 0;
    /// Answer: there is none.
    pub const NONE: u8 = 1;
    /// Answer: refused; a coarse reason follows.
    pub const REFUSED: u8 = 2;
}

/// Why an authority refuses, coarsely.
pub mod refusal {
    /// The request doesn't parse.
    pub const MALFORMED: u8 = 1;
    /// A signature or certificate isn't valid, or the clock is off.
    pub const UNTRUSTED: u8 = 2;
    /// A newer one is held.
    pub const OUTDATED: u8 = 3;
    /// Too many requests: try again later.
    pub const BUSY: u8 = 4;
    /// No room for another relay.
    pub const FULL: u8 = 5;
    /// The authority's policy doesn't admit the relay's addresses.
    pub const ADDRESS: u8 = 6;
    /// Only authorities may ask this.
    pub const NOT_AUTHORITY: u8 = 7;
    /// The round is over, or hasn't begun.
    pub const ROUND: u8 = 8;
    /// The request is of a later version.
    pub const UNSUPPORTED: u8 = 9;
    /// All of them.
    pub const ALL: &[u8] = &[MALFORMED, UNTRUSTED, OUTDATED, BUSY, FULL, ADDRESS, NOT_AUTHORITY, ROUND, UNSUPPORTED];
}

/// What a certificate permits its signing key.
pub mod certificate {
    /// To sign a relay's descriptors.
    pub const RELAY: u8 = 1;
    /// To sign an authority's votes, echoes and consensuses.
    pub const AUTHORITY: u8 = 2;
    /// All of them.
    pub const ALL: &[u8] = &[RELAY, AUTHORITY];
}

/// Places on a path.
pub mod position {
    /// None in this key epoch.
    pub const NONE: u8 = 0;
    /// First and last: entry and queues.
    pub const EDGE: u8 = 1;
    /// Second.
    pub const MIX1: u8 = 2;
    /// Third.
    pub const MIX2: u8 = 3;
    /// All of them.
    pub const ALL: &[u8] = &[NONE, EDGE, MIX1, MIX2];
}

/// Parameters of the network in the consensus.
pub mod parameter {
    /// Length of an epoch, in milliseconds.
    pub const EPOCH_MS: u16 = 1;
    /// Length of a key epoch, in milliseconds.
    pub const KEY_EPOCH_MS: u16 = 2;
    /// 1 if private and loopback addresses are allowed: test networks only.
    pub const RESERVED_NETWORKS: u16 = 3;
    /// Mean delay at a hop in microseconds: `fast`.
    pub const FAST_HOP_DELAY_US: u16 = 16;
    /// Mean delay at a hop in microseconds: `mixed`.
    pub const MIXED_HOP_DELAY_US: u16 = 17;
    /// Mean delay at a hop in microseconds: `steady`.
    pub const STEADY_HOP_DELAY_US: u16 = 18;
    /// Mean time between a client's scheduled packets in microseconds, 0 for no schedule: `fast`.
    pub const FAST_SEND_INTERVAL_US: u16 = 24;
    /// Mean time between a client's scheduled packets in microseconds: `mixed`.
    pub const MIXED_SEND_INTERVAL_US: u16 = 25;
    /// Time between a client's scheduled packets in microseconds: `steady`.
    pub const STEADY_SEND_INTERVAL_US: u16 = 26;
    /// Shortest life of a message that a relay may be set to, in milliseconds.
    pub const MESSAGE_TTL_MIN_MS: u16 = 32;
    /// Longest life of a message that a relay may be set to, in milliseconds.
    pub const MESSAGE_TTL_MAX_MS: u16 = 33;
    /// All of them.
    pub const ALL: &[u16] = &[
        EPOCH_MS,
        KEY_EPOCH_MS,
        RESERVED_NETWORKS,
        FAST_HOP_DELAY_US,
        MIXED_HOP_DELAY_US,
        STEADY_HOP_DELAY_US,
        FAST_SEND_INTERVAL_US,
        MIXED_SEND_INTERVAL_US,
        STEADY_SEND_INTERVAL_US,
        MESSAGE_TTL_MIN_MS,
        MESSAGE_TTL_MAX_MS,
    ];
}

/// What is inside a sealed box of a conversation.
pub mod content {
    /// A message of the application.
    pub const MESSAGE: u8 = 1;
    /// Everything up to a number has been stored by the receiver.
    pub const RECEIPT: u8 = 2;
    /// The joining side's queues.
    pub const QUEUES: u8 = 3;
    /// All of them.
    pub const ALL: &[u8] = &[MESSAGE, RECEIPT, QUEUES];
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn no_number_stands_for_two_things() {
        for all in [
            super::hop::ALL,
            super::command::ALL,
            super::answer::ALL,
            super::frame::ALL,
            super::directory::ALL,
            super::content::ALL,
            super::refusal::ALL,
            super::certificate::ALL,
            super::position::ALL,
        ] {
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }
}
