//! What the end-to-end layer promises, at the level of a conversation: what goes into boxes and comes out of them, with
//! states copied, loaded and set back as a thief or a crash would.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod attacks;
mod secrecy;
mod sizes;
mod turns;

use std::sync::Arc;

use posta_client::end_to_end::{Conversation, Scheme, Unopened};
use posta_protocol::end_to_end::Inner;
use posta_protocol::now::Mono;
use posta_protocol::secret::Secret;

const NOW: Mono = Mono(1_000_000);
const SCHEMES: [Scheme; 2] = [Scheme::Mls, Scheme::Model];

/// Two ends, and everything that went between them.
struct Pair {
    /// The inviter, who joins; the follower of the invitation, who founds.
    ends: [Conversation; 2],
    numbers: [u64; 2],
    wire: Vec<(usize, Arc<[u8]>)>,
}

fn end(scheme: Scheme, seed: u8) -> Conversation {
    Conversation::new(scheme, &Secret::new([seed; 32])).unwrap()
}

fn open(end: &mut Conversation, bytes: &[u8]) -> Result<Vec<u8>, Unopened> {
    end.open(NOW, &Inner::decode(bytes).unwrap()).map(|content| content.to_vec())
}

fn copy(end: &Conversation) -> Conversation {
    Conversation::load(&end.save()).unwrap()
}

/// A pair whose inviter has not got the welcome yet; and the welcome.
fn invited(scheme: Scheme) -> (Pair, Arc<[u8]>) {
    let mut ends = [end(scheme, 1), end(scheme, 2)];
    let package = ends[0].key_package().unwrap();
    let welcome = ends[1].found(&package).unwrap();
    let introduction = ends[1].introduce(welcome, b"where I read").unwrap();
    (Pair { ends, numbers: [0; 2], wire: vec![(1, Arc::clone(&introduction))] }, introduction)
}

/// A pair that has connected, first turn included.
fn pair(scheme: Scheme) -> Pair {
    let (mut pair, introduction) = invited(scheme);
    assert_eq!(open(&mut pair.ends[0], &introduction).unwrap(), b"where I read");
    pair.turn(0);
    pair
}

impl Pair {
    fn seal(&mut self, from: usize, text: &str) -> Arc<[u8]> {
        self.numbers[from] += 1;
        let sealed = self.ends[from].seal(NOW, self.numbers[from], text.as_bytes()).unwrap();
        self.wire.push((from, Arc::clone(&sealed)));
        sealed
    }

    fn open(&mut self, at: usize, sealed: &[u8]) -> Result<Vec<u8>, Unopened> {
        open(&mut self.ends[at], sealed)
    }

    /// A message from one end to the other.
    fn say(&mut self, from: usize, text: &str) -> Arc<[u8]> {
        let sealed = self.seal(from, text);
        assert_eq!(self.open(1 - from, &sealed).unwrap(), text.as_bytes());
        sealed
    }

    /// A turn that is on its way.
    fn make_turn(&mut self, from: usize) -> Arc<[u8]> {
        let turn = self.ends[from].turn(NOW, b"a receipt").unwrap();
        self.wire.push((from, Arc::clone(&turn.bytes)));
        turn.bytes
    }

    fn turn(&mut self, from: usize) -> Arc<[u8]> {
        let turn = self.make_turn(from);
        assert_eq!(self.open(1 - from, &turn).unwrap(), b"a receipt");
        turn
    }
}
