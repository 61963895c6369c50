//! From a passphrase to the master key: the first page of the file `keys`.
//!
//! ```text
//! 0            16           18          22        26        30     62        70      82               130     162
//! | magic      | format u16 | memory u32 | passes u32 | lanes u32 | salt | count u64 | nonce | sealed master key | check |
//! ```
//! The master key is random and sealed by AES-256-GCM under Argon2id of the passphrase and the salt; everything before
//! the nonce is bound to it. So a new passphrase rewrites this page and nothing else. `check` is a plain hash: a page
//! that it fits and that doesn't open means a wrong passphrase; one that it doesn't fit is damaged.

use argon2::{Algorithm, Argon2, Params, Version};
use posta_protocol::codec::{Reader, Writer};
use posta_protocol::crypto::{self, local};
use posta_protocol::error::Malformed;
use posta_protocol::secret::Secret;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::StoreError;

const MAGIC: &[u8; 16] = b"posta client key";
/// The layout of the file `keys`.
const FORMAT: u16 = 1;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Memory of one derivation in KiB, as far as a header may ask for: 1 GiB.
const MAX_MEMORY: u32 = 1 << 20;
/// And at least: 8 MiB.
const MIN_MEMORY: u32 = 8 << 10;
/// Passes over that memory, at most.
const MAX_PASSES: u32 = 64;

/// What one guess at the passphrase costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Cost {
    /// For tests: the least that is taken.
    pub const LEAST: Self = Self { memory: MIN_MEMORY, passes: 1 };
}

impl Default for Cost {
    /// RFC 9106's second recommendation, in one lane: 64 MiB and 3 passes, a fifth of a second.
    fn default() -> Self {
        Self { memory: 64 << 10, passes: 3 }
    }
}

/// One header, as it stands in the file.
pub(super) struct Header {
    cost: Cost,
    salt: [u8; 32],
    /// Raised with every change: the newer one of two copies counts.
    pub(super) count: u64,
    nonce: [u8; NONCE_LEN],
    sealed: [u8; 32],
    tag: [u8; TAG_LEN],
}

impl Header {
    /// A header that gives this master key to who knows the passphrase.
    pub(super) fn seal(
        passphrase: &[u8],
        cost: Cost,
        master: &Secret<32>,
        count: u64,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, StoreError> {
        let mut header = Self { cost, salt: [0; 32], count, nonce: [0; 12], sealed: *master.expose(), tag: [0; 16] };
        rng.fill_bytes(&mut header.salt);
        rng.fill_bytes(&mut header.nonce);
        let key = header.derive(passphrase)?;
        let bound = header.bound();
        header.tag =
            crypto::seal(key.expose(), header.nonce, &bound, &mut header.sealed).map_err(|_| StoreError::Memory)?;
        Ok(header)
    }

    /// The master key.
    pub(super) fn open(&self, passphrase: &[u8]) -> Result<Secret<32>, StoreError> {
        let key = self.derive(passphrase)?;
        let mut master = Zeroizing::new(self.sealed);
        crypto::open(key.expose(), self.nonce, &self.bound(), master.as_mut_slice(), &self.tag)
            .map_err(|_| StoreError::WrongPassphrase)?;
        Ok(Secret::new(*master))
    }

    pub(super) const fn cost(&self) -> Cost {
        self.cost
    }

    /// For tests: the same header, asking for something else.
    #[cfg(test)]
    pub(super) const fn with_cost(self, cost: Cost) -> Self {
        Self { cost, ..self }
    }

    fn derive(&self, passphrase: &[u8]) -> Result<Secret<32>, StoreError> {
        let params = Params::new(self.cost.memory, self.cost.passes, 1, Some(32)).map_err(|_| StoreError::Memory)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, &self.salt, key.as_mut_slice())
            .map_err(|_| StoreError::Memory)?;
        Ok(Secret::new(*key))
    }

    fn bound(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(70);
        w.bytes(MAGIC);
        w.u16(FORMAT);
        w.u32(self.cost.memory);
        w.u32(self.cost.passes);
        w.u32(1);
        w.bytes(&self.salt);
        w.u64(self.count);
        w.finish()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.bound();
        for part in [self.nonce.as_slice(), &self.sealed, &self.tag] {
            bytes.extend_from_slice(part);
        }
        let check = crypto::hash(local::STORE_CHECK, &bytes);
        bytes.extend_from_slice(&check.0);
        bytes
    }

    /// Reads a header. What it asks for is bounded before anything is derived.
    pub(super) fn decode(page: &[u8]) -> Result<Self, StoreError> {
        const DAMAGED: StoreError = StoreError::Damaged("its keys");
        let mut r = Reader::new(page);
        let mut parse = || -> Result<(Self, u16), Malformed> {
            let magic: [u8; 16] = r.array("magic")?;
            let format = r.u16("format")?;
            if magic != *MAGIC {
                return Err(Malformed::Value("magic"));
            }
            let cost = Cost { memory: r.u32("memory")?, passes: r.u32("passes")? };
            let lanes = r.u32("lanes")?;
            let header = Self {
                cost,
                salt: r.array("salt")?,
                count: r.u64("count")?,
                nonce: r.array("nonce")?,
                sealed: r.array("key")?,
                tag: r.array("tag")?,
            };
            let bounds = (MIN_MEMORY..=MAX_MEMORY).contains(&cost.memory) && (1..=MAX_PASSES).contains(&cost.passes);
            if format == FORMAT && (lanes != 1 || !bounds) {
                return Err(Malformed::Value("cost"));
            }
            Ok((header, format))
        };
        let (header, format) = parse().map_err(|_| DAMAGED)?;
        if format != FORMAT {
            return Err(StoreError::Newer);
        }
        let check: [u8; 32] = r.array("check").map_err(|_| DAMAGED)?;
        let encoded = header.encode();
        if encoded.last_chunk() == Some(&check) { Ok(header) } else { Err(DAMAGED) }
    }
}
