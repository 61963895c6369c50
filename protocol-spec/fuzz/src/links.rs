//! What is said on a link beside packets.

use posta_protocol::document::Profile;
use posta_protocol::frame::{Delivery, Frame, Hello, MAX_FRAME_LEN};
use posta_protocol::geometry::Geometry;
use posta_protocol::ids::{Epoch, Hash, InboxId, SurbId};
use posta_protocol::packet::Packet;
use posta_protocol::secret::Secret;

use super::{bounded, fitted, onion, same};

pub(crate) fn frame(input: &[u8]) {
    if let Ok(hello) = bounded(input.len(), || Hello::decode(input)) {
        same(input, &hello.encode(), "hello");
    }
    if let Ok(frame) = bounded(input.len(), || Frame::decode(input)) {
        let encoded = frame.encode();
        assert!(encoded.len() <= MAX_FRAME_LEN);
        // What isn't understood is named by its number only, which alone may be too short for a frame that is known.
        if !matches!(frame, Frame::Unknown(_)) {
            same(input, &encoded, "frame");
            assert_eq!(Frame::decode(&encoded), Ok(frame));
        }
    }
    let g = onion::geometry(1, 64);
    let packet = Packet::from_bytes(input.into());
    let delivery = bounded(input.len(), || Delivery::from_packet(&packet, g));
    assert_eq!(delivery.is_ok(), input.len() == g.packet_len());
    let packet = Packet::from_bytes(fitted(input, g.packet_len()).into());
    let delivery = Delivery::from_packet(&packet, g).expect("it has the geometry's length");
    let spent = Delivery::into_packet(delivery.surb, packet, g);
    assert!(spent.as_bytes()[SurbId::LEN..g.header_len()].iter().all(|b| *b == 0), "the spent header is erased");
    assert_eq!(Delivery::from_packet(&spent, g), Ok(delivery));
}

pub(crate) fn frame_seeds() -> Vec<Vec<u8>> {
    let delivery = Packet::zeroed(onion::geometry(1, 64));
    vec![
        Hello::new(Geometry::DEFAULT, Epoch(1), Hash([2; 32])).encode(),
        Frame::Attach(Secret::new([3; 32])).encode(),
        Frame::Attached(InboxId([4; 32])).encode(),
        Frame::Goodbye.encode(),
        Frame::Pace(Profile::Steady).encode(),
        Frame::Unknown(99).encode(),
        delivery.as_bytes().to_vec(),
    ]
}
