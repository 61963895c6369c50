//! The ten lines that begin the SDK's documentation, as an application runs them.

use std::path::Path;
use std::time::Duration;

use posta_client::store::Cost;
use posta_client::{Client, ClientEvent};
use posta_link::fetch::Network;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::shared::{Running, testnet};

const PATIENCE: Duration = Duration::from_secs(60);

/// The documentation's example, but that what it prints goes to the test.
async fn example(
    dir: &Path,
    passphrase: &str,
    println: mpsc::Sender<String>,
) -> Result<(), Box<dyn std::error::Error>> {
    macro_rules! println {
        ($format:literal, $text:expr) => {
            println.send(format!($format, $text)).await?
        };
    }
    let client = Client::builder(dir).open(passphrase).await?;
    println!("{}", client.invite().await?.link);
    while let Some(event) = client.next_event().await {
        match event {
            ClientEvent::Connected { contact } => drop(client.send(contact, b"hello".to_vec()).await?),
            ClientEvent::Message { body, .. } => println!("{}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn the_ten_lines_of_the_documentation_are_those_of_this_test() {
    let documented = include_str!("../../../client-sdk/src/lib.rs");
    let block = documented.split("```no_run").nth(1).unwrap().split("```").next().unwrap();
    let lines = block.lines().filter_map(|line| line.strip_prefix("//!")).map(str::trim);
    let code: Vec<&str> = lines.filter(|l| !l.is_empty() && !l.starts_with('#') && !l.starts_with("use ")).collect();
    assert!(code.len() >= 8, "{code:?}");
    let here = include_str!("library.rs");
    for line in code {
        assert!(here.contains(line), "not in the test: {line}");
    }
}

#[test]
fn the_example_of_the_documentation_talks_to_another_client() {
    let dir = tempfile::tempdir().unwrap();
    let net = dir.path().join("net");
    let mut command = testnet();
    command.args(["up", "--relays=6", "--authorities=1", "--dir", net.to_str().unwrap()]);
    let mut up = Running::start(command);
    up.until("The network is up");
    let network = Network::load(&net.join("network.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        // The folder as `posta init` leaves it.
        let folder = dir.path().join("documented");
        let made = Client::builder(&folder).network(network.clone()).cost(Cost::LEAST).create("word").await.unwrap();
        made.close().await;
        network.save(&folder.join("network.toml")).unwrap();
        let (to, mut printed) = mpsc::channel(16);
        let documented = async move { example(&folder, "word", to).await.unwrap() };
        let other = async {
            let other = Client::builder(dir.path().join("other")).network(network).cost(Cost::LEAST);
            let other = other.create("word").await.unwrap();
            let link = timeout(PATIENCE, printed.recv()).await.unwrap().unwrap();
            while other.next_event().await != Some(ClientEvent::Ready) {}
            let contact = other.join(&link).await.unwrap();
            loop {
                match timeout(PATIENCE, other.next_event()).await.unwrap().unwrap() {
                    ClientEvent::Message { body, .. } => break assert_eq!(body, b"hello"),
                    ClientEvent::Connected { .. } => drop(other.send(contact, b"good day".to_vec()).await.unwrap()),
                    _ => {}
                }
            }
            assert_eq!(timeout(PATIENCE, printed.recv()).await.unwrap().unwrap(), "good day");
            other.close().await;
        };
        tokio::select! {
            () = documented => panic!("the example has ended"),
            () = other => {}
        }
    });
}
