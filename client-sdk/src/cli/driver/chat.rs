//! The loop of `posta chat` and `posta receive`: events out, lines in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use posta_link::exit;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use tokio::time::{Instant, sleep_until};

use super::screen;
use crate::cli::Ending;
use crate::cli::folder::{Folder, find};
use crate::cli::show::Show;
use crate::client::{CallError, Client};
use crate::session::event::{ClientEvent, ContactId, ContactState, EventCursor, MessageState};

/// How long the end of the input waits for relays; what isn't stored by then is sent when the client runs again.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// A command on standard input with `--json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Order {
    /// Send this text.
    Send(String),
}

struct Chat {
    client: Client,
    show: Show,
    names: BTreeMap<ContactId, String>,
    /// Whom lines go to, and whether they can already.
    to: Option<(ContactId, bool)>,
    /// Sent in this run, and not yet on all relays.
    waiting: BTreeSet<u64>,
    committed: EventCursor,
    messages: u64,
}

/// Prints what comes from everyone, until it is interrupted, for some time, or until so many messages have come.
pub(in crate::cli) async fn receive(folder: &Folder, seconds: Option<u64>, count: Option<u64>) -> Result<(), Ending> {
    let chat = Chat::open(folder, None).await?;
    chat.run(None, seconds.map(Duration::from_secs), count).await
}

/// Talks, until the input ends or the program is interrupted: on the whole screen if there is one and lines are not asked
/// for.
pub(in crate::cli) async fn chat(folder: &Folder, contact: Option<&str>, lines: bool) -> Result<(), Ending> {
    if !lines && !folder.json && std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        return screen::run(folder, contact).await;
    }
    let nobody = || Ending::new(exit::USAGE, "say with whom: posta chat CONTACT");
    let chat = Chat::open(folder, Some(contact.ok_or_else(nobody)?)).await?;
    let lines = BufReader::new(tokio::io::stdin()).lines();
    chat.run(Some(lines), None, None).await
}

impl Chat {
    async fn open(folder: &Folder, contact: Option<&str>) -> Result<Self, Ending> {
        let client = folder.open().await?;
        let show = Show { json: folder.json };
        let contacts = client.contacts().await?;
        let to = match contact {
            Some(wanted) => {
                let id = find(&contacts, wanted)?;
                Some((id, contacts.iter().any(|c| c.id == id && c.state == ContactState::Connected)))
            }
            None => None,
        };
        for contact in contacts.iter().filter(|c| show.json || to.is_none_or(|(id, _)| c.id == id)) {
            show.contact(contact);
        }
        let named = |c: &crate::session::event::ContactInfo| {
            if c.name.is_empty() { format!("contact {}", c.id.0) } else { c.name.clone() }
        };
        let names = contacts.iter().map(|c| (c.id, named(c))).collect();
        let (waiting, committed) = (BTreeSet::new(), EventCursor::default());
        Ok(Self { client, show, names, to, waiting, committed, messages: 0 })
    }

    async fn run(
        mut self,
        mut lines: Option<Lines<BufReader<Stdin>>>,
        time: Option<Duration>,
        count: Option<u64>,
    ) -> Result<(), Ending> {
        let mut until = time.map(|t| Instant::now() + t);
        let talks = lines.is_some();
        loop {
            let ended = talks && lines.is_none() && self.waiting.is_empty();
            if ended || count.is_some_and(|n| self.messages >= n) {
                break;
            }
            let reads = lines.is_some() && self.to.is_some_and(|(_, connected)| connected);
            tokio::select! {
                event = self.client.next_uncommitted() => match event {
                    Some((cursor, event)) => self.tell(cursor, &event).await?,
                    None => return Err(CallError::Stopped.into()),
                },
                line = next_line(lines.as_mut()), if reads => match line {
                    Some(line) => self.order(&line).await?,
                    None => {
                        lines = None;
                        until = Some(Instant::now() + END_PATIENCE);
                    }
                },
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => break,
                _ = tokio::signal::ctrl_c() => break,
            }
        }
        self.client.close().await;
        Ok(())
    }

    /// Prints an event, and then says that it is dealt with: one that a crash comes between is printed again.
    async fn tell(&mut self, cursor: EventCursor, event: &ClientEvent) -> Result<(), Ending> {
        match event {
            ClientEvent::Message { .. } => self.messages += 1,
            ClientEvent::Connected { contact } => {
                if let Some((_, connected)) = self.to.as_mut().filter(|(to, _)| to == contact) {
                    *connected = true;
                }
            }
            ClientEvent::State { contact, message, state } if self.to.is_some_and(|(to, _)| to == *contact) => {
                match state {
                    MessageState::Stored { k, n } if k < n => {}
                    MessageState::Queued => {}
                    _ => {
                        self.waiting.remove(&message.0);
                    }
                }
            }
            _ => {}
        }
        let names = &self.names;
        let name = |c: ContactId| names.get(&c).cloned().unwrap_or_else(|| format!("contact {}", c.0));
        self.show.event(cursor, event, name);
        let gone = |e| Ending::new(exit::DISK, format!("the output is closed: {e}"));
        std::io::stdout().flush().map_err(gone)?;
        if cursor > self.committed {
            self.committed = cursor;
            self.client.commit(cursor).await?;
        }
        Ok(())
    }

    async fn order(&mut self, line: &str) -> Result<(), Ending> {
        let text = if self.show.json {
            match serde_json::from_str(line) {
                Ok(Order::Send(text)) => text,
                Err(_) => {
                    self.show.say(&json!({ "event": "error", "text": "expected {\"send\": \"text\"}" }), "");
                    return Ok(());
                }
            }
        } else if line.is_empty() {
            return Ok(());
        } else {
            line.to_owned()
        };
        let Some((to, _)) = self.to else { return Ok(()) };
        match self.client.send(to, text.into_bytes()).await {
            Ok(message) => {
                self.waiting.insert(message.0);
                let object = json!({ "event": "state", "contact": to.0, "message": message.0, "state": "queued" });
                self.show.say(&object, "");
                Ok(())
            }
            Err(CallError::Send(e)) => {
                self.show.say(&json!({ "event": "error", "text": e.to_string() }), &format!("! not sent: {e}"));
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }
}

async fn next_line(lines: Option<&mut Lines<BufReader<Stdin>>>) -> Option<String> {
    lines?.next_line().await.ok().flatten()
}
