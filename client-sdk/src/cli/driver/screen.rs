//! Runs the full screen of `posta chat`: keys and events in, pictures out.

use std::future::pending;
use std::io::stdout;
use std::pin::Pin;

use posta_link::exit;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{DisableBracketedPaste, EnableBracketedPaste, Event, read};
use ratatui::crossterm::execute;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::Ending;
use crate::cli::folder::{Folder, find};
use crate::cli::screen::{Screen, Wish};
use crate::client::{CallError, Client};
use crate::session::event::{ContactId, EventCursor};

/// Keys that were not taken yet; beyond, the terminal keeps them.
const KEYS: usize = 64;

/// An invitation that is being made, until its link is there.
type Inviting<'a> = Pin<Box<dyn Future<Output = Result<String, String>> + 'a>>;

/// Shows everything, until the user ends it.
pub(in crate::cli) async fn run(folder: &Folder, contact: Option<&str>) -> Result<(), Ending> {
    let client = folder.open().await?;
    let contacts = client.contacts().await?;
    let at = contact.map(|wanted| find(&contacts, wanted)).transpose()?;
    let profile = format!("{:?}", client.profile().await?).to_lowercase();
    let ids: Vec<ContactId> = contacts.iter().map(|c| c.id).collect();
    let mut screen = Screen::new(contacts, at, profile);
    for id in ids {
        screen.recall(id, client.history(id).await?);
    }
    let terminal = ratatui::try_init().map_err(no_terminal)?;
    // Where a terminal doesn't know it, what is pasted comes as keys.
    let _ = execute!(stdout(), EnableBracketedPaste);
    let ended = show(&client, screen, terminal).await;
    let _ = execute!(stdout(), DisableBracketedPaste);
    ratatui::restore();
    client.close().await;
    ended
}

fn no_terminal(e: std::io::Error) -> Ending {
    Ending::new(exit::USAGE, format!("this terminal can't be drawn on ({e}): use --lines"))
}

/// What the terminal says. The thread ends with the process: a read can't be taken back.
fn keys() -> mpsc::Receiver<Event> {
    let (to, from) = mpsc::channel(KEYS);
    std::thread::spawn(move || {
        while let Ok(event) = read() {
            if to.blocking_send(event).is_err() {
                return;
            }
        }
    });
    from
}

async fn show(client: &Client, mut screen: Screen, mut terminal: DefaultTerminal) -> Result<(), Ending> {
    let mut keys = keys();
    let mut terminate = signal(SignalKind::terminate()).map_err(no_terminal)?;
    let mut inviting: Option<Inviting<'_>> = None;
    let mut committed = EventCursor::default();
    loop {
        terminal.draw(|frame| screen.draw(frame)).map_err(no_terminal)?;
        let link = async {
            match inviting.as_mut() {
                Some(inviting) => inviting.await,
                None => pending().await,
            }
        };
        tokio::select! {
            event = client.next_uncommitted() => {
                let Some((cursor, event)) = event else { return Err(CallError::Stopped.into()) };
                if screen.event(&event) {
                    screen.renew(client.contacts().await?);
                }
                if cursor > committed {
                    committed = cursor;
                    client.commit(cursor).await?;
                }
            }
            link = link => {
                inviting = None;
                screen.renew(client.contacts().await?);
                screen.invited(link);
            }
            key = keys.recv() => {
                let wish = match key {
                    Some(Event::Key(key)) => screen.key(key),
                    Some(Event::Paste(text)) => {
                        screen.paste(&text);
                        Wish::Nothing
                    }
                    // Another size: it is drawn anew.
                    Some(_) => Wish::Nothing,
                    None => Wish::End,
                };
                match wish {
                    Wish::Nothing => {}
                    Wish::End => return Ok(()),
                    Wish::Send(contact, text) => {
                        let taken = client.send(contact, text.clone().into_bytes()).await;
                        screen.sent(contact, text, taken.map(|m| m.0).map_err(|e| e.to_string()));
                    }
                    Wish::Invite(name) => inviting = Some(Box::pin(invite(client, name))),
                    Wish::Join(link, name) => match join(client, &link, &name).await {
                        Ok(contact) => {
                            screen.renew(client.contacts().await?);
                            screen.select(contact);
                        }
                        Err(e) => screen.say(e),
                    },
                }
            }
            _ = terminate.recv() => return Ok(()),
        }
    }
}

async fn invite(client: &Client, name: String) -> Result<String, String> {
    let invited = client.invite().await.map_err(|e| e.to_string())?;
    client.rename(invited.contact, &name).await.map_err(|e| e.to_string())?;
    Ok(invited.link)
}

async fn join(client: &Client, link: &str, name: &str) -> Result<ContactId, CallError> {
    let contact = client.join(link).await?;
    client.rename(contact, name).await?;
    Ok(contact)
}
