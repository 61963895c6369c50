//! Which protocol versions somebody speaks.

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::params::PROTOCOL_VERSION;

/// A span of protocol versions. Default: the one of this code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocols {
    /// The oldest one, at least 1.
    pub oldest: u16,
    /// The newest one, at least [`Protocols::oldest`].
    pub newest: u16,
}

impl Default for Protocols {
    fn default() -> Self {
        Self { oldest: PROTOCOL_VERSION, newest: PROTOCOL_VERSION }
    }
}

impl Protocols {
    /// Whether a version is one of them.
    #[must_use]
    pub const fn speaks(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let protocols = Self { oldest: r.u16("protocol versions")?, newest: r.u16("protocol versions")? };
        if protocols.oldest == 0 || protocols.oldest > protocols.newest {
            return Err(Malformed::Value("protocol versions"));
        }
        Ok(protocols)
    }

    pub(super) fn write(self, w: &mut Writer) {
        w.u16(self.oldest);
        w.u16(self.newest);
    }
}

/// How a program stands to what its network asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It speaks what is recommended.
    Current,
    /// It works, and should be replaced by a newer one: this version is recommended.
    Old(u16),
    /// It speaks nothing that the network still takes: this version is required.
    TooOld(u16),
}

impl Standing {
    /// What to tell people; `None` if there is nothing to tell.
    #[must_use]
    pub fn says(self, speaks: Protocols) -> Option<String> {
        let newest = speaks.newest;
        match self {
            Self::Current => None,
            Self::Old(wanted) => Some(format!(
                "this program speaks protocol version {newest} at most, and the network recommends {wanted}: \
                 install a newer version of Posta soon"
            )),
            Self::TooOld(wanted) => Some(format!(
                "this program is too old: it speaks protocol version {newest} at most, and the network requires \
                 {wanted}; install a newer version of Posta"
            )),
        }
    }
}
