//! What a person or a script reads: one line, or one JSON object, for each event.

use serde_json::{Value, json};

use crate::session::event::{ClientEvent, ContactId, ContactInfo, ContactState, EventCursor, MessageState};

/// Prints for people or for scripts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Show {
    pub(super) json: bool,
}

impl Show {
    /// Prints an object, or a line where there is one.
    pub(super) fn say(self, object: &Value, line: &str) {
        if self.json {
            println!("{object}");
        } else if !line.is_empty() {
            println!("{line}");
        }
    }

    pub(super) fn contact(self, contact: &ContactInfo) {
        let state = state_name(contact.state);
        let ContactInfo { id, name, sent, delivered, received, disappears, .. } = contact;
        let code = contact.code.map(|code| code.to_string());
        let object = json!({
            "event": "contact", "contact": id.0, "name": name, "state": state,
            "sent": sent, "delivered": delivered, "received": received, "code": code,
            "disappears_s": disappears.map(|d| d.as_secs()),
        });
        let name = if name.is_empty() { "(no name)" } else { name };
        let under_way = sent.saturating_sub(*delivered);
        self.say(
            &object,
            &format!(
                "{:>3}  {name:<20} {state:<10} {sent} sent, {under_way} of them under way, {received} received",
                id.0
            ),
        );
        if let (Some(after), false) = (disappears, self.json) {
            println!("     messages to it disappear {} s after their delivery", after.as_secs());
        }
        if let (Some(code), false) = (code, self.json) {
            println!("     compare by another way, to be sure that nobody sits between: {code}");
        }
    }

    /// An event, and its place for those who keep it.
    pub(super) fn event(self, cursor: EventCursor, event: &ClientEvent, name: impl Fn(ContactId) -> String) {
        let (mut object, line) = match event {
            ClientEvent::Ready => (json!({ "event": "ready" }), "The network answers.".to_owned()),
            ClientEvent::Invitation { contact, link } => (
                json!({ "event": "invitation", "contact": contact.0, "link": link }),
                format!("The invitation for {}: {link}", name(*contact)),
            ),
            ClientEvent::InviteFailed { contact, reason } => (
                json!({ "event": "invite-failed", "contact": contact.0, "text": reason.to_string() }),
                format!("! no invitation for {}: {reason}", name(*contact)),
            ),
            ClientEvent::Connected { contact } => {
                (json!({ "event": "connected", "contact": contact.0 }), format!("{} is connected.", name(*contact)))
            }
            ClientEvent::Renewed { contact } => (
                json!({ "event": "renewed", "contact": contact.0 }),
                format!("The conversation with {} has begun anew: compare the code again.", name(*contact)),
            ),
            ClientEvent::JoinFailed { contact, reason } => (
                json!({ "event": "join-failed", "contact": contact.0, "text": reason.to_string() }),
                format!("! {}: {reason}", name(*contact)),
            ),
            ClientEvent::Message { contact, number, body } => {
                let text = String::from_utf8_lossy(body);
                let shown = shown(&text);
                (
                    json!({ "event": "message", "contact": contact.0, "number": number, "text": text }),
                    format!("{} < {shown}", name(*contact)),
                )
            }
            ClientEvent::State { contact, message, state } => {
                let about = |state: &str| json!({ "event": "state", "contact": contact.0, "message": message.0, "state": state });
                let to = name(*contact);
                match state {
                    MessageState::Queued => (about("queued"), String::new()),
                    MessageState::Stored { k, n } => (
                        json!({ "event": "state", "contact": contact.0, "message": message.0, "state": "stored", "k": k, "n": n }),
                        format!("  {to}: {} ✓ stored on {k} of {n}", message.0),
                    ),
                    MessageState::Delivered => (about("delivered"), format!("  {to}: {} ✓✓ delivered", message.0)),
                    MessageState::Failed { reason } => (about("failed"), format!("  {to}: {} ✗ {reason}", message.0)),
                }
            }
            ClientEvent::Disappeared { contact, ours, number } => {
                (json!({ "event": "disappeared", "contact": contact.0, "ours": ours, "number": number }), String::new())
            }
            ClientEvent::Pong { round_trip } => {
                (json!({ "event": "pong", "round_trip_ms": round_trip.as_secs_f64() * 1000.0 }), String::new())
            }
            ClientEvent::Health(health) => {
                let line = format!(
                    "  packets come back: {} ({} of {})",
                    health.level,
                    health.answered,
                    health.answered + health.lost
                );
                (
                    json!({
                        "event": "health", "level": health.level.to_string(), "answered": health.answered, "lost": health.lost,
                    }),
                    line,
                )
            }
            ClientEvent::Warning(warning) => {
                (json!({ "event": "warning", "text": warning.to_string() }), format!("! {warning}"))
            }
        };
        if let Some(object) = object.as_object_mut() {
            object.insert("cursor".to_owned(), json!(cursor.0));
        }
        self.say(&object, &line);
    }
}

/// A text that others have written, with nothing in it that a terminal would obey.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

pub(super) const fn state_name(state: ContactState) -> &'static str {
    match state {
        ContactState::Invited => "invited",
        ContactState::Joining => "joining",
        ContactState::Connected => "connected",
        ContactState::Renewing => "renewing",
        ContactState::Failed => "failed",
    }
}
