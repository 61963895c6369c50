//! Events as records.

use posta_protocol::codec::{Reader, Writer};
use posta_protocol::end_to_end::MAX_MESSAGE_LEN;
use posta_protocol::error::Malformed;
use posta_protocol::ids::RelayId;

use super::super::event::{Asked, ClientEvent, ContactId, Failure, JoinFailure, MessageId, MessageState, NotAdmitted};
use super::writer;

/// Characters of a link, at most; more than any version has.
const MAX_LINK: usize = 1024;

/// Whether an event is handed out until it is committed. The others describe a moment.
pub(crate) const fn is_kept(event: &ClientEvent) -> bool {
    match event {
        ClientEvent::Invitation { .. }
        | ClientEvent::InviteFailed { .. }
        | ClientEvent::Connected { .. }
        | ClientEvent::Renewed { .. }
        | ClientEvent::JoinFailed { .. }
        | ClientEvent::Message { .. }
        | ClientEvent::State { state: MessageState::Delivered | MessageState::Failed { .. }, .. } => true,
        ClientEvent::Ready
        | ClientEvent::State { .. }
        | ClientEvent::Disappeared { .. }
        | ClientEvent::Pong { .. }
        | ClientEvent::Health(_)
        | ClientEvent::Warning(_) => false,
    }
}

/// An event that is kept, as a record.
pub(crate) fn encode_event(event: &ClientEvent) -> Vec<u8> {
    let mut w = writer();
    match event {
        ClientEvent::Invitation { contact, link } => {
            w.u8(1);
            w.u64(contact.0);
            w.bounded(link.as_bytes());
        }
        ClientEvent::InviteFailed { contact, reason } => {
            w.u8(2);
            w.u64(contact.0);
            write_refusal(&mut w, reason);
        }
        ClientEvent::Connected { contact } => {
            w.u8(3);
            w.u64(contact.0);
        }
        ClientEvent::JoinFailed { contact, reason } => {
            w.u8(4);
            w.u64(contact.0);
            write_failure(&mut w, reason);
        }
        ClientEvent::Message { contact, number, body } => {
            w.u8(5);
            w.u64(contact.0);
            w.u64(*number);
            w.bounded(body);
        }
        ClientEvent::State { contact, message, state } => {
            w.u8(6);
            w.u64(contact.0);
            w.u64(message.0);
            w.bool(*state == MessageState::Delivered);
        }
        ClientEvent::Renewed { contact } => {
            w.u8(7);
            w.u64(contact.0);
        }
        // Not kept.
        ClientEvent::Ready
        | ClientEvent::Disappeared { .. }
        | ClientEvent::Pong { .. }
        | ClientEvent::Health(_)
        | ClientEvent::Warning(_) => w.u8(0),
    }
    w.finish()
}

/// Reads an event behind its version.
pub(crate) fn decode_event(r: &mut Reader<'_>) -> Result<ClientEvent, Malformed> {
    let kind = r.u8("event")?;
    let contact = ContactId(r.u64("contact")?);
    let event = match kind {
        1 => ClientEvent::Invitation { contact, link: r.text(MAX_LINK, "link")?.to_owned() },
        2 => ClientEvent::InviteFailed { contact, reason: read_refusal(r)? },
        3 => ClientEvent::Connected { contact },
        4 => ClientEvent::JoinFailed { contact, reason: read_failure(r)? },
        5 => ClientEvent::Message {
            contact,
            number: r.u64("number")?,
            body: r.bounded(MAX_MESSAGE_LEN, "body")?.to_vec(),
        },
        6 => ClientEvent::State {
            contact,
            message: MessageId(r.u64("number")?),
            state: if r.bool("state")? {
                MessageState::Delivered
            } else {
                MessageState::Failed { reason: Failure::Expired }
            },
        },
        7 => ClientEvent::Renewed { contact },
        _ => return Err(Malformed::Value("event")),
    };
    r.clone().finish("event")?;
    Ok(event)
}

pub(crate) fn write_failure(w: &mut Writer, failure: &JoinFailure) {
    match failure {
        JoinFailure::Expired => w.u8(1),
        JoinFailure::Used => w.u8(2),
        JoinFailure::Unknown => w.u8(3),
        JoinFailure::Garbled => w.u8(4),
        JoinFailure::Unreachable => w.u8(5),
        JoinFailure::NotAdmitted(reason) => {
            w.u8(6);
            write_refusal(w, reason);
        }
        JoinFailure::Keys => w.u8(7),
    }
}

pub(crate) fn read_failure(r: &mut Reader<'_>) -> Result<JoinFailure, Malformed> {
    Ok(match r.u8("failure")? {
        1 => JoinFailure::Expired,
        2 => JoinFailure::Used,
        3 => JoinFailure::Unknown,
        4 => JoinFailure::Garbled,
        5 => JoinFailure::Unreachable,
        6 => JoinFailure::NotAdmitted(read_refusal(r)?),
        7 => JoinFailure::Keys,
        _ => return Err(Malformed::Value("failure")),
    })
}

fn write_refusal(w: &mut Writer, reason: &NotAdmitted) {
    reason.relay.write(w);
    match reason.asks {
        Asked::Password => w.u8(0),
        Asked::Work(effort) => {
            w.u8(1);
            w.u8(effort);
        }
    }
}

fn read_refusal(r: &mut Reader<'_>) -> Result<NotAdmitted, Malformed> {
    let relay = RelayId::read(r)?;
    let asks = match r.u8("asks")? {
        0 => Asked::Password,
        1 => Asked::Work(r.u8("effort")?),
        _ => return Err(Malformed::Value("asks")),
    };
    Ok(NotAdmitted { relay, asks })
}

#[cfg(test)]
mod tests {
    use super::super::reader;
    use super::*;

    #[test]
    fn each_event_that_is_kept_comes_back_as_it_was() {
        let contact = ContactId(7);
        let reason = NotAdmitted { relay: RelayId([3; 32]), asks: Asked::Work(40) };
        let events = [
            ClientEvent::Invitation { contact, link: "posta:p1".to_owned() },
            ClientEvent::InviteFailed { contact, reason },
            ClientEvent::Connected { contact },
            ClientEvent::Renewed { contact },
            ClientEvent::JoinFailed { contact, reason: JoinFailure::NotAdmitted(reason) },
            ClientEvent::JoinFailed { contact, reason: JoinFailure::Used },
            ClientEvent::JoinFailed { contact, reason: JoinFailure::Keys },
            ClientEvent::Message { contact, number: 9, body: vec![1; MAX_MESSAGE_LEN] },
            ClientEvent::State { contact, message: MessageId(4), state: MessageState::Delivered },
            ClientEvent::State {
                contact,
                message: MessageId(5),
                state: MessageState::Failed { reason: Failure::Expired },
            },
        ];
        for event in events {
            assert!(is_kept(&event));
            let bytes = encode_event(&event);
            assert_eq!(decode_event(&mut reader(&bytes).unwrap()), Ok(event));
            let short = &bytes[..bytes.len() - 1];
            assert!(decode_event(&mut reader(short).unwrap()).is_err());
        }
    }
}
