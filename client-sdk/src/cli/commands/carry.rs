//! `posta export`, `posta import` and `posta history`: none of them needs the network.

use std::path::Path;

use posta_link::exit;
use posta_link::fetch::Network;
use serde_json::json;

use super::show;
use crate::cli::Ending;
use crate::cli::folder::{Folder, find};
use crate::cli::show::shown;
use crate::client::NETWORK_FILE;
use crate::store::{Change, Cost, Store, StoreError, read_export, write_export};

/// Writes all that another folder can go on with into a file; with `moved`, this folder ends.
pub(in crate::cli) fn export(folder: &Folder, file: &Path, moved: bool) -> Result<(), Ending> {
    if file.exists() {
        return Err(Ending::new(exit::USAGE, format!("{} is there already: name a new file", file.display())));
    }
    let (store, records, session, now, passphrase) = folder.whole()?;
    let contacts = session.contacts().len();
    let exported = session.export(now, &records);
    write_export(file, passphrase.as_bytes(), Cost::default(), &exported)?;
    // What can't be read again is no export.
    if read_export(file, passphrase.as_bytes())? != exported {
        return Err(StoreError::Damaged("the export").into());
    }
    if moved {
        store.retire()?;
    }
    let object = json!({ "event": "exported", "file": file, "contacts": contacts, "moved": moved });
    let text = if moved {
        format!(
            "Everything is in {}, under the passphrase of this state. This folder can't be used any more: `posta import` \
             the file elsewhere, then `posta wipe --yes` here.",
            file.display()
        )
    } else {
        format!(
            "A copy is in {}, under the passphrase of this state. It is for the day on which this folder is lost: who \
             imports it begins all conversations anew, and this folder is then left out of them.",
            file.display()
        )
    };
    show(folder).say(&object, &text);
    Ok(())
}

/// Makes a state of an export. The passphrase is the export's.
pub(in crate::cli) fn import(folder: &Folder, file: &Path, network: &Path) -> Result<(), Ending> {
    let path = folder.path()?;
    if Store::exists(&path) {
        return Err(StoreError::Exists(path).into());
    }
    let network = Network::load(network)?;
    let passphrase = folder.passphrase(false)?;
    let records = read_export(file, passphrase.as_bytes())?;
    let mut store = Store::create(&path, passphrase.as_bytes(), Cost::default())?;
    let changes: Vec<Change> = records.into_iter().map(|(name, value)| Change { name, value: Some(value) }).collect();
    store.apply(&changes)?;
    let file = path.join(NETWORK_FILE);
    network.save(&file).map_err(|e| Ending::new(exit::DISK, format!("{} can't be written: {e}", file.display())))?;
    drop(store);
    let text = format!(
        "The state is in {}. When it runs next (`posta chat`), it begins all conversations anew; messages can be sent to \
         a contact when the contact's program has answered.",
        path.display()
    );
    show(folder).say(&json!({ "event": "imported", "folder": path }), &text);
    Ok(())
}

/// Shows what was said with a contact, or forgets it.
pub(in crate::cli) fn history(folder: &Folder, contact: &str, clear: bool) -> Result<(), Ending> {
    if clear {
        return folder.change(contact, |session, now, contact| session.clear_history(now, contact));
    }
    let (_store, _, session, ..) = folder.whole()?;
    let id = find(&session.contacts(), contact)?;
    for said in session.history(id) {
        let text = String::from_utf8_lossy(&said.body);
        let object = json!({
            "event": "said", "contact": id.0, "ours": said.ours, "number": said.number, "time_ms": said.at.0,
            "delivered": said.delivered, "text": text,
        });
        let mark = match (said.ours, said.delivered) {
            (true, true) => "  ✓✓",
            (true, false) => "  …",
            (false, _) => "",
        };
        show(folder).say(&object, &format!("{} {}{mark}", if said.ours { '>' } else { '<' }, shown(&text)));
    }
    Ok(())
}
