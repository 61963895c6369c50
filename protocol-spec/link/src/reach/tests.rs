//! Two relays over real sockets: one asks, the other dials.

use posta_protocol::document::Shelf;
use posta_protocol::secret::Secret;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::endpoint::AnyPeer;
use crate::limits::PortLimits;
use crate::mirror::Mirrored;

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn key(n: u8) -> LinkKey {
    LinkKey::from_seed(&Secret::new([n; 32])).unwrap()
}

/// A relay's port that mirrors, served until the test ends.
fn port(audience: Audience, n: u8, mirrored: &Mirrored) -> SocketAddr {
    let limits = PortLimits { mirror: true, ..PortLimits::of(audience) };
    let any = SocketAddr::new(HOST, 0);
    let port = Endpoint::bind_limited(any, audience, &key(n), Arc::new(AnyPeer), limits).unwrap();
    let address = port.local_addr().unwrap();
    let mirrored = mirrored.clone();
    tokio::spawn(async move {
        while let Some(connection) = port.accept().await {
            let mirrored = mirrored.clone();
            tokio::spawn(async move { mirrored.serve(&connection).await });
        }
    });
    address
}

#[tokio::test]
async fn a_relay_learns_which_of_its_addresses_others_reach() {
    let plain = Mirrored::new(watch::channel(Arc::new(Shelf::default())).1);
    let (link, client) = (port(Audience::Link, 1, &plain), port(Audience::Client, 1, &plain));
    let foreign = port(Audience::Client, 3, &plain);
    // Nobody listens there: the socket that has had the port is gone.
    let dead = UdpSocket::bind((HOST, 0)).unwrap().local_addr().unwrap();
    let not_listed = port(Audience::Link, 1, &plain);
    let asker = key(1).public();
    let is_theirs = move |key: &LinkPublicKey, for_clients: bool, address: &SocketAddr| {
        let listed = if for_clients { [client, foreign, dead].contains(address) } else { *address == link };
        *key == asker && listed
    };
    let other = port(Audience::Link, 2, &plain.clone().reaching(Reacher::new(&key(2), Arc::new(is_theirs))));

    let ask = async |from: u8, for_clients, address| {
        let dialer = Endpoint::dialer(HOST, Audience::Directory, Some(&key(from))).unwrap();
        let connection = dialer.connect(other, key(2).public()).await.unwrap();
        let asked = ask_to_reach(&connection, for_clients, address);
        timeout(crate::connection::REQUEST_TIMEOUT, asked).await.expect("an answer in time")
    };
    assert_eq!(ask(1, false, link).await.unwrap(), Reached::Yes);
    assert_eq!(ask(1, true, client).await.unwrap(), Reached::Yes);
    assert_eq!(ask(1, true, foreign).await.unwrap(), Reached::Other, "another key answers there");
    assert_eq!(ask(1, true, dead).await.unwrap(), Reached::Silent);
    let refused = |answer| matches!(answer, Err(FetchError::Refused(Refusal::Address)));
    assert!(refused(ask(1, false, not_listed).await), "it answers, but the consensus doesn't list it");
    assert!(refused(ask(1, true, link).await), "it is no port for clients");
    assert!(refused(ask(4, false, link).await), "it is somebody else's");
    // A mirror that can't dial says so.
    let dialer = Endpoint::dialer(HOST, Audience::Directory, Some(&key(2))).unwrap();
    let connection = dialer.connect(link, key(1).public()).await.unwrap();
    let answer = ask_to_reach(&connection, false, other).await;
    assert!(matches!(answer, Err(FetchError::Refused(Refusal::Unsupported))), "{answer:?}");
}
