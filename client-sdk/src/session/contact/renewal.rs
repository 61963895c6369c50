//! A conversation begins anew, without anyone's doing: one end has lost it, and holds a key package of the other.

use posta_protocol::end_to_end::{Content, Inner, Kind};
use posta_protocol::now::{Mono, Now};

use super::{Contact, Stage};
use crate::session::core::Core;
use crate::session::event::{ClientEvent, Warning};
use crate::session::renewal::RENEW_EVERY;

/// A conversation of ours that begins anew.
#[derive(Clone, Copy)]
pub(super) struct Renewing {
    /// Whether the contact was told.
    pub(super) begun: bool,
    /// Whether this is another incarnation, which knows little of what the one before has done.
    pub(super) imported: bool,
}

impl Contact {
    /// Whether there is no conversation, as after an import.
    pub(crate) const fn is_imported(&self) -> bool {
        matches!(self.stage, Stage::Renewing(Renewing { begun: false, imported: true }))
    }

    /// The two ends have come apart: what can be done is done.
    pub(super) fn mend(&mut self, core: &mut Core, now: Now) {
        let news = self.incoming.take_apart() | (self.outgoing.set_back && self.conversation.came_apart());
        if !matches!(self.stage, Stage::Connected) || !self.conversation.is_apart() {
            return;
        }
        if !self.renewal.is_possible() {
            if news {
                core.emit(ClientEvent::Warning(Warning::OutOfStep { contact: self.id }));
            }
        } else if self.renewal.last.is_none_or(|at| now.mono.since(at) >= RENEW_EVERY) {
            self.stage = Stage::Renewing(Renewing { begun: false, imported: false });
        }
    }

    /// When it can be tried once more.
    pub(super) fn mend_due(&self) -> Option<Mono> {
        let waits = matches!(self.stage, Stage::Connected) && self.conversation.is_apart();
        self.renewal.last.filter(|_| waits && self.renewal.is_possible()).map(|at| at + RENEW_EVERY)
    }

    /// Founds another conversation on the contact's key package, and says so.
    pub(super) fn begin_anew(&mut self, core: &mut Core, now: Now, imported: bool) {
        if core.view.is_none() {
            return;
        }
        let Some(mut conversation) = core.conversation() else { return };
        let Some(Ok(welcome)) = self.renewal.take_held().map(|package| conversation.found(&package)) else {
            // It has none, or one that is not valid now. An end that still has its old conversation keeps it.
            self.stage = if imported { Stage::Failed } else { Stage::Connected };
            core.emit(ClientEvent::Warning(Warning::OutOfStep { contact: self.id }));
            return;
        };
        let Some(founded) = conversation.founded() else { return };
        self.renewal.last = Some(now.mono);
        self.outgoing.begin_again(core, founded, true);
        self.incoming.begin_again();
        self.conversation = conversation;
        let (generation, queues) = self.incoming.list_anew(imported);
        let kind = Kind::Renewal { have: self.incoming.delivered, alone: imported, generation, queues };
        self.outgoing.renew(core, now, &mut self.conversation, (welcome, kind));
        self.stage = Stage::Renewing(Renewing { begun: true, imported });
    }

    /// A welcome has come although there is a conversation: a copy of the first one, or the contact has lost its end.
    pub(super) fn welcomed(&mut self, core: &mut Core, now: Now, place: (usize, u64), inner: &Inner) {
        self.incoming.pass(place);
        let renewing = match self.stage {
            Stage::Connected => None,
            Stage::Renewing(renewing) => Some(renewing),
            _ => return,
        };
        let Some((at, content, theirs)) = self.renewal.open(now.mono, inner) else { return };
        let Ok(Content { kind: Kind::Renewal { have, alone, generation, queues }, .. }) = Content::decode(&content)
        else {
            return;
        };
        let ours = self.conversation.code();
        let Some(conversation) = self.renewal.take_spare(at) else { return };
        if renewing.is_some_and(|r| r.begun) && !alone && ours.is_some_and(|ours| ours.0 < theirs.0) {
            // Both begin anew at once: of the two conversations the one with the lower code counts, at both ends.
            return;
        }
        let Some(founded) = conversation.founded() else { return };
        self.outgoing.begin_again(core, founded, false);
        self.outgoing.moved(core, now, founded, queues);
        self.incoming.moves.hear(generation);
        self.incoming.begin_again();
        self.conversation = conversation;
        if renewing.is_some() {
            self.outgoing.go_on_after(have);
        }
        self.outgoing.take_over(core, now, have, &mut self.history);
        self.go_on(core, now);
    }

    /// The contact has joined, and says how far both sides had come.
    pub(super) fn renewed(&mut self, core: &mut Core, now: Now, (up_to, from): (u64, u64)) {
        self.outgoing.go_on_after(up_to);
        self.outgoing.settle(core, now, up_to, &mut self.history);
        let missing = self.incoming.skip_to(from);
        if missing > 0 {
            core.emit(ClientEvent::Warning(Warning::Missing { contact: self.id, missing }));
        }
        self.go_on(core, now);
    }

    fn go_on(&mut self, core: &mut Core, now: Now) {
        self.outgoing.seal_again(core, now, &mut self.conversation, &self.history);
        self.incoming.say_list_again();
        self.stage = Stage::Connected;
        core.emit(ClientEvent::Renewed { contact: self.id });
    }
}
