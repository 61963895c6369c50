//! A bot that says everything back. Make its state by `posta init`, then:
//!
//! ```text
//! cargo run --release --example echo -- FOLDER PASSPHRASE_FILE
//! ```
//! It prints an invitation at its start. Killed at any moment and started again, it answers each message: an event comes
//! again until the next one is asked for. Who must not answer twice either keeps the cursor of the last one; see `Client`.

use std::error::Error;

use posta_client::{Client, ClientEvent};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(file)) = (args.next(), args.next()) else { return Err("FOLDER PASSPHRASE_FILE".into()) };
    let passphrase = std::fs::read_to_string(file)?;
    let client = Client::builder(folder).open(passphrase.trim_end()).await?;
    let mut invited = false;
    while let Some(event) = client.next_event().await {
        match event {
            ClientEvent::Ready if !invited => {
                invited = true;
                println!("{}", client.invite().await?.link);
            }
            ClientEvent::Message { contact, body, .. } => drop(client.send(contact, body).await?),
            ClientEvent::Warning(warning) => eprintln!("{warning}"),
            _ => {}
        }
    }
    Ok(())
}
