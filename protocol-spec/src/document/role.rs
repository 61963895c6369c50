//! What a relay offers to be, and where on a path it stands.

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::registry::{position as code, role};

/// What a relay offers. One that offers both serves as an edge, because its queues can't move with the key epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Entry for clients, and queues.
    pub edge: bool,
    /// Mixing in the middle of paths.
    pub mix: bool,
    /// It goes soon: an edge that takes no new queues and guards no new clients. What it has is still reached.
    pub retiring: bool,
}

impl Roles {
    /// Entry and queues.
    pub const EDGE: Self = Self { edge: true, mix: false, retiring: false };
    /// Mixing.
    pub const MIX: Self = Self { edge: false, mix: true, retiring: false };

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        match r.u8("roles")? {
            flags if flags > role::EDGE | role::MIX | role::RETIRING => Err(Malformed::Value("roles")),
            flags => {
                let roles = Self {
                    edge: flags & role::EDGE != 0,
                    mix: flags & role::MIX != 0,
                    retiring: flags & role::RETIRING != 0,
                };
                // Nothing at all, or a mix that retires: it would have nothing to keep for anybody.
                if roles.edge || (roles.mix && !roles.retiring) { Ok(roles) } else { Err(Malformed::Value("roles")) }
            }
        }
    }

    pub(super) fn write(self, w: &mut Writer) {
        w.u8((u8::from(self.edge) * role::EDGE)
            | (u8::from(self.mix) * role::MIX)
            | (u8::from(self.retiring) * role::RETIRING));
    }
}

/// A relay's place on paths, in one key epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// First and last: the client's entry, and the queues.
    Edge,
    /// The first mix.
    Mix1,
    /// The second mix.
    Mix2,
}

impl Position {
    /// All of them, in the order of a path.
    pub const ALL: [Self; 3] = [Self::Edge, Self::Mix1, Self::Mix2];

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        match r.u8("position")? {
            code::NONE => Ok(None),
            code::EDGE => Ok(Some(Self::Edge)),
            code::MIX1 => Ok(Some(Self::Mix1)),
            code::MIX2 => Ok(Some(Self::Mix2)),
            _ => Err(Malformed::Value("position")),
        }
    }

    pub(super) fn write(position: Option<Self>, w: &mut Writer) {
        w.u8(match position {
            None => code::NONE,
            Some(Self::Edge) => code::EDGE,
            Some(Self::Mix1) => code::MIX1,
            Some(Self::Mix2) => code::MIX2,
        });
    }
}

/// Whether a packet may go from one place to the other: edge → mix 1 → mix 2 → edge, and nothing else.
#[must_use]
pub const fn legal(from: Position, to: Position) -> bool {
    matches!(
        (from, to),
        (Position::Edge, Position::Mix1) | (Position::Mix1, Position::Mix2) | (Position::Mix2, Position::Edge)
    )
}
