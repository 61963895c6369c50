//! The commands that do one thing and end.

pub(super) mod carry;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use posta_link::exit;
use posta_link::fetch::Network;
use posta_protocol::end_to_end::MAX_MESSAGE_LEN;
use posta_protocol::invitation::Link;
use serde_json::json;
use tokio::time::timeout;

use super::folder::{Folder, find};
use super::qr::Code;
use super::show::Show;
use super::{Ending, ready};
use crate::client::{CallError, Client, NETWORK_FILE};
use crate::session::JOIN_PATIENCE;
use crate::session::event::{ClientEvent, ContactId, MessageId, MessageState};
use crate::store::{Cost, Store};

/// How long a command waits for relays before it leaves the rest to the next one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a file with a link, at most.
const MAX_LINK_FILE: u64 = 4096;

/// How far `send` waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Until {
    /// Until all relays have the message on disk.
    Stored,
    /// Until the contact's program has it.
    Delivered,
}

const fn show(folder: &Folder) -> Show {
    Show { json: folder.json }
}

/// Makes the state.
pub(super) fn init(folder: &Folder, network: &Path) -> Result<Store, Ending> {
    let path = folder.path()?;
    if Store::exists(&path) {
        return Err(crate::store::StoreError::Exists(path).into());
    }
    let network = Network::load(network)?;
    let passphrase = folder.passphrase(true)?;
    let store = Store::create(&path, passphrase.as_bytes(), Cost::default())?;
    let file = path.join(NETWORK_FILE);
    network.save(&file).map_err(|e| Ending::new(exit::DISK, format!("{} can't be written: {e}", file.display())))?;
    let text = format!(
        "The state is in {}. Nobody can read it without the passphrase, and nobody can restore a forgotten one.\n\
         Next: `posta invite NAME`, or `posta join NAME` with a link that you were given.",
        path.display()
    );
    show(folder).say(&json!({ "event": "made", "folder": path }), &text);
    Ok(store)
}

pub(super) fn contacts(folder: &Folder) -> Result<(), Ending> {
    let (_store, session, _) = folder.session()?;
    let contacts = session.contacts();
    if contacts.is_empty() {
        show(folder).say(&json!(null), "There are no contacts yet: `posta invite NAME` or `posta join NAME`.");
    }
    contacts.iter().for_each(|c| show(folder).contact(c));
    super::profile::status(folder, &session);
    Ok(())
}

pub(super) async fn invite(folder: &Folder, name: Option<&str>, qr: bool, png: Option<PathBuf>) -> Result<(), Ending> {
    // Before anything is asked for.
    let unwritable = |path: &Path, e| Ending::new(exit::DISK, format!("{} can't be written: {e}", path.display()));
    let png = match png {
        Some(path) => {
            let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
            Some((file.map_err(|e| unwritable(&path, e))?, path))
        }
        None => None,
    };
    let client = folder.open().await?;
    ready(&client).await?;
    let invited = client.invite().await?;
    if let Some(name) = name {
        client.rename(invited.contact, name).await?;
    }
    let text = format!(
        "Hand this link to one person, over a way that nobody else reads. It works once, for 24 hours:\n{}",
        invited.link
    );
    let object = json!({ "event": "invitation", "contact": invited.contact.0, "link": invited.link });
    show(folder).say(&object, &text);
    client.close().await;
    let code = Code::of(&invited.link);
    if let (Some(code), true) = (&code, qr && !folder.json) {
        code.lines().iter().for_each(|line| println!("{line}"));
    }
    if let (Some(code), Some((mut file, path))) = (code, png) {
        file.write_all(&code.png()).map_err(|e| unwritable(&path, e))?;
    }
    Ok(())
}

pub(super) async fn join(folder: &Folder, name: Option<&str>, file: Option<&Path>) -> Result<(), Ending> {
    let link = read_link(file, folder.json)?;
    // Before anything is asked for: a link that is none needs no network.
    link.parse::<Link>().map_err(CallError::from)?;
    let client = folder.open().await?;
    ready(&client).await?;
    let contact = client.join(&link).await?;
    if let Some(name) = name {
        client.rename(contact, name).await?;
    }
    let joined = timeout(JOIN_PATIENCE + PATIENCE, async {
        loop {
            match client.next_uncommitted().await {
                Some((_, ClientEvent::Connected { contact: c })) if c == contact => return Ok(()),
                Some((_, ClientEvent::JoinFailed { contact: c, reason })) if c == contact => return Err(reason.into()),
                Some(_) => {}
                None => return Err(Ending::from(CallError::Stopped)),
            }
        }
    });
    match joined.await {
        Ok(Ok(())) => {
            show(folder).say(&json!({ "event": "connected", "contact": contact.0 }), "Connected.");
        }
        Ok(Err(ending)) => {
            // What came to nothing is not kept.
            let _ = client.remove(contact).await;
            client.close().await;
            return Err(ending);
        }
        Err(_) => show(folder).say(
            &json!({ "event": "joining", "contact": contact.0 }),
            "The relays haven't all answered yet; `posta receive` or `posta chat` goes on with it.",
        ),
    }
    client.close().await;
    Ok(())
}

pub(super) async fn send(folder: &Folder, contact: &str, until: Until) -> Result<(), Ending> {
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(MAX_MESSAGE_LEN as u64 + 1);
    if folder.json {
        input
            .read_to_string(&mut text)
            .map_err(|e| Ending::new(exit::USAGE, format!("the message is no text: {e}")))?;
    } else {
        eprintln!("The message, ended by Ctrl-D:");
        input
            .read_to_string(&mut text)
            .map_err(|e| Ending::new(exit::USAGE, format!("the message is no text: {e}")))?;
        text.truncate(text.trim_end_matches(['\n', '\r']).len());
    }
    if text.is_empty() {
        return Err(Ending::new(exit::USAGE, "there is nothing to send"));
    }
    let client = folder.open().await?;
    let contacts = client.contacts().await?;
    let contact = find(&contacts, contact)?;
    let sent = client.send(contact, text.into_bytes()).await;
    let told = match sent {
        Ok(message) => timeout(PATIENCE, wait_for(&client, folder, contact, message, until)).await,
        Err(e) => {
            client.close().await;
            return Err(e.into());
        }
    };
    client.close().await;
    match told {
        Ok(told) => told,
        Err(_) => {
            let text = "It waits here and is sent as soon as the client runs again: `posta receive`, for example.";
            show(folder).say(&json!({ "event": "waiting" }), text);
            Ok(())
        }
    }
}

async fn wait_for(
    client: &Client,
    folder: &Folder,
    contact: ContactId,
    message: MessageId,
    until: Until,
) -> Result<(), Ending> {
    loop {
        let Some((cursor, event)) = client.next_uncommitted().await else { return Err(CallError::Stopped.into()) };
        let state = match &event {
            ClientEvent::State { contact: c, message: m, state } if (*c, *m) == (contact, message) => *state,
            ClientEvent::Warning(_) => {
                show(folder).event(cursor, &event, |c| c.0.to_string());
                continue;
            }
            _ => continue,
        };
        show(folder).event(cursor, &event, |_| "message".to_owned());
        match state {
            MessageState::Stored { k, n } if k == n && until == Until::Stored => return Ok(()),
            MessageState::Delivered => return Ok(()),
            MessageState::Failed { reason } => return Err(Ending::new(exit::NETWORK, reason)),
            _ => {}
        }
    }
}

pub(super) fn rename(folder: &Folder, contact: &str, name: &str) -> Result<(), Ending> {
    folder.change(contact, |session, now, contact| session.rename(now, contact, name))
}

pub(super) fn disappear(folder: &Folder, contact: &str, seconds: u32) -> Result<(), Ending> {
    let after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    folder.change(contact, |session, now, contact| session.disappear(now, contact, after))
}

pub(super) fn forget(folder: &Folder, contact: &str) -> Result<(), Ending> {
    folder.change(contact, |session, now, contact| session.remove(now, contact))
}

/// Changes the passphrase: the old one first, as for every command, then the new one.
pub(super) fn passphrase(folder: &Folder, new: Option<PathBuf>) -> Result<(), Ending> {
    let (mut store, _) = folder.offline()?;
    let new = folder.another(new).passphrase(true)?;
    store.change_passphrase(new.as_bytes())?;
    show(folder).say(&json!({ "event": "changed" }), "The passphrase is changed; the old one opens nothing any more.");
    Ok(())
}

/// Destroys the state.
pub(super) fn wipe(folder: &Folder, yes: bool) -> Result<(), Ending> {
    let path = folder.path()?;
    if !yes {
        let sentence = format!("this destroys all contacts and messages in {}, for good: say --yes", path.display());
        return Err(Ending::new(exit::USAGE, sentence));
    }
    let holder = Store::wipe(&path)?;
    let _ = fs::remove_file(path.join(NETWORK_FILE));
    // If something else is in it, it stays.
    let _ = fs::remove_dir(&path);
    let mut text = "The keys are overwritten and the files gone.".to_owned();
    if let Some(holder) = &holder {
        text.push_str(&format!(" A program ({holder}) still has them in memory: end it now."));
    }
    show(folder).say(&json!({ "event": "wiped", "holder": holder }), &text);
    Ok(())
}

/// A link from a file, or from standard input.
fn read_link(file: Option<&Path>, json: bool) -> Result<String, Ending> {
    let Some(path) = file.filter(|p| *p != Path::new("-")) else {
        if !json {
            eprint!("Paste the invitation: ");
        }
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(|e| Ending::new(exit::USAGE, format!("no link: {e}")))?;
        return Ok(line.trim().to_owned());
    };
    let unreadable = |e| Ending::new(exit::DISK, format!("{} can't be read: {e}", path.display()));
    if fs::metadata(path).map_err(unreadable)?.len() > MAX_LINK_FILE {
        let sentence = format!("{} is too long for an invitation: is it the right file?", path.display());
        return Err(Ending::new(exit::USAGE, sentence));
    }
    Ok(fs::read_to_string(path).map_err(unreadable)?.trim().to_owned())
}
