//! A bridge from another system: each line of standard input goes to one contact, each message comes out as a line.
//!
//! ```text
//! tail -f /var/log/alarms | cargo run --release --example bridge -- FOLDER PASSPHRASE_FILE CONTACT
//! ```
//! A line is taken when it is in the client's state on disk, and a message is printed before the next one is asked for: so
//! nothing is lost, whatever is killed, and only the last line that was printed may come twice.

use std::error::Error;

use posta_client::{CallError, Client, ClientEvent, SendError};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::Notify;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(file), Some(name)) = (args.next(), args.next(), args.next()) else {
        return Err("FOLDER PASSPHRASE_FILE CONTACT".into());
    };
    let passphrase = std::fs::read_to_string(file)?;
    let client = Client::builder(folder).open(passphrase.trim_end()).await?;
    let contacts = client.contacts().await?;
    let contact = contacts.iter().find(|c| c.name == name).ok_or("there is no such contact")?.id;
    let room = Notify::new();
    let lines = async {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Some(line) = lines.next_line().await? {
            // When too much is under way, or the contact isn't there yet, the next event tells when to try again.
            while let Err(e) = client.send(contact, line.clone().into_bytes()).await {
                match e {
                    CallError::Send(SendError::OutboxFull | SendError::NotConnected | SendError::Renewing) => {
                        room.notified().await;
                    }
                    e => return Err(e.into()),
                }
            }
        }
        Ok::<(), Box<dyn Error>>(())
    };
    let events = async {
        while let Some(event) = client.next_event().await {
            room.notify_one();
            match event {
                ClientEvent::Message { contact: from, body, .. } if from == contact => {
                    println!("{}", String::from_utf8_lossy(&body));
                }
                ClientEvent::Warning(warning) => eprintln!("{warning}"),
                _ => {}
            }
        }
        Ok::<(), Box<dyn Error>>(())
    };
    tokio::try_join!(lines, events)?;
    Ok(())
}
