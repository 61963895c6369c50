//! Invitations as somebody else sees them.

use posta_protocol::end_to_end::QueueAddress;
use posta_protocol::ids::{BlobId, RelayId};
use posta_protocol::invitation::Offer;
use posta_protocol::secret::Secret;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::World;

impl World {
    /// The invitation that a relay holds, for one who knows the link.
    pub(crate) fn blob(&self, id: &BlobId) -> Option<&[u8]> {
        self.relays.iter().find_map(|r| r.blobs.get(id)).map(|b| &*b.body)
    }

    /// The documents of another network.
    pub(crate) fn foreign_link() -> String {
        let rng = &mut ChaCha20Rng::seed_from_u64(99);
        let address = QueueAddress { relay: RelayId([9; 32]), invited: Secret::random(rng), key: Secret::random(rng) };
        Offer::new(vec![address], Vec::new(), rng).link([RelayId([9; 32]), RelayId([8; 32])]).to_text()
    }
}
