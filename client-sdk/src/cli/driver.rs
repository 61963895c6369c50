//! The loop of `posta talk`: lines in, lines out.

pub(super) mod chat;
pub(super) mod screen;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use posta_link::exit;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

use super::show::shown;
use super::{Common, Ending, ready, start};
use crate::client::{CallError, Client};
use crate::session::event::{ClientEvent, ContactId, MessageState};

/// Bytes of a file with a link, at most.
const MAX_LINK_FILE: u64 = 4096;

/// A command on standard input with `--json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Order {
    /// Send this text.
    Send(String),
    /// Follow this link; the first line, with `--join`.
    Join(String),
}

struct Talk {
    client: Client,
    json: bool,
    contact: Option<ContactId>,
    lines: Lines<BufReader<Stdin>>,
    input_ended: bool,
    sent: u64,
    undelivered: BTreeSet<u64>,
}

/// Talks until the input ends and all of it is delivered, or until the program is interrupted.
pub(super) async fn talk(
    common: &Common,
    join: Option<PathBuf>,
    state: Option<(PathBuf, PathBuf)>,
) -> Result<(), Ending> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let link = match &join {
        Some(path) => Some(read_link(path, common.json, &mut lines).await?),
        None => None,
    };
    // Before anything is sent: a link that is none needs no network.
    if let Some(link) = &link {
        link.parse::<posta_protocol::invitation::Link>().map_err(CallError::from)?;
    }
    let client = start(common, state).await?;
    ready(&client).await?;
    let mut talk = Talk {
        client,
        json: common.json,
        contact: None,
        lines,
        input_ended: false,
        sent: 0,
        undelivered: BTreeSet::new(),
    };
    talk.say(&json!({ "event": "ready" }), "");
    match link {
        Some(link) => {
            talk.client.join(&link).await?;
            talk.say(&json!({ "event": "joining" }), "Following the invitation ...");
        }
        None => talk.invite().await?,
    }
    talk.run().await
}

async fn read_link(path: &Path, json: bool, lines: &mut Lines<BufReader<Stdin>>) -> Result<String, Ending> {
    if path != Path::new("-") {
        let unreadable = |e| Ending::new(exit::DISK, format!("{} can't be read: {e}", path.display()));
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_LINK_FILE {
            let sentence = format!("{} is too long for an invitation: is it the right file?", path.display());
            return Err(Ending::new(exit::USAGE, sentence));
        }
        return Ok(std::fs::read_to_string(path).map_err(unreadable)?.trim().to_owned());
    }
    if !json {
        eprint!("Paste the invitation: ");
    }
    let line = lines.next_line().await.ok().flatten().unwrap_or_default();
    match serde_json::from_str(&line) {
        Ok(Order::Join(link)) => Ok(link),
        _ => Ok(line.trim().to_owned()),
    }
}

impl Talk {
    /// Prints an object or a line.
    fn say(&self, object: &serde_json::Value, line: &str) {
        if self.json {
            println!("{object}");
        } else if !line.is_empty() {
            println!("{line}");
        }
    }

    async fn invite(&mut self) -> Result<(), Ending> {
        let invited = self.client.invite().await?;
        let text = format!(
            "Hand this link to one person, over a way that nobody else reads. It works once, for 24 hours:\n{}",
            invited.link
        );
        self.say(&json!({ "event": "invitation", "link": invited.link }), &text);
        Ok(())
    }

    async fn run(&mut self) -> Result<(), Ending> {
        loop {
            if self.input_ended && self.sent > 0 && self.undelivered.is_empty() {
                return Ok(());
            }
            // Lines wait until there is someone to send them to.
            let reads = !self.input_ended && self.contact.is_some();
            tokio::select! {
                event = self.client.next_event() => match event {
                    Some(event) => self.tell(event).await?,
                    None => return Err(CallError::Stopped.into()),
                },
                line = self.lines.next_line(), if reads => match line {
                    Ok(Some(line)) => self.order(&line).await?,
                    Ok(None) | Err(_) => self.input_ended = true,
                },
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }

    async fn order(&mut self, line: &str) -> Result<(), Ending> {
        let text = if self.json {
            match serde_json::from_str(line) {
                Ok(Order::Send(text)) => text,
                Ok(Order::Join(_)) | Err(_) => {
                    self.say(&json!({ "event": "error", "text": "expected {\"send\": \"text\"}" }), "");
                    return Ok(());
                }
            }
        } else if line.is_empty() {
            return Ok(());
        } else {
            line.to_owned()
        };
        let Some(contact) = self.contact else { return Ok(()) };
        match self.client.send(contact, text.into_bytes()).await {
            Ok(message) => {
                self.sent += 1;
                self.undelivered.insert(message.0);
                self.say(&json!({ "event": "state", "message": message.0, "state": "queued" }), "");
                Ok(())
            }
            Err(CallError::Send(e)) => {
                self.say(&json!({ "event": "error", "text": e.to_string() }), &format!("! not sent: {e}"));
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    async fn tell(&mut self, event: ClientEvent) -> Result<(), Ending> {
        match event {
            ClientEvent::Ready => self.say(&json!({ "event": "ready" }), "The network answers again."),
            ClientEvent::Connected { contact } => {
                self.contact = Some(contact);
                let code = self.client.verification_code(contact).await?.map(|c| c.to_string()).unwrap_or_default();
                let line = format!(
                    "Connected. Type a line to send it; Ctrl-D or Ctrl-C ends.\n\
                     To be sure that nobody sits between you two, compare this code by another way:\n  {code}"
                );
                self.say(&json!({ "event": "connected", "code": code }), &line);
            }
            ClientEvent::Renewed { .. } => {
                self.say(&json!({ "event": "renewed" }), "The conversation has begun anew: compare the code again.");
            }
            ClientEvent::JoinFailed { reason, .. } => return Err(reason.into()),
            ClientEvent::Message { number, body, .. } => {
                let text = String::from_utf8_lossy(&body);
                let shown = shown(&text);
                self.say(&json!({ "event": "message", "number": number, "text": text }), &format!("< {shown}"));
            }
            ClientEvent::State { message, state, .. } => self.tell_state(message.0, state),
            ClientEvent::Health(health) => {
                let object = json!({
                    "event": "health", "level": health.level.to_string(), "answered": health.answered, "lost": health.lost,
                });
                self.say(&object, "");
            }
            ClientEvent::Warning(warning) => {
                let text = warning.to_string();
                self.say(&json!({ "event": "warning", "text": text }), &format!("! {text}"));
            }
            // The call that asked has them.
            ClientEvent::Invitation { .. } | ClientEvent::InviteFailed { .. } | ClientEvent::Pong { .. } => {}
            // What was printed is not ours to take back.
            ClientEvent::Disappeared { .. } => {}
        }
        Ok(())
    }

    fn tell_state(&mut self, message: u64, state: MessageState) {
        let about = |name: &str| json!({ "event": "state", "message": message, "state": name });
        match state {
            MessageState::Queued => {}
            MessageState::Stored { k, n } => {
                let object = json!({ "event": "state", "message": message, "state": "stored", "k": k, "n": n });
                self.say(&object, &format!("  {message} ✓ stored on {k} of {n}"));
            }
            MessageState::Delivered => {
                self.undelivered.remove(&message);
                self.say(&about("delivered"), &format!("  {message} ✓✓ delivered"));
            }
            MessageState::Failed { reason } => {
                self.undelivered.remove(&message);
                self.say(&about("failed"), &format!("  {message} ✗ {reason}"));
            }
        }
    }
}
