//! A contact as records, and what is taken up again after a start.

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::command::{Command, WriterCapability};
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;
use posta_protocol::invitation::{Link, Offer};
use posta_protocol::now::Now;
use posta_protocol::params::{BLOB_LEN, BOX_CONTENT_LEN};
use posta_protocol::secret::Secret;
use zeroize::Zeroizing;

use super::{Blob, Contact, Inviting, JOIN_PATIENCE, Joining, Renewing, Stage};
use crate::end_to_end::Conversation;
use crate::session::core::Core;
use crate::session::event::ContactId;
use crate::session::history::History;
use crate::session::incoming::Incoming;
use crate::session::moves::Moves;
use crate::session::outgoing::Outgoing;
use crate::session::renewal::Renewal;
use crate::session::request::{Purpose, Task};
use crate::session::saved::{Part, Parts, read_failure, write_failure};

/// Characters of a link, at most.
const MAX_LINK: usize = 1024;
/// Copies of an invitation, or relays that a link may mean, at most.
const MAX_COPIES: usize = 64;
/// Bytes of a contact's name, at most.
pub(crate) const MAX_NAME: usize = 64;

impl Contact {
    /// Writes it; for an export, as one whose conversation is to begin anew.
    pub(crate) fn write(&self, w: &mut Writer, export: bool) {
        w.u8(self.outgoing.generation());
        w.bounded(self.name.as_bytes());
        match &self.stage {
            _ if export => w.bytes(&[5, 0, 1]),
            Stage::Inviting(inviting) => {
                w.u8(1);
                inviting.write(w);
            }
            Stage::Joining(joining) => {
                w.u8(2);
                joining.write(w);
            }
            Stage::Connected => w.u8(3),
            Stage::Failed => w.u8(4),
            Stage::Renewing(renewing) => {
                w.u8(5);
                w.bool(renewing.begun);
                w.bool(renewing.imported);
            }
        }
        self.incoming.write(w, export);
        self.outgoing.write(w, export);
        self.incoming.write_early(w, export);
        self.renewal.write(w, export);
        self.history.write(w);
        w.u32(self.fleeting);
    }

    /// Whether there is something that another incarnation can go on with.
    pub(crate) const fn can_be_carried(&self) -> bool {
        matches!(self.stage, Stage::Connected | Stage::Renewing(_))
    }

    /// Records that an export has, too.
    pub(crate) fn carried_parts(&self) -> impl Iterator<Item = Part> {
        self.renewal.parts().filter(|part| matches!(part, Part::Held(_))).chain(self.history.parts())
    }

    pub(crate) fn read(
        r: &mut Reader<'_>,
        id: ContactId,
        (now, keep): (Now, usize),
        conversation: Conversation,
        mut parts: Parts,
    ) -> Result<Self, Malformed> {
        let generation = r.u8("generation")?;
        let name = r.text(MAX_NAME, "name")?.to_owned();
        let stage = match r.u8("stage")? {
            1 => Stage::Inviting(Inviting::read(r)?),
            2 => Stage::Joining(Box::new(Joining::read(r, now)?)),
            3 => Stage::Connected,
            4 => Stage::Failed,
            5 => Stage::Renewing(Renewing { begun: r.bool("begun")?, imported: r.bool("imported")? }),
            _ => return Err(Malformed::Value("stage")),
        };
        let mut incoming = Incoming::read(r, id, now, &mut parts)?;
        let outgoing = Outgoing::read(r, id, generation, &conversation, &mut parts)?;
        incoming.read_early(r, now, &mut parts)?;
        let renewal = Renewal::read(r, &mut parts)?;
        let history = History::read(r, keep, &mut parts)?;
        let fleeting = r.u32("fleeting")?;
        r.clone().finish("contact")?;
        Ok(Self { id, name, stage, conversation, incoming, outgoing, renewal, history, fleeting })
    }

    pub(crate) fn write_moves(&self, w: &mut Writer) {
        self.incoming.moves.write(w);
    }

    pub(crate) fn read_moves(&mut self, r: &mut Reader<'_>, now: Now) -> Result<(), Malformed> {
        self.incoming.moves = Moves::read(r, now)?;
        Ok(())
    }

    /// What has a record of its own.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> {
        self.incoming.parts().chain(self.outgoing.parts()).chain(self.renewal.parts()).chain(self.history.parts())
    }

    pub(crate) fn part(&self, part: Part) -> Option<Vec<u8>> {
        match part {
            Part::Held(_) | Part::Spare(_) => self.renewal.part(part),
            Part::Said(..) => self.history.part(part),
            part => self.incoming.part(part).or_else(|| self.outgoing.part(part)),
        }
    }

    /// Takes up what was under way when the program ended. The network is known.
    pub(crate) fn resume(&mut self, core: &mut Core, now: Now) {
        match &mut self.stage {
            Stage::Inviting(inviting) => {
                for index in 0..inviting.blobs.len() {
                    if inviting.blobs.get(index).is_some_and(|b| !b.stored && b.request.is_none()) {
                        inviting.put_blob(core, now, self.id, index);
                    }
                }
            }
            Stage::Joining(joining) if !joining.opened => joining.ask(core, now, self.id),
            Stage::Failed | Stage::Renewing(Renewing { begun: false, .. }) => return,
            Stage::Joining(_) | Stage::Connected | Stage::Renewing(_) => {}
        }
        self.incoming.resume(core, now);
        self.outgoing.resume(core, now);
    }
}

impl Inviting {
    fn write(&self, w: &mut Writer) {
        w.bool(self.offer.is_some());
        if let Some(offer) = &self.offer {
            w.bounded(&offer.to_bytes());
        }
        w.bool(self.emitted);
        w.count(self.blobs.len());
        for blob in &self.blobs {
            blob.relay.write(w);
            blob.put.write(w);
            w.bool(blob.stored);
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let offer = if r.bool("offer")? { Some(Offer::from_bytes(r.bounded(BLOB_LEN, "offer")?)?) } else { None };
        let emitted = r.bool("emitted")?;
        let mut blobs = Vec::new();
        for _ in 0..r.count(MAX_COPIES, "blobs")? {
            let (relay, put) = (RelayId::read(r)?, WriterCapability::read(r)?);
            blobs.push(Blob { relay, put, request: None, stored: r.bool("stored")? });
        }
        Ok(Self { offer, blobs, emitted })
    }
}

impl Joining {
    fn write(&self, w: &mut Writer) {
        w.bounded(Zeroizing::new(self.link.to_text()).as_bytes());
        w.bytes(self.reader.expose());
        w.bool(self.opened);
        w.bool(self.welcome.is_some());
        if let Some(welcome) = &self.welcome {
            w.bounded(welcome);
        }
        w.count(self.asked.len());
        for (relay, _, refusal) in &self.asked {
            relay.write(w);
            w.bool(refusal.is_some());
            if let Some(refusal) = refusal {
                write_failure(w, refusal);
            }
        }
    }

    /// Its patience begins anew: the time in between was nobody's attempt.
    fn read(r: &mut Reader<'_>, now: Now) -> Result<Self, Malformed> {
        let link: Link = r.text(MAX_LINK, "link")?.parse().map_err(|_| Malformed::Value("link"))?;
        let reader = Secret::read(r, "reader")?;
        let opened = r.bool("opened")?;
        let welcome = if r.bool("welcome")? { Some(r.bounded(BOX_CONTENT_LEN, "welcome")?.to_vec()) } else { None };
        let mut asked = Vec::new();
        for _ in 0..r.count(MAX_COPIES, "relays")? {
            let relay = RelayId::read(r)?;
            let refusal = if r.bool("refused")? { Some(read_failure(r)?) } else { None };
            asked.push((relay, None, refusal));
        }
        Ok(Self { link, reader, asked, opened, welcome, until: now.mono + JOIN_PATIENCE })
    }

    /// Asks those relays for the invitation that have said nothing yet.
    pub(super) fn ask(&mut self, core: &mut Core, now: Now, contact: ContactId) {
        for (index, (relay, request, refusal)) in self.asked.iter_mut().enumerate() {
            if request.is_none() && refusal.is_none() {
                let command = Command::BlobGet { get: self.link.capability(), reader: self.reader.duplicate() };
                *request = Some(core.request(now, *relay, command, Purpose::Contact(contact, Task::BlobGet(index))));
            }
        }
    }
}
