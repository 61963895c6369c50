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
    /// A descriptor, by hash (between authorities).
    pub const GET_DESCRIPTOR: u8 = 4;
    /// A vote (between authorities).
    pub const VOTE: u8 = 5;
    /// An echo of the votes seen (between authorities).
    pub const ECHO: u8 = 6;
    /// A signature under a consensus (between authorities).
    pub const SIGNATURE: u8 = 7;
    /// All requests.
    pub const ALL: &[u8] = &[POST_DESCRIPTOR, GET_CONSENSUS, GET_MIX_KEYS, GET_DESCRIPTOR, VOTE, ECHO, SIGNATURE];
    /// Answer: accepted, or here it is.
    pub const OK: u8 = 0;
    /// Answer: there is none.
    pub const NONE: u8 = 1;
    /// Answer: refused; a coarse reason follows.
    pub const REFUSED: u8 = 2;
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
        ] {
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        }
    }
}
