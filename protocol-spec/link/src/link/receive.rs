//! The receiving half of a link: no task, no queue. What isn't asked for stays with the sender, by flow control.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use posta_protocol::frame::{Frame, MAX_FRAME_LEN};
use posta_protocol::packet::Packet;
use quinn::RecvStream;
use tracing::debug;
use zeroize::Zeroizing;

use super::Received;
use crate::connection::Connection;

/// A packet's box is made once this many of its bytes may be there: an idle link then holds none.
const FIRST_READ: usize = 64;
/// Bytes of a control frame's length.
const LENGTH_LEN: usize = 2;

/// How a stream went on.
enum Step<T> {
    /// Something whole.
    Whole(T),
    /// The peer ended the stream between two things.
    Ended,
    /// The connection failed, or the peer gave the stream up.
    Failed,
    /// The peer broke the framing.
    Breach(&'static str),
}

/// Receives from one peer.
pub struct LinkReceiver {
    connection: Connection,
    control: Option<ControlStream>,
    packets: Vec<PacketStream>,
    /// The stream that is looked at first, so that none starves.
    first: usize,
}

impl fmt::Debug for LinkReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkReceiver(..)")
    }
}

impl LinkReceiver {
    pub(super) fn new(
        connection: Connection,
        control: RecvStream,
        packets: Vec<RecvStream>,
        packet_len: usize,
    ) -> Self {
        let packets = packets.into_iter().map(|stream| PacketStream::new(stream, packet_len)).collect();
        Self { connection, control: Some(ControlStream::new(control)), packets, first: 0 }
    }

    /// The next packet or control frame; `None` once the peer has ended all its streams or the connection is closed. A
    /// peer that breaks the framing is disconnected. Safe to cancel.
    pub async fn recv(&mut self) -> Option<Received> {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        if let Some(control) = &mut self.control
            && let Poll::Ready(step) = control.poll(cx)
        {
            match step {
                Step::Whole(frame) => return Poll::Ready(Some(Received::Control(frame))),
                Step::Ended => self.control = None,
                Step::Failed => return self.end(None),
                Step::Breach(what) => return self.end(Some(what)),
            }
        }
        let mut open = usize::from(self.control.is_some());
        for n in 0..self.packets.len() {
            let at = (self.first + n) % self.packets.len();
            let Some(stream) = self.packets.get_mut(at) else { continue };
            match stream.poll(cx) {
                Poll::Ready(Step::Whole(packet)) => {
                    self.first = at + 1;
                    return Poll::Ready(Some(Received::Packet(packet)));
                }
                Poll::Ready(Step::Ended) => {}
                Poll::Ready(Step::Failed) => return self.end(None),
                Poll::Ready(Step::Breach(what)) => return self.end(Some(what)),
                Poll::Pending => open += 1,
            }
        }
        if open == 0 { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Nothing more comes.
    fn end(&mut self, breach: Option<&'static str>) -> Poll<Option<Received>> {
        if let Some(what) = breach {
            debug!("a peer is disconnected: {what}");
            self.connection.close_breach();
        } else if !self.connection.is_closed() {
            // The peer gave one stream up; a link with a part of its streams is none.
            self.connection.close();
        }
        self.control = None;
        self.packets.clear();
        Poll::Ready(None)
    }
}

/// One stream of packets.
struct PacketStream {
    stream: RecvStream,
    packet_len: usize,
    /// A packet that has begun, and how many of its bytes are there.
    begun: Option<(Box<[u8]>, usize)>,
    ended: bool,
}

impl PacketStream {
    const fn new(stream: RecvStream, packet_len: usize) -> Self {
        Self { stream, packet_len, begun: None, ended: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step<Packet>> {
        if self.ended {
            return Poll::Ready(Step::Ended);
        }
        if self.begun.is_none() {
            let mut start = [0; FIRST_READ];
            let Some(room) = start.get_mut(..FIRST_READ.min(self.packet_len)) else {
                return Poll::Ready(Step::Failed);
            };
            let Ok(n) = ready!(self.stream.poll_read(cx, room)) else {
                return Poll::Ready(Step::Failed);
            };
            if n == 0 {
                self.ended = true;
                return Poll::Ready(Step::Ended);
            }
            let mut packet = vec![0; self.packet_len].into_boxed_slice();
            for (to, from) in packet.iter_mut().zip(start.iter().take(n)) {
                *to = *from;
            }
            self.begun = Some((packet, n));
        }
        let Some((mut packet, mut have)) = self.begun.take() else { return Poll::Pending };
        while let Some(room) = packet.get_mut(have..)
            && !room.is_empty()
        {
            match self.stream.poll_read(cx, room) {
                Poll::Pending => {
                    self.begun = Some((packet, have));
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Step::Failed),
                Poll::Ready(Ok(0)) => return Poll::Ready(Step::Breach("a packet stream ended within a packet")),
                Poll::Ready(Ok(n)) => have += n,
            }
        }
        Poll::Ready(Step::Whole(Packet::from_bytes(packet)))
    }
}

/// The control stream: a length (u16) before each frame.
struct ControlStream {
    stream: RecvStream,
    /// Made on the first frame; erased, for a frame may hold a secret.
    buffer: Zeroizing<Vec<u8>>,
    have: usize,
}

impl ControlStream {
    fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: Zeroizing::new(Vec::new()), have: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Step<Frame>> {
        if self.buffer.is_empty() {
            self.buffer = Zeroizing::new(vec![0; LENGTH_LEN]);
        }
        loop {
            while let Some(room) = self.buffer.get_mut(self.have..)
                && !room.is_empty()
            {
                match ready!(self.stream.poll_read(cx, room)) {
                    Err(_) => return Poll::Ready(Step::Failed),
                    Ok(0) if self.have == 0 => return Poll::Ready(Step::Ended),
                    Ok(0) => return Poll::Ready(Step::Breach("the control stream ended within a frame")),
                    Ok(n) => self.have += n,
                }
            }
            let Some((length, frame)) = self.buffer.split_first_chunk::<LENGTH_LEN>() else {
                return Poll::Ready(Step::Failed);
            };
            let length = usize::from(u16::from_le_bytes(*length));
            if length == 0 || length > MAX_FRAME_LEN {
                return Poll::Ready(Step::Breach("a control frame has a length that is not allowed"));
            }
            if frame.len() < length {
                let mut whole = Zeroizing::new(vec![0; LENGTH_LEN + length]);
                for (to, from) in whole.iter_mut().zip(self.buffer.iter()) {
                    *to = *from;
                }
                self.buffer = whole;
                continue;
            }
            let decoded = Frame::decode(frame);
            self.buffer = Zeroizing::new(vec![0; LENGTH_LEN]);
            self.have = 0;
            return Poll::Ready(decoded.map_or(Step::Breach("a control frame is malformed"), Step::Whole));
        }
    }
}
