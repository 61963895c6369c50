//! The sending half of a link: a bounded queue, and one task that writes it to the streams.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use posta_protocol::frame::{Frame, MAX_FRAME_LEN};
use posta_protocol::packet::Packet;
use quinn::{SendStream, WriteError};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::error;
use zeroize::Zeroizing;

use crate::connection::Connection;
use crate::error::{Closed, ControlError, SendError};
use crate::transport::Audience;

/// Packets that wait for a relay besides those in QUIC's send window, about 0.7 MB; when full, the sender is told.
pub const LINK_SEND_QUEUE: usize = 32;
/// Packets that wait for a client's entry; when full, the sender is told.
pub const CLIENT_SEND_QUEUE: usize = 8;
/// Packets that wait for a client at its entry, about 1.5 MB: what an inbox kept while the client was away, and 8 more;
/// when full, the sender is told.
pub const ENTRY_SEND_QUEUE: usize = 72;
/// Control frames that wait; when full, the sender is told.
pub const CONTROL_QUEUE: usize = 16;
/// How long a link whose senders are all gone waits until the peer has everything.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends to one peer. A clone feeds the same queue.
#[derive(Clone)]
pub struct LinkSender {
    packets: mpsc::Sender<Packet>,
    control: mpsc::Sender<Zeroizing<Vec<u8>>>,
    packet_len: usize,
    connection: Connection,
}

impl fmt::Debug for LinkSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkSender(..)")
    }
}

impl LinkSender {
    /// Queues a packet, if there is room.
    ///
    /// A packet of another length than the link's would break the framing for all that follow: it closes the link.
    ///
    /// # Errors
    /// [`SendError::Full`] with the packet, or [`SendError::Closed`].
    pub fn try_send(&self, packet: Packet) -> Result<(), SendError> {
        if !self.fits(&packet) {
            return Err(SendError::Closed);
        }
        self.packets.try_send(packet).map_err(|e| match e {
            mpsc::error::TrySendError::Full(packet) => SendError::Full(packet),
            mpsc::error::TrySendError::Closed(_) => SendError::Closed,
        })
    }

    /// Queues a packet, and waits for room. Safe to cancel: the packet is then not queued.
    ///
    /// # Errors
    /// [`Closed`] if the link is, or if the packet has another length, which closes it.
    pub async fn send(&self, packet: Packet) -> Result<(), Closed> {
        if !self.fits(&packet) {
            return Err(Closed);
        }
        self.packets.send(packet).await.map_err(|_| Closed)
    }

    /// Queues a control frame, if there is room; it goes before the packets that wait.
    ///
    /// # Errors
    /// [`ControlError::Full`] or [`ControlError::Closed`].
    pub fn try_control(&self, frame: Frame) -> Result<(), ControlError> {
        let body = Zeroizing::new(frame.encode());
        let length = u16::try_from(body.len()).map_err(|_| ControlError::Closed)?;
        if body.len() > MAX_FRAME_LEN {
            return Err(ControlError::Closed);
        }
        let mut framed = Zeroizing::new(Vec::with_capacity(2 + body.len()));
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(&body);
        self.control.try_send(framed).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => ControlError::Full,
            mpsc::error::TrySendError::Closed(_) => ControlError::Closed,
        })
    }

    /// Packets that can be queued at this moment.
    #[must_use]
    pub fn room(&self) -> usize {
        self.packets.capacity()
    }

    /// Whether the link is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.packets.is_closed()
    }

    fn fits(&self, packet: &Packet) -> bool {
        let fits = packet.as_bytes().len() == self.packet_len;
        if !fits {
            error!("a packet of another geometry was to be sent: the link is closed");
            self.connection.close();
        }
        fits
    }
}

/// Starts the writer of a link.
pub(super) fn start(
    connection: Connection,
    control: SendStream,
    streams: Vec<SendStream>,
    packet_len: usize,
) -> LinkSender {
    let room = match connection.audience() {
        Audience::Link => LINK_SEND_QUEUE,
        _ if connection.dialled() => CLIENT_SEND_QUEUE,
        _ => ENTRY_SEND_QUEUE,
    };
    let (packets, packet_queue) = mpsc::channel(room);
    let (frames, control_queue) = mpsc::channel(CONTROL_QUEUE);
    let writer = Writer {
        control,
        control_queue,
        frame: None,
        lanes: streams.into_iter().map(|stream| Lane { stream, rest: Bytes::new() }).collect(),
        packet_queue,
        next: 0,
    };
    tokio::spawn(writer.run(connection.clone()));
    LinkSender { packets, control: frames, packet_len, connection }
}

/// A packet stream and what of its packet QUIC hasn't taken yet.
struct Lane {
    stream: SendStream,
    rest: Bytes,
}

impl Lane {
    /// Hands over what is left, without a copy. Ready when nothing is.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        while !self.rest.is_empty() {
            // A dropped future loses nothing: quinn keeps the waker with the stream, and takes bytes only when ready.
            let write = pin!(self.stream.write_chunks(std::slice::from_mut(&mut self.rest)));
            match write.poll(cx) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

struct Writer {
    control: SendStream,
    control_queue: mpsc::Receiver<Zeroizing<Vec<u8>>>,
    /// A frame under way, and how many of its bytes QUIC has.
    frame: Option<(Zeroizing<Vec<u8>>, usize)>,
    lanes: Vec<Lane>,
    packet_queue: mpsc::Receiver<Packet>,
    /// The lane that gets the next packet if it is free: packets go around, so that a loss delays few.
    next: usize,
}

impl Writer {
    /// Writes until the connection closes or every sender is gone.
    async fn run(mut self, connection: Connection) {
        let written = {
            let mut closed = pin!(connection.quic.closed());
            poll_fn(|cx| match closed.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(false),
                Poll::Pending => self.poll(cx).map(|r| r.is_ok()),
            })
            .await
        };
        if !written {
            connection.close();
            return;
        }
        // On the heap only now: a link that lives needs no room for it.
        let _ = Box::pin(timeout(DRAIN_TIMEOUT, self.drain())).await;
    }

    /// Ends the streams and waits until the peer has all of them.
    async fn drain(&mut self) {
        let streams = self.lanes.iter_mut().map(|lane| &mut lane.stream).chain([&mut self.control]);
        let mut waits = Vec::new();
        for stream in streams {
            let _ = stream.finish();
            waits.push(stream.stopped());
        }
        for wait in waits {
            let _ = wait.await;
        }
    }

    /// Ready when every sender is gone and everything is written.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let control_done = match self.poll_control(cx) {
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            done => done.is_ready(),
        };
        match self.poll_packets(cx) {
            Poll::Ready(Ok(())) if !control_done => Poll::Pending,
            other => other,
        }
    }

    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        loop {
            if let Some((frame, written)) = &mut self.frame {
                while let Some(rest) = frame.get(*written..)
                    && !rest.is_empty()
                {
                    match Pin::new(&mut self.control).poll_write(cx, rest) {
                        Poll::Ready(Ok(n)) => *written += n,
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                self.frame = None;
            }
            match self.control_queue.poll_recv(cx) {
                Poll::Ready(Some(frame)) => self.frame = Some((frame, 0)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn poll_packets(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        let mut busy = 0;
        for lane in &mut self.lanes {
            match lane.poll_flush(cx) {
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => busy += 1,
            }
        }
        while busy < self.lanes.len() {
            // A lane is free, so this ends within one round.
            while self.lanes.get(self.next).is_none_or(|lane| !lane.rest.is_empty()) {
                self.next = if self.next + 1 < self.lanes.len() { self.next + 1 } else { 0 };
            }
            let Some(lane) = self.lanes.get_mut(self.next) else { break };
            match self.packet_queue.poll_recv(cx) {
                Poll::Ready(Some(packet)) => lane.rest = Bytes::from(packet.into_bytes()),
                Poll::Ready(None) if busy == 0 => return Poll::Ready(Ok(())),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
            match lane.poll_flush(cx) {
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Ready(Ok(())) => {}
                Poll::Pending => busy += 1,
            }
            self.next += 1;
        }
        Poll::Pending
    }
}
