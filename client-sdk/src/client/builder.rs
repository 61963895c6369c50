//! Opening a client whose state is kept in a folder.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use posta_link::fetch::Network;
use zeroize::Zeroizing;

use super::{Client, ClientOptions, StartError};
use crate::driver::keeper;
use crate::session::event::{Options, Profile};
use crate::store::Cost;

/// The network of a client, in its folder: `network.toml` as the authorities publish it.
pub const NETWORK_FILE: &str = "network.toml";
/// How long authorities are waited for, unless it is said otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a client with a folder is opened.
#[derive(Clone, Debug)]
pub struct ClientBuilder {
    folder: PathBuf,
    network: Option<Network>,
    local: IpAddr,
    session: Options,
    profile: Option<Profile>,
    patience: Duration,
    cost: Cost,
}

impl Client {
    /// A client that keeps its state in this folder; see [`crate::store`] for what is in it.
    pub fn builder(folder: impl AsRef<Path>) -> ClientBuilder {
        ClientBuilder {
            folder: folder.as_ref().to_owned(),
            network: None,
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            session: Options::default(),
            profile: None,
            patience: PATIENCE,
            cost: Cost::default(),
        }
    }
}

impl ClientBuilder {
    /// The network; without it, the folder's own [`NETWORK_FILE`].
    #[must_use]
    pub fn network(self, network: Network) -> Self {
        Self { network: Some(network), ..self }
    }

    /// The local address to dial from.
    #[must_use]
    pub fn local(self, local: IpAddr) -> Self {
        Self { local, ..self }
    }

    /// How the session behaves.
    #[must_use]
    pub fn session(self, session: Options) -> Self {
        Self { session, ..self }
    }

    /// How to trade latency against cover, from now on: it is kept. Without it, as before; at first [`Profile::Fast`].
    #[must_use]
    pub fn profile(self, profile: Profile) -> Self {
        Self { profile: Some(profile), ..self }
    }

    /// How long to wait for authorities that don't answer.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What a guess at the passphrase of a new state is to cost.
    #[must_use]
    pub fn cost(self, cost: Cost) -> Self {
        Self { cost, ..self }
    }

    /// Opens the state, fetches and verifies the network's documents, and starts. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`], each one sentence that says what to do. [`StartError::Store`] for a wrong passphrase, a folder in
    /// use, a damaged state or none.
    pub async fn open(self, passphrase: impl AsRef<[u8]>) -> Result<Client, StartError> {
        self.run(passphrase.as_ref(), None).await
    }

    /// Makes the state, and goes on as [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`], and [`StoreError::Exists`](crate::store::StoreError::Exists).
    pub async fn create(self, passphrase: impl AsRef<[u8]>) -> Result<Client, StartError> {
        let cost = self.cost;
        self.run(passphrase.as_ref(), Some(cost)).await
    }

    async fn run(self, passphrase: &[u8], create: Option<Cost>) -> Result<Client, StartError> {
        let network = match self.network {
            Some(network) => network,
            None => Network::load(&self.folder.join(NETWORK_FILE))?,
        };
        let stored = keeper::open(self.folder, Zeroizing::new(passphrase.to_vec()), create).await?;
        let options = ClientOptions { network, local: self.local, session: self.session, patience: self.patience };
        Client::run(options, Some(stored), self.profile).await
    }
}
