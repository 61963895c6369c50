//! Every number that stands for something on the wire. A retired number is listed and never used again.

/// A module of constants, and `ALL`, which can't miss one.
macro_rules! numbers {
    ($(#[$doc:meta])* $module:ident: $int:ty { $($(#[$item:meta])* $name:ident = $number:literal,)* }) => {
        $(#[$doc])*
        pub mod $module {
            $($(#[$item])* pub const $name: $int = $number;)*
            /// All of them, by the name of the constant.
            pub const ALL: &[(&str, $int)] = &[$((stringify!($name), $name)),*];
        }
    };
}

numbers! {
    /// Command blocks in a packet's routing.
    hop: u8 {
        /// Pass the packet on to a relay after a delay.
        FORWARD = 1,
        /// The payload is for this relay's queue service.
        QUEUE = 2,
        /// The payload is for a client's inbox at this relay.
        INBOX = 3,
        /// Drop the packet: cover made by a relay for itself.
        DROP = 4,
    }
}

numbers! {
    /// Queue commands.
    command: u8 {
        /// Make a queue.
        CREATE = 1,
        /// Replace the invited writer capability by the writer's own.
        SECURE = 2,
        /// Put a message in.
        SEND = 3,
        /// Hand over reply blocks for what is there and what will come.
        SUBSCRIBE = 4,
        /// Read the next message.
        FETCH = 5,
        /// Erase everything up to a sequence number.
        ACK = 6,
        /// Erase the queue.
        DELETE = 7,
        /// Keep a blob.
        BLOB_PUT = 8,
        /// Read a blob.
        BLOB_GET = 9,
        /// Answer, and do nothing else: loops and reachability.
        ECHO = 10,
        /// Erase a blob.
        BLOB_DELETE = 11,
        /// Say how a queue stands.
        INFO = 12,
        /// Refuse writers until `RESUME`.
        SUSPEND = 13,
        /// Accept writers again.
        RESUME = 14,
        /// Count the time for which a queue is unused anew.
        EXTEND = 15,
        /// Put a message into a contact queue.
        CONTACT_SEND = 16,
    }
}

numbers! {
    /// Answers of a queue relay.
    answer: u8 {
        /// Done, or had been done already by the same command.
        OK = 0,
        /// A message of the queue.
        MESSAGE = 1,
        /// No message after the one named.
        EMPTY = 2,
        /// A blob.
        BLOB = 3,
        /// Stored in a bulk queue, and how much more it takes.
        STORED = 4,
        /// How a queue stands.
        INFO = 5,
        /// The queue holds as many messages as it may.
        FULL = 16,
        /// The relay has no space left for messages.
        NO_SPACE = 17,
        /// The queue's or blob's life is over.
        EXPIRED = 18,
        /// The queue's reader has suspended it.
        SUSPENDED = 19,
        /// The queue or blob was deleted.
        GONE = 20,
        /// No such capability; or it doesn't permit this. Both look the same.
        BAD_CAPABILITY = 21,
        /// Another writer secured the queue, or another reader took the blob, first.
        TAKEN = 22,
        /// The sequence number lies behind the window or too far ahead.
        OUT_OF_WINDOW = 23,
        /// The same id is in use with other content.
        CONFLICT = 24,
        /// The relay does not know this command.
        UNSUPPORTED = 25,
        /// The command does not parse.
        MALFORMED = 26,
        /// The relay has too much to do: try again later.
        BUSY = 27,
        /// The relay admits no new queue without more (a password, a puzzle).
        NOT_ADMITTED = 28,
        /// The relay's operator is retiring it: move the queue.
        RETIRING = 29,
    }
}

numbers! {
    /// Kinds of queues.
    queue: u8 {
        /// One writer, one reader: a conversation.
        PLAIN = 0,
        /// Many writers, each `CONTACT_SEND` with a proof: reusable invitations.
        CONTACT = 1,
        /// One writer, one reader, many messages for a short time: files.
        BULK = 2,
    }
}

numbers! {
    /// What a relay asks for, and what is shown to it, before it makes a queue or takes a contact's message.
    admission: u8 {
        /// Nothing.
        OPEN = 0,
        /// The operator's password.
        PASSWORD = 1,
        /// The solution of a puzzle.
        PUZZLE = 2,
    }
}

numbers! {
    /// Bits of the flags in an `info` answer.
    info: u8 {
        /// A writer has secured the queue.
        SECURED = 1,
        /// The reader has suspended it.
        SUSPENDED = 2,
        /// The relay's operator is retiring the relay: move the queue.
        RETIRING = 4,
    }
}

numbers! {
    /// Control frames on a link.
    frame: u8 {
        /// Attach an inbox.
        ATTACH = 1,
        /// The inbox is attached.
        ATTACHED = 2,
        /// Nothing more will come.
        GOODBYE = 3,
        /// Hand out replies as this profile wants it.
        PACE = 4,
    }
}

numbers! {
    /// Profiles, as clients name theirs to their entry.
    profile: u8 {
        /// No delay, no cover.
        FAST = 0,
        /// Exponential delays, packets at times of a Poisson process.
        MIXED = 1,
        /// Exponential delays, packets at a constant rate.
        STEADY = 2,
    }
}

numbers! {
    /// First byte of each stream that a side of a link opens.
    stream: u8 {
        /// The hello, then control frames.
        CONTROL = 1,
        /// Packets.
        PACKETS = 2,
    }
}

numbers! {
    /// Why a connection was closed, as QUIC's application error code.
    close: u32 {
        /// In order.
        DONE = 0,
        /// The peer broke the framing or sent too much.
        BREACH = 1,
        /// The hello names another version or geometry.
        MISMATCH = 2,
    }
}

numbers! {
    /// Kinds of evidence: two signed things that exclude each other.
    evidence: u8 {
        /// Two consensuses for one epoch, each signed by enough authorities.
        CONSENSUSES = 1,
        /// Two votes of one authority in one round.
        VOTES = 2,
        /// Signatures of one authority under two headers for one epoch.
        SIGNATURES = 3,
    }
}

numbers! {
    /// How many of the loops through a relay come back.
    reliability: u8 {
        /// So few that paths avoid it.
        FLAGGED = 1,
        /// Nobody can say yet.
        UNMEASURED = 2,
        /// Fewer than usual.
        FAIR = 3,
        /// As many as usual.
        GOOD = 4,
    }
}

numbers! {
    /// How fast loops through a relay come back.
    speed: u8 {
        /// Much slower than usual.
        SLOW = 1,
        /// Nobody can say yet.
        UNMEASURED = 2,
        /// As fast as usual.
        USUAL = 3,
    }
}

numbers! {
    /// What became of a vote.
    vote_state: u8 {
        /// It counted.
        COUNTED = 1,
        /// Too few echoed it in time.
        NOT_COUNTED = 2,
        /// Its writer voted twice: none of its votes counted.
        TWICE = 3,
    }
}

numbers! {
    /// Requests to an authority.
    directory: u8 {
        /// Post a descriptor.
        POST_DESCRIPTOR = 1,
        /// The newest consensus.
        GET_CONSENSUS = 2,
        /// The mix keys of a key epoch, by hash.
        GET_MIX_KEYS = 3,
        /// Descriptors, by hash (between authorities).
        GET_DESCRIPTOR = 4,
        /// A vote (between authorities).
        VOTE = 5,
        /// An echo of the votes seen (between authorities).
        ECHO = 6,
        /// A signature under a consensus (between authorities).
        SIGNATURE = 7,
        /// A vote, by hash (between authorities).
        GET_VOTE = 8,
        /// A relay's withdrawal.
        WITHDRAW = 9,
        /// The leader's choice of the votes that count (between authorities).
        PROPOSAL = 10,
        /// What was said in the round that made the newest consensus.
        GET_ROUND = 11,
        /// How the newest consensus differs from an older one, by its hash.
        GET_CONSENSUS_DIFF = 12,
        /// How mix keys differ from older ones, by the hashes of both.
        GET_MIX_KEYS_DIFF = 13,
        /// To a relay: dial one of my addresses, and say what came of it.
        REACH = 32,
    }
}

numbers! {
    /// What came of dialling a relay's address for it.
    reach: u8 {
        /// The relay answered, with its key.
        REACHED = 0,
        /// Nobody answered in time.
        SILENT = 1,
        /// Somebody else answered, or whoever did refused.
        OTHER = 2,
        /// Who was asked has no address of that kind itself.
        UNABLE = 3,
    }
}

numbers! {
    /// What a difference gives anew of a relay: one bit each.
    relay_field: u16 {
        /// Its link key.
        LINK_KEY = 1,
        /// Where relays connect.
        LINK_ADDRESSES = 2,
        /// Where clients connect.
        CLIENT_ADDRESSES = 4,
        /// What it offers.
        ROLES = 8,
        /// Its family.
        FAMILY = 16,
        /// Who runs it.
        OPERATOR = 32,
        /// Packets per second.
        CAPACITY = 64,
        /// Since when it is listed.
        LISTED_SINCE = 128,
        /// Protocol versions that it speaks.
        PROTOCOLS = 256,
        /// How well it works.
        CLASS = 512,
    }
}

numbers! {
    /// Answers to a request of the directory.
    directory_answer: u8 {
        /// Accepted, or here it is.
        OK = 0,
        /// There is none.
        NONE = 1,
        /// Refused; a coarse reason follows.
        REFUSED = 2,
    }
}

numbers! {
    /// Why an authority refuses, coarsely.
    refusal: u8 {
        /// The request doesn't parse.
        MALFORMED = 1,
        /// A signature or certificate isn't valid, or the clock is off.
        UNTRUSTED = 2,
        /// A newer one is held.
        OUTDATED = 3,
        /// Too many requests: try again later.
        BUSY = 4,
        /// No room for another relay.
        FULL = 5,
        /// The authority's policy doesn't admit the relay's addresses.
        ADDRESS = 6,
        /// Only authorities may ask this.
        NOT_AUTHORITY = 7,
        /// The round is over, or hasn't begun.
        ROUND = 8,
        /// The request is of a later version.
        UNSUPPORTED = 9,
        /// No difference from that document is at hand: ask for the whole.
        BASE = 10,
        /// The authority's operator does not admit the relay.
        POLICY = 11,
    }
}

numbers! {
    /// What a certificate permits its signing key.
    certificate: u8 {
        /// To sign a relay's descriptors.
        RELAY = 1,
        /// To sign an authority's votes, echoes and consensuses.
        AUTHORITY = 2,
    }
}

numbers! {
    /// Families of addresses.
    family: u8 {
        /// An IPv4 address, 4 bytes.
        IPV4 = 4,
        /// An IPv6 address, 16 bytes.
        IPV6 = 6,
    }
}

numbers! {
    /// Bits of what a relay offers to be.
    role: u8 {
        /// Entry for clients, and queues.
        EDGE = 1,
        /// Mixing in the middle of paths.
        MIX = 2,
        /// Beside `EDGE`: nothing new, for it goes soon. What it has is still reached.
        RETIRING = 4,
    }
}

numbers! {
    /// Places on a path.
    position: u8 {
        /// None in this key epoch.
        NONE = 0,
        /// First and last: entry and queues.
        EDGE = 1,
        /// Second.
        MIX1 = 2,
        /// Third.
        MIX2 = 3,
    }
}

numbers! {
    /// A place in a difference, besides those of `position`.
    diff_place: u8 {
        /// The same as in the consensus that it starts from.
        SAME = 255,
    }
}

numbers! {
    /// What a random value was made of.
    origin: u8 {
        /// Reveals of at least the threshold, and the value before.
        REVEALS = 1,
        /// The commits in the first votes of the network.
        FIRST_VOTES = 2,
        /// The value before alone.
        BEFORE = 3,
    }
}

numbers! {
    /// Parameters of the network in the consensus.
    parameter: u16 {
        /// Length of an epoch, in milliseconds.
        EPOCH_MS = 1,
        /// Length of a key epoch, in milliseconds.
        KEY_EPOCH_MS = 2,
        /// 1 if private and loopback addresses are allowed: test networks only.
        RESERVED_NETWORKS = 3,
        /// Mixes that each layer has at least.
        LAYER_MIN = 4,
        /// The oldest protocol version that the network still takes.
        PROTOCOL_REQUIRED = 5,
        /// The protocol version that everybody should speak.
        PROTOCOL_RECOMMENDED = 6,
        /// Mean delay at a hop in microseconds: `fast`.
        FAST_HOP_DELAY_US = 16,
        /// Mean delay at a hop in microseconds: `mixed`.
        MIXED_HOP_DELAY_US = 17,
        /// Mean delay at a hop in microseconds: `steady`.
        STEADY_HOP_DELAY_US = 18,
        /// Mean time between a client's scheduled packets in microseconds, 0 for no schedule: `fast`.
        FAST_SEND_INTERVAL_US = 24,
        /// Mean time between a client's scheduled packets in microseconds: `mixed`.
        MIXED_SEND_INTERVAL_US = 25,
        /// Time between a client's scheduled packets in microseconds: `steady`.
        STEADY_SEND_INTERVAL_US = 26,
        /// Mean time between two loops of a relay's own in microseconds, 0 for none.
        RELAY_LOOP_INTERVAL_US = 27,
        /// Shortest life of a message that a relay may be set to, in milliseconds.
        MESSAGE_TTL_MIN_MS = 32,
        /// Longest life of a message that a relay may be set to, in milliseconds.
        MESSAGE_TTL_MAX_MS = 33,
        /// Shortest life of an unused queue that a relay may be set to, in milliseconds.
        QUEUE_TTL_MIN_MS = 34,
        /// Longest life of an unused queue that a relay may be set to, in milliseconds.
        QUEUE_TTL_MAX_MS = 35,
    }
}

numbers! {
    /// What is inside a sealed box of a conversation.
    content: u8 {
        /// A message of the application.
        MESSAGE = 1,
        /// Everything up to a number has been stored by the receiver.
        RECEIPT = 2,
        /// The joining side's queues.
        QUEUES = 3,
        /// The conversation begins anew, over the same queues.
        RENEWAL = 4,
        /// A receipt, and a key package by which the conversation can be begun anew.
        KEY_PACKAGE = 5,
        /// A message of the application that both ends forget some time after it was delivered.
        FLEETING = 6,
        /// The queues that the writer reads from now on.
        MOVED = 8,
    }
}

numbers! {
    /// What MLS messages a box of a conversation carries.
    inner: u8 {
        /// An application message.
        MESSAGE = 1,
        /// A commit that asks for one in return, then an application message of the epoch that it begins.
        TURN = 2,
        /// The same as an answer to `TURN` or `WELCOME`: nothing is asked for.
        ANSWER = 3,
        /// The welcome of a joining side, then an application message.
        WELCOME = 4,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    fn distinct<T: Ord + Copy>(all: &[(&str, T)]) -> bool {
        all.iter().map(|(_, number)| number).collect::<BTreeSet<_>>().len() == all.len()
    }

    #[test]
    fn no_number_stands_for_two_things() {
        assert!(distinct(super::hop::ALL), "hop");
        assert!(distinct(super::command::ALL), "command");
        assert!(distinct(super::answer::ALL), "answer");
        assert!(distinct(super::queue::ALL), "queue");
        assert!(distinct(super::admission::ALL), "admission");
        assert!(distinct(super::info::ALL), "info");
        assert!(distinct(super::frame::ALL), "frame");
        assert!(distinct(super::profile::ALL), "profile");
        assert!(distinct(super::stream::ALL), "stream");
        assert!(distinct(super::close::ALL), "close");
        assert!(distinct(super::evidence::ALL), "evidence");
        assert!(distinct(super::vote_state::ALL), "vote_state");
        assert!(distinct(super::directory::ALL), "directory");
        assert!(distinct(super::directory_answer::ALL), "directory_answer");
        assert!(distinct(super::refusal::ALL), "refusal");
        assert!(distinct(super::reach::ALL), "reach");
        assert!(distinct(super::relay_field::ALL), "relay_field");
        assert!(distinct(super::certificate::ALL), "certificate");
        assert!(distinct(super::family::ALL), "family");
        assert!(distinct(super::role::ALL), "role");
        assert!(distinct(super::position::ALL), "position");
        assert!(distinct(super::origin::ALL), "origin");
        assert!(distinct(super::parameter::ALL), "parameter");
        assert!(distinct(super::content::ALL), "content");
        assert!(distinct(super::inner::ALL), "inner");
    }
}
