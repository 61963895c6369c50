//! Every size, limit and duration of the protocol, each with its reason. The specification names these constants.

use core::time::Duration;

/// The protocol version that this code speaks; in the consensus, the hop keys, every link's hello and the ALPN.
pub const PROTOCOL_VERSION: u16 = 1;

// ---- the packet ------------------------------------------------------------------------------------------------

/// An X-Wing ciphertext: 1,088 bytes of ML-KEM-768, 32 of X25519.
pub const KEM_CIPHERTEXT_LEN: usize = 1120;
/// An X-Wing public key: 1,184 bytes of ML-KEM-768, 32 of X25519.
pub const KEM_PUBLIC_KEY_LEN: usize = 1216;
/// An X-Wing secret key is its seed.
pub const KEM_SEED_LEN: usize = 32;
/// Randomness of one X-Wing encapsulation: 32 bytes for ML-KEM, 32 for X25519.
pub const KEM_ENCAPS_SEED_LEN: usize = 64;
/// AES-256-GCM tag of a hop's routing.
pub const TAG_LEN: usize = 16;
/// A command block: one kind byte and at most 32 + 16 bytes of operands, the rest uniformly random.
pub const COMMAND_BLOCK_LEN: usize = 64;
/// A routing slot: a command block, then the next hop's tag and ciphertext.
pub const SLOT_LEN: usize = COMMAND_BLOCK_LEN + TAG_LEN + KEM_CIPHERTEXT_LEN;
/// The left half of the payload's wide block; 32 zero bytes in front of a forward payload.
pub const PAYLOAD_CHECK_LEN: usize = 32;
/// Content of a packet of the default geometry: a `send` with a box of a conversation and one reply block fits.
pub const DEFAULT_PAYLOAD_LEN: usize = 16 * 1024;
/// Hops of the default geometry: guard edge, two mixes, queue edge.
pub const DEFAULT_HOPS: usize = 4;
/// No geometry has more hops: a header of eight is 9.1 KB.
pub const MAX_HOPS: usize = 8;
/// No geometry carries more payload; bounds what a link peer can make us allocate for one packet.
pub const MAX_PAYLOAD_LEN: usize = 64 * 1024;
/// Longest delay that a packet can ask of a hop: far beyond the 1 - 1e-12 quantile of every profile.
pub const MAX_HOP_DELAY: Duration = Duration::from_secs(600);

// ---- queues ----------------------------------------------------------------------------------------------------

/// A capability: 32 random bytes, one kind for the reader, one for the writer.
pub const CAPABILITY_LEN: usize = 32;
/// Reply blocks that one `subscribe` carries: as many as fit the default payload.
pub const MAX_SUBSCRIBE_SURBS: usize = 3;
/// Reply blocks that a relay keeps for one queue; more replace the oldest.
pub const MAX_QUEUE_SURBS: usize = 8;
/// Messages that a queue holds by default; over it the writer gets `full`.
pub const DEFAULT_QUEUE_QUOTA: u32 = 128;
/// Sequence numbers behind the newest accepted one that a queue still tells apart.
pub const SEQUENCE_WINDOW: u64 = 64;
/// Messages that a contact queue holds by default: requests that wait for their owner.
pub const DEFAULT_CONTACT_QUOTA: u32 = 32;
/// Messages that a bulk queue holds by default: 512 boxes are about 5.6 MB of a file.
pub const DEFAULT_BULK_QUOTA: u32 = 512;
/// How far ahead of the highest accepted number a message may be. More is a writer gone wrong. No queue carries so many
/// messages in its life: one that a restored relay lacks is made again, and goes on at its writer's number.
pub const MAX_SEQUENCE_AHEAD: u64 = 1 << 40;
/// Longest mean time between two replies that a reader can ask for; more counts as this.
pub const MAX_PACE: Duration = Duration::from_secs(600);
/// A message sent to its reader and not acknowledged is sent again when a reply block is there after this time.
pub const RESEND_AFTER: Duration = Duration::from_secs(10);
/// Ids of its latest messages that a contact queue remembers, so that one sent again isn't stored twice.
pub const CONTACT_WINDOW: usize = 64;
/// A message not fetched within this time is erased.
pub const DEFAULT_MESSAGE_TTL: Duration = Duration::from_secs(21 * 24 * 3600);
/// Shortest life of messages that a relay may be set to, unless the consensus sets it: a day.
pub const DEFAULT_MESSAGE_TTL_MIN: Duration = Duration::from_secs(24 * 3600);
/// A bulk queue's message not fetched within this time is erased: 3 days.
pub const DEFAULT_BULK_TTL: Duration = Duration::from_secs(3 * 24 * 3600);
/// A queue not used within this time is erased.
pub const DEFAULT_QUEUE_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// Shortest life of an unused queue that a relay may be set to, unless the consensus sets it: longer than its messages.
pub const DEFAULT_QUEUE_TTL_MIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest, unless the consensus sets it: a year.
pub const DEFAULT_QUEUE_TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Longest life of a blob (an invitation): 30 days.
pub const MAX_BLOB_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// A sealed message box as a queue holds it. A `send` with one reply block fits the default payload:
/// 11,264 + 4,872 (reply block) + its few fixed bytes < 16,384.
pub const BOX_LEN: usize = 11 * 1024;
/// A blob as a relay holds it; every blob is padded to this length.
pub const BLOB_LEN: usize = 8 * 1024;

/// Longest password that a relay's operator can ask for.
pub const MAX_PASSWORD_LEN: usize = 64;
/// Seed of a puzzle.
pub const PUZZLE_SEED_LEN: usize = 16;
/// Most leading zero bits that a puzzle asks for: days of one core. A client refuses to begin on more.
pub const MAX_PUZZLE_EFFORT: u8 = 40;
/// How long a puzzle's seed is handed out; its solutions are taken for as long again.
pub const PUZZLE_SEED_LIFE: Duration = Duration::from_secs(3600);

// ---- end to end ------------------------------------------------------------------------------------------------

/// Nonce of the sealing of one box: random, in front of it.
pub const BOX_NONCE_LEN: usize = 12;
/// What fits one sealed box: the box less nonce, tag and a length.
pub const BOX_CONTENT_LEN: usize = BOX_LEN - BOX_NONCE_LEN - TAG_LEN - 4;
/// What stands around a content in a box, at most: 13 bytes of the inner layer, about 150 of MLS.
pub const INNER_OVERHEAD: usize = 256;
/// Longest MLS key package in an invitation.
pub const MAX_KEY_PACKAGE_LEN: usize = 4096;
/// Length of an MLS key package of ours.
pub const MLS_KEY_PACKAGE_LEN: usize = 2638;
/// Length of a welcome to a group of two.
pub const MLS_WELCOME_LEN: usize = 5415;
/// Length of a commit in a group of two.
pub const MLS_COMMIT_LEN: usize = 3938;
/// What MLS adds to a content; to one of less than 64 bytes one byte less.
pub const MLS_OVERHEAD: usize = 146;
/// MLS epochs before the current one whose messages are still read.
pub const PAST_EPOCHS: usize = 5;
/// A side makes no turn while a message of its own from further back than this many epochs is not delivered. Until it
/// has made one, the other side can only make one itself: such a message is never more than [`PAST_EPOCHS`] behind.
pub const TURN_LAG: u64 = 2;
/// MLS messages of one sender and epoch that may be overtaken by a later one and are still read after it.
pub const OVERTAKEN: u32 = 1024;
/// MLS messages of one sender and epoch that may be passed over at once.
pub const PASSED_OVER: u32 = 2048;
/// A side sends no receipts while a message of its own is not delivered that was sealed this many MLS messages ago:
/// with an outbox of messages beyond, it is never overtaken by more than [`OVERTAKEN`].
pub const RECEIPT_LAG: u64 = 512;
/// Queues of each direction of a contact, on relays of different operators.
pub const QUEUES_PER_DIRECTION: usize = 2;
/// Boxes of one queue that its relay has not confirmed, at most: well within [`SEQUENCE_WINDOW`].
pub const SEND_WINDOW: u64 = 32;
/// Messages that came ahead of a missing one and wait for it; beyond, they stay at the relay.
pub const REORDER_WINDOW: u64 = 256;
/// Edges that a client samples, of which it uses one, or two.
pub const SAMPLED_GUARDS: usize = 3;
/// Hours for which an invitation can be followed.
pub const INVITATION_HOURS: u16 = 24;

// ---- profiles --------------------------------------------------------------------------------------------------

/// Mean delay at a hop in `mixed`, unless the consensus sets it.
pub const DEFAULT_MIXED_HOP_DELAY: Duration = Duration::from_secs(1);
/// Mean delay at a hop in `steady`, unless the consensus sets it.
pub const DEFAULT_STEADY_HOP_DELAY: Duration = Duration::from_secs(1);
/// Mean time between a client's scheduled packets in `mixed`, unless the consensus sets it.
pub const DEFAULT_MIXED_SEND_INTERVAL: Duration = Duration::from_secs(10);
/// Time between a client's scheduled packets in `steady`, unless the consensus sets it.
pub const DEFAULT_STEADY_SEND_INTERVAL: Duration = Duration::from_secs(5);
/// Mean delays of clients are at most this: [`MAX_HOP_DELAY`] then cuts less than 1e-12 of their distribution, which lies
/// beyond 27.6 means.
pub const MAX_MEAN_HOP_DELAY: Duration = Duration::from_secs(21);
/// Packets that an entry hands to a client of `mixed` or `steady` in the time in which the client sends one: with one
/// reply to each, half of them are replies, and few have to wait.
pub const DOWNLINK_PER_UPLINK: u32 = 2;
/// Shortest mean time between two packets to a client, whatever the consensus sets.
pub const MIN_DOWNLINK_INTERVAL: Duration = Duration::from_millis(1);
/// A client that has sent nothing for so many of its intervals is handed nothing that isn't for it: an entry's cover
/// costs whoever asks for it a packet for every few.
pub const COVER_PATIENCE: u32 = 16;
/// What a relay's clock tells apart when it holds packets: due times are rounded up to it, and what is due within it
/// leaves in random order.
pub const DELAY_GRANULARITY: Duration = Duration::from_millis(1);
/// Mean time between two loops of a relay's own, unless the consensus sets it: 1.9 GB a day that it sends for them, and
/// 4 to 7 times that over all relays on their ways.
pub const DEFAULT_RELAY_LOOP_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest mean time between loops that a consensus can set: building one takes a relay half a millisecond.
pub const MIN_RELAY_LOOP_INTERVAL: Duration = Duration::from_millis(10);

// ---- key epochs and time ---------------------------------------------------------------------------------------

/// Key epochs whose mix keys a relay publishes ahead of the current one.
pub const KEY_EPOCHS_AHEAD: u64 = 2;
/// Default length of a key epoch; the consensus sets it.
pub const DEFAULT_KEY_EPOCH: Duration = Duration::from_secs(6 * 3600);
/// Default length of a directory epoch; the consensus sets it.
pub const DEFAULT_EPOCH: Duration = Duration::from_secs(3600);
/// Shortest epoch and key epoch that a consensus can set: guards divisions, and test networks stay above it.
pub const MIN_EPOCH: Duration = Duration::from_millis(100);
/// What is allowed at the ends of a key epoch for clocks and for packets under way is at most this part of it: a tenth.
pub const KEY_EPOCH_MARGIN_DIVISOR: u64 = 10;
/// How far a relay's clock may be off.
pub const RELAY_CLOCK_SKEW: Duration = Duration::from_secs(120);
/// Epochs for which a consensus stays valid after the one it is for.
pub const CONSENSUS_LIFETIME_EPOCHS: u64 = 3;
/// A relay whose descriptor was published more epochs ago than this is left out.
pub const DESCRIPTOR_LIFETIME_EPOCHS: u64 = 3;
/// A mix that as many consensuses in a row leave out, and not more, has its place again with the next one that lists it.
pub const LISTING_GRACE_EPOCHS: u64 = 3;
/// The round for the next epoch begins when this part of the current one is left: a half.
pub const VOTING_STARTS_DIVISOR: u64 = 2;
/// A phase of a round takes this part of an epoch at most: the four of a round fit into its second half.
pub const PHASE_DIVISOR: u64 = 8;
/// And at most this.
pub const MAX_PHASE: Duration = Duration::from_secs(60);
/// Epochs ahead of its own clock for which an authority keeps others' messages.
pub const ROUND_EPOCHS_AHEAD: u64 = 2;

// ---- directory documents ---------------------------------------------------------------------------------------

/// Relays that a consensus can list.
pub const MAX_RELAYS: usize = 20_000;
/// Authorities that a network can have.
pub const MAX_AUTHORITIES: usize = 32;
/// Addresses that a descriptor can carry for one port: IPv4 and IPv6, and a spare of each.
pub const MAX_ADDRESSES: usize = 4;
/// Relays that may share an address.
pub const MAX_RELAYS_PER_ADDRESS: usize = 2;
/// Longest descriptor: three mix keys of 1,216 bytes and some hundred bytes besides.
pub const MAX_DESCRIPTOR_LEN: usize = 8 * 1024;
/// Longest consensus without mix keys: 20,000 relays at about 200 bytes.
pub const MAX_CONSENSUS_LEN: usize = 8 * 1024 * 1024;
/// Longest part of mix keys: 20,000 relays at 1,216 + 32 bytes.
pub const MAX_MIX_KEYS_LEN: usize = 26 * 1024 * 1024;
/// Longest difference between two consensuses, as it travels: what is longer is no better than the whole.
pub const MAX_CONSENSUS_DIFF_LEN: usize = 2 * 1024 * 1024;
/// Bytes that one byte of deflate can become at most: what a difference can make us allocate is bounded by its length.
pub const DEFLATE_MAX_RATIO: usize = 1032;
/// Differences of mix keys that one reply carries, each building on the one before.
pub const MAX_MIX_KEYS_DIFFS: usize = 8;

/// How far a client's clock may be off: it corrects itself by the consensus.
pub const CLIENT_CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Parameters that a consensus can carry.
pub const MAX_PARAMETERS: usize = 256;
/// Extensions that a document can carry: what later versions add and this one passes on.
pub const MAX_EXTENSIONS: usize = 64;
/// Longest extension.
pub const MAX_EXTENSION_LEN: usize = 4 * 1024;
/// Key epochs of which a descriptor can carry mix keys: the current one, those ahead, and one in passing.
pub const MAX_DESCRIPTOR_KEYS: usize = KEY_EPOCHS_AHEAD as usize + 2;
/// Mixes that each layer has at least, unless the consensus sets it.
pub const DEFAULT_LAYER_MIN: u64 = 2;
/// Edges that a network has at least: a client's own, and another one for queues.
pub const MIN_EDGES: usize = 2;
/// Neither layer has less than this part of the mixes, whatever capacity they claim: a third.
pub const LAYER_SMALLEST_PART: usize = 3;
/// Epochs that a key epoch has at least: in one commits are written, in one counted, in one revealed; and one to spare.
pub const MIN_EPOCHS_PER_KEY_EPOCH: u64 = 4;
/// Key epochs for which a consensus assigns layers: the current one and those ahead.
pub const MAX_KEY_EPOCHS: usize = KEY_EPOCHS_AHEAD as usize + 1;
/// Longest vote: 20,000 relays at 72 bytes, and some kilobytes besides.
pub const MAX_VOTE_LEN: usize = 2 * 1024 * 1024;
/// Longest proposal: 32 echoes of 2,283 bytes, and as many votes named.
pub const MAX_PROPOSAL_LEN: usize = 128 * 1024;
/// Longest evidence: two votes, and some bytes besides.
pub const MAX_EVIDENCE_LEN: usize = 2 * MAX_VOTE_LEN + 16;
/// Descriptors that one request between authorities asks for.
pub const MAX_DESCRIPTORS_AT_ONCE: usize = 128;

// ---- links -----------------------------------------------------------------------------------------------------

/// Longest control frame on a link.
pub const MAX_FRAME_LEN: usize = 256;
/// Packet streams each way between relays: a loss on one holds up an eighth of the packets.
pub const LINK_PACKET_STREAMS: usize = 8;
/// Packet streams each way between client and relay: each costs memory that an idle client keeps.
pub const CLIENT_PACKET_STREAMS: usize = 1;
/// Requests that a peer may have open at once on a directory connection.
pub const REQUESTS_AT_ONCE: u32 = 8;
/// How long a new connection may take to become a link.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take, from its first byte to the reply's last.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(900);
/// How long a request or a reply may take to pass.
pub const TRANSFER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that must go over a connection within [`TRANSFER_TIMEOUT`], or a transfer has failed.
pub const LEAST_PROGRESS: u64 = 16 * 1024;
/// Silence after which a relay counts as gone.
pub const LINK_IDLE: Duration = Duration::from_secs(6);
/// How often an otherwise silent link says that it lives: two may get lost.
pub const LINK_KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Silence after which a client, or its entry, counts as gone.
pub const CLIENT_IDLE: Duration = Duration::from_secs(30);
/// How often a silent client says that it lives; the entry doesn't, it has too many clients.
pub const CLIENT_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Silence after which the other end of a directory connection counts as gone.
pub const DIRECTORY_IDLE: Duration = Duration::from_secs(15);
/// How often the dialler of a directory connection says that it lives, while it waits.
pub const DIRECTORY_KEEP_ALIVE: Duration = Duration::from_secs(5);
