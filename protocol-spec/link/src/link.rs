//! A link: hello both ways, then packets and control frames.
//!
//! Packets of one length follow one another on a few long streams. Which stream a packet takes means nothing, so a link
//! does not keep their order; mixing breaks it anyway.

mod receive;
mod send;

use posta_protocol::error::Malformed;
use posta_protocol::frame::{Frame, Hello};
use posta_protocol::packet::Packet;
pub use posta_protocol::params::HELLO_TIMEOUT;
pub(crate) use posta_protocol::registry::stream::{CONTROL, PACKETS};
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

pub use self::receive::LinkReceiver;
pub use self::send::{CLIENT_SEND_QUEUE, CONTROL_QUEUE, DRAIN_TIMEOUT, ENTRY_SEND_QUEUE, LINK_SEND_QUEUE, LinkSender};

use crate::connection::Connection;
use crate::error::LinkError;
use crate::transport::Audience;

/// An open link.
#[derive(Debug)]
pub struct Link {
    /// What the other side said of itself; its version and geometry are ours.
    pub peer_hello: Hello,
    /// The way to the peer. When its last clone is dropped, what was taken is still sent.
    pub sender: LinkSender,
    /// The way from the peer. When it is dropped, the peer can't send any more.
    pub receiver: LinkReceiver,
    /// The connection below.
    pub connection: Connection,
}

/// What came over a link.
#[derive(Debug)]
pub enum Received {
    /// A packet of the link's length, its bytes unchecked.
    Packet(Packet),
    /// A control frame.
    Control(Frame),
}

/// Opens a link on a connection whose handshake is finished.
pub(crate) async fn open(connection: Connection, hello: Hello, packet_len: usize) -> Result<Link, LinkError> {
    if connection.audience() == Audience::Directory || packet_len == 0 {
        return Err(LinkError::Audience);
    }
    let exchange = async {
        let sending = open_streams(&connection, &hello).await?;
        let (peer_hello, receiving) = accept_streams(&connection, &hello).await?;
        Ok::<_, LinkError>((sending, peer_hello, receiving))
    };
    let result = timeout(HELLO_TIMEOUT, exchange).await.unwrap_or(Err(LinkError::Timeout));
    match &result {
        Ok(_) => {}
        Err(LinkError::Version | LinkError::Geometry) => connection.close_mismatch(),
        Err(_) => connection.close_breach(),
    }
    let ((control_out, packets_out), peer_hello, (control_in, packets_in)) = result?;
    Ok(Link {
        peer_hello,
        sender: send::start(connection.clone(), control_out, packets_out, packet_len),
        receiver: LinkReceiver::new(connection.clone(), control_in, packets_in, packet_len),
        connection,
    })
}

/// Our streams, the control stream first, each with its first bytes.
async fn open_streams(connection: &Connection, hello: &Hello) -> Result<(SendStream, Vec<SendStream>), LinkError> {
    let quic = &connection.quic;
    let mut control = quic.open_uni().await.map_err(|e| LinkError::from_quic(&e))?;
    let mut first = vec![CONTROL];
    first.extend_from_slice(&hello.encode());
    control.write_all(&first).await.map_err(|_| connection.failure())?;
    // A control frame goes before the packets that wait.
    let _ = control.set_priority(1);
    let mut packets = Vec::with_capacity(connection.audience().packet_streams());
    for _ in 0..connection.audience().packet_streams() {
        let mut stream = quic.open_uni().await.map_err(|e| LinkError::from_quic(&e))?;
        stream.write_all(&[PACKETS]).await.map_err(|_| connection.failure())?;
        packets.push(stream);
    }
    Ok((control, packets))
}

/// The peer's streams; QUIC hands them over in the order in which they were opened.
async fn accept_streams(
    connection: &Connection,
    ours: &Hello,
) -> Result<(Hello, (RecvStream, Vec<RecvStream>)), LinkError> {
    let mut control = accept_stream(connection, CONTROL).await?;
    let mut hello = [0; Hello::LEN];
    control.read_exact(&mut hello).await.map_err(|_| connection.failure())?;
    let hello = Hello::decode(&hello)?;
    if hello.version != ours.version {
        return Err(LinkError::Version);
    }
    if hello.geometry != ours.geometry {
        return Err(LinkError::Geometry);
    }
    let mut packets = Vec::with_capacity(connection.audience().packet_streams());
    for _ in 0..connection.audience().packet_streams() {
        packets.push(accept_stream(connection, PACKETS).await?);
    }
    Ok((hello, (control, packets)))
}

async fn accept_stream(connection: &Connection, kind: u8) -> Result<RecvStream, LinkError> {
    let mut stream = connection.quic.accept_uni().await.map_err(|e| LinkError::from_quic(&e))?;
    let mut first = [0];
    stream.read_exact(&mut first).await.map_err(|_| connection.failure())?;
    if first == [kind] { Ok(stream) } else { Err(Malformed::Value("the first byte of a stream").into()) }
}
