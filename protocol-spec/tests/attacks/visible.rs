//! Whether position, path length, or being a reply can be guessed from any byte that someone sees: on the wire, before
//! each hop; and by the hop, in its decrypted routing. Each of 20,000 packets (half of them replies; over 2, 3 and 4
//! hops) is looked at before every hop; byte by byte, chi-square tests compare who should look alike.

use posta_protocol::packet::Packet;
use posta_protocol::params::{COMMAND_BLOCK_LEN, SLOT_LEN};
use rand_chacha::ChaCha20Rng;

use super::chi_square::{Counts, LEAK, Worst, grouped, worst};
use super::second;
use super::support::*;

const PACKETS: usize = 20_000;
/// What a forwarding hop's command tells it: code, next relay, delay.
const FORWARD_LEN: usize = 1 + 32 + 4;
/// What the last hop's command tells it: code, inbox, reply number.
const LAST_LEN: usize = 1 + 32 + 16;

/// What a packet is and where it is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    reply: bool,
    hops: usize,
    hop: usize,
}

impl Class {
    fn all() -> impl Iterator<Item = Self> {
        [false, true]
            .into_iter()
            .flat_map(|reply| (2..=4).flat_map(move |hops| (0..hops).map(move |hop| Self { reply, hops, hop })))
    }

    fn is_last(&self) -> bool {
        self.hop + 1 == self.hops
    }
}

/// A deliberate leak, put into the bytes just before they are counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leak {
    None,
    /// The last hop's unused routing is zero, as in the first version of Sphinx.
    ZeroPadding,
    /// Bytes shifted in at each hop are zero instead of the hop's stream.
    ZeroFiller,
    /// One bit of the routing is set in seven replies of ten, instead of every second.
    BiasedBit,
}

/// All counts of one experiment.
struct Sights {
    wire: Vec<(Class, Counts)>,
    /// Decrypted routing behind what the command tells.
    forwarding: Vec<(Class, Counts)>,
    last: Vec<(Class, Counts)>,
}

impl Sights {
    fn new() -> Self {
        let g = small();
        let make = |len: usize| Class::all().map(|class| (class, Counts::new(len))).collect::<Vec<_>>();
        let mut forwarding = make(g.routing_len() - FORWARD_LEN);
        forwarding.retain(|(class, _)| !class.is_last());
        let mut last = make(g.routing_len() - LAST_LEN);
        last.retain(|(class, _)| class.is_last());
        Self { wire: make(g.packet_len()), forwarding, last }
    }

    fn see(&mut self, class: Class, packet: &Packet, relay: &Relay, leak: Leak, coin: bool) {
        let g = small();
        let mut wire = packet.as_bytes().to_vec();
        if leak == Leak::ZeroFiller && class.hop > 0 {
            wire[g.header_len() - SLOT_LEN..g.header_len()].fill(0);
        }
        if leak == Leak::BiasedBit && class.reply && coin {
            wire[3000] |= 1;
        }
        counts(&mut self.wire, class).add(&wire);
        let (_, mut routing) = second::routing(packet, g, EPOCH, &relay.id, &relay.secret);
        if class.is_last() {
            if leak == Leak::ZeroPadding {
                let filler = class.hop * SLOT_LEN;
                let end = g.routing_len() - filler;
                routing[COMMAND_BLOCK_LEN..end].fill(0);
            }
            counts(&mut self.last, class).add(&routing[LAST_LEN..]);
        } else {
            counts(&mut self.forwarding, class).add(&routing[FORWARD_LEN..]);
        }
    }

    /// Every comparison, with the byte that differs most.
    fn compare(&self) -> Vec<(&'static str, Worst)> {
        let by = |classes: &[(Class, Counts)], group: fn(&Class) -> Option<usize>| worst(&grouped(classes, group));
        vec![
            ("wire: forward or reply", by(&self.wire, |c| Some(usize::from(c.reply)))),
            ("wire: first, second, third or fourth hop", by(&self.wire, |c| Some(c.hop))),
            ("wire: before the last hop or not", by(&self.wire, |c| Some(usize::from(c.is_last())))),
            ("wire: two, three or four hops", by(&self.wire, |c| Some(c.hops - 2))),
            ("wire: hops left", by(&self.wire, |c| Some(c.hops - 1 - c.hop))),
            ("wire: any of all classes", worst(&self.wire.iter().map(|(_, c)| c.clone()).collect::<Vec<_>>())),
            ("forwarding hop: position", by(&self.forwarding, |c| Some(c.hop))),
            ("forwarding hop: path length", by(&self.forwarding, |c| Some(c.hops - 2))),
            ("forwarding hop: forward or reply", by(&self.forwarding, |c| Some(usize::from(c.reply)))),
            ("last hop: path length, forward", by(&self.last, |c| (!c.reply).then(|| c.hops - 2))),
            ("last hop: path length, reply", by(&self.last, |c| c.reply.then(|| c.hops - 2))),
        ]
    }
}

fn counts(classes: &mut [(Class, Counts)], class: Class) -> &mut Counts {
    classes.iter_mut().find(|(c, _)| *c == class).map(|(_, counts)| counts).unwrap()
}

fn experiment(packets: usize, leak: Leak) -> Vec<(&'static str, Worst)> {
    let g = small();
    let mut rng = rng(1);
    let relays = relays(4, g, &mut rng);
    let mut sights = Sights::new();
    for n in 0..packets {
        let (reply, hops) = (n % 2 == 1, 2 + n / 2 % 3);
        let mut packet = make(&relays[..hops], reply, &mut rng);
        for (hop, relay) in relays[..hops].iter().enumerate() {
            // Of the coins that fall the other way, two in five are turned: seven of ten in all.
            sights.see(Class { reply, hops, hop }, &packet, relay, leak, (n / 6) % 5 < 2);
            relay.peel(&mut packet).unwrap();
        }
    }
    sights.compare()
}

fn make(relays: &[Relay], is_reply: bool, rng: &mut ChaCha20Rng) -> Packet {
    let g = small();
    if !is_reply {
        return forward(g, relays, b"the same content in all of them", rng);
    }
    let (block, _) = reply(g, relays, rng);
    block.reply(g, b"the same content in all of them").unwrap().1
}

/// The comparisons that find a leak.
fn caught(results: &[(&'static str, Worst)]) -> Vec<&'static str> {
    results.iter().filter(|(_, worst)| worst.z >= LEAK).map(|(what, _)| *what).collect()
}

#[test]
fn position_path_length_and_direction_show_in_no_byte() {
    let results = experiment(PACKETS, Leak::None);
    for (what, worst) in &results {
        println!("{what}: the largest z is {:.2}, at byte {}", worst.z, worst.position);
    }
    assert!(caught(&results).is_empty(), "{results:?}");
}

#[test]
fn zeros_as_padding_would_show_the_path_length_to_the_last_hop() {
    let results = experiment(600, Leak::ZeroPadding);
    assert_eq!(caught(&results), ["last hop: path length, forward", "last hop: path length, reply"]);
}

#[test]
fn zeros_shifted_in_would_show_the_position_to_everyone() {
    let results = experiment(600, Leak::ZeroFiller);
    assert!(caught(&results).contains(&"wire: first, second, third or fourth hop"), "{results:?}");
}

#[test]
fn one_biased_bit_would_show_what_is_a_reply() {
    let results = experiment(3_000, Leak::BiasedBit);
    let caught = caught(&results);
    assert!(caught.contains(&"wire: forward or reply"), "{results:?}");
    assert!(results.iter().all(|(what, worst)| !caught.contains(what) || worst.position == 3000), "{results:?}");
}
