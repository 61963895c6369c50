//! Floods at the door, in virtual time. Each has a control: the same door without the limit.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::endpoint::HANDSHAKE_TIMEOUT;

fn at(ms: u64) -> Mono {
    Mono(ms * 1000)
}

fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const LIMITS: PortLimits = PortLimits::of(Audience::Client);

#[test]
fn a_rate_lets_through_its_burst_and_then_its_rate() {
    let mut rate = Rate::new(10, 5);
    assert_eq!((0..9).filter(|_| rate.take(at(0))).count(), 5);
    assert!(!rate.take(at(99)) && rate.take(at(100)) && !rate.take(at(100)));
    let through = (0..100_000).filter(|ms| rate.take(at(1_000 + ms))).count();
    assert!((1_000..=1_005).contains(&through), "{through}");
    let mut half = Rate::new(10, 4);
    assert_eq!((0..9).filter(|_| half.take_half(at(0))).count(), 2);
    assert_eq!((0..9).filter(|_| half.take(at(0))).count(), 2);
    assert!(Rate::new(0, 0).take(at(0)), "never nothing at all");
}

#[test]
fn links_that_share_a_rate_wait_for_their_turns() {
    let rate = SharedRate::new(10, 3);
    let turns: Vec<_> = (0..5).map(|_| rate.turn(at(1_000)).as_millis()).collect();
    assert_eq!(turns, [0, 0, 0, 100, 200]);
    assert_eq!(rate.turn(at(1_300)).as_millis(), 0, "three turns later: the two that waited, and this one");
    assert_eq!(rate.turn(at(60_000)).as_millis(), 0);
    // Fifty links as fast as they can, each waiting for its turn: no more than the rate, and nobody is left out.
    let (rate, mut next, mut through) = (SharedRate::new(1_000, 10), [0_u64; 50], [0; 50]);
    for ms in 0..10_000 {
        for (next, through) in next.iter_mut().zip(&mut through).filter(|(next, _)| **next <= ms) {
            *next = ms + rate.turn(at(ms)).as_micros().div_ceil(1_000) as u64;
            *through += 1;
        }
    }
    let all: u32 = through.iter().sum();
    assert!((9_900..=10_100).contains(&all), "{all}");
    assert!(through.iter().all(|n| (190..=210).contains(n)), "{through:?}");
}

#[test]
fn other_limits_count_at_once() {
    let mut rate = Rate::new(10, 10);
    assert_eq!((0..20).filter(|_| rate.take(at(0))).count(), 10);
    rate.retune(at(0), 100, 50);
    assert_eq!((0..60).filter(|_| rate.take(at(0))).count(), 0, "what is missing stays missing");
    assert_eq!((0..60).filter(|_| rate.take(at(100))).count(), 10);
    rate.retune(at(100), 1, 1);
    assert!(!rate.take(at(100)) && rate.take(at(1_100)), "and is never more than a bucket");

    let doorman = Doorman::new(LIMITS);
    let knock = |ms| doorman.judge(at(ms), v4(192, 0, 2, 1), true, 0, 0);
    let Verdict::Accept(first) = knock(0) else { panic!("refused") };
    let turns = |n: usize, ms| (0..n).filter(|_| first.packets().turn(at(ms)).is_zero()).count();
    assert_eq!(turns(100, 0), 100);
    doorman.set_limits(at(0), PortLimits { connections_per_network: 2, packets_per_network: 10, ..LIMITS });
    let Verdict::Accept(second) = knock(0) else { panic!("refused") };
    assert!(matches!(knock(0), Verdict::Refuse), "two are what a network may have now");
    assert_eq!(turns(100, 60_000), 10, "packets of connections that stand keep to the new rate");
    drop(second);
    assert!(matches!(knock(1), Verdict::Accept(_)));
}

#[test]
fn networks_are_24_and_48_bits_and_a_mapped_address_is_the_same_as_its_own() {
    let same = |a: IpAddr, b: IpAddr| Network::of(a) == Network::of(b);
    let v6 = |c: u16, d: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, c, d, 0, 0, 0, 1));
    assert!(same(v4(192, 0, 2, 1), v4(192, 0, 2, 254)) && !same(v4(192, 0, 2, 1), v4(192, 0, 3, 1)));
    assert!(same(v6(1, 2), v6(1, 3)) && !same(v6(1, 2), v6(2, 2)));
    assert!(same(v4(192, 0, 2, 1), IpAddr::V6(Ipv4Addr::new(192, 0, 2, 9).to_ipv6_mapped())));
    assert_eq!(format!("{:?}", Network::of(v4(192, 0, 2, 1))), "Network(..)", "never in a log");
}

#[test]
fn a_network_has_so_many_connections_and_gets_a_place_back_when_one_ends() {
    let door = Doorman::new(LIMITS);
    let mut places = Vec::new();
    let mut now = at(0);
    while let Verdict::Accept(place) = door.judge(now, v4(192, 0, 2, places.len() as u8), true, places.len(), 0) {
        places.push(place);
        now = now + Duration::from_millis(50);
    }
    assert_eq!(places.len(), CLIENT_CONNECTIONS_PER_NETWORK);
    let knock = |addr, validated| door.judge(now, addr, validated, CLIENT_CONNECTIONS_PER_NETWORK, 0);
    assert!(matches!(knock(v4(192, 0, 2, 1), false), Verdict::Refuse), "a token would not help");
    assert!(matches!(knock(v4(192, 0, 3, 1), false), Verdict::Accept(_)), "the neighbours don't notice");
    places.pop();
    assert!(matches!(knock(v4(192, 0, 2, 7), true), Verdict::Accept(_)));
}

#[test]
fn a_full_port_refuses_everyone() {
    let door = Doorman::new(LIMITS);
    for (connections, under_way) in [(CLIENT_CONNECTIONS, 0), (0, HANDSHAKES_AT_ONCE)] {
        assert!(matches!(door.judge(at(0), v4(1, 2, 3, 4), true, connections, under_way), Verdict::Refuse));
    }
    assert!(matches!(door.judge(at(0), v4(1, 2, 3, 4), false, 0, HANDSHAKES_AT_ONCE / 2), Verdict::Retry));
    assert!(matches!(door.judge(at(0), v4(1, 2, 3, 4), true, 0, HANDSHAKES_AT_ONCE / 2), Verdict::Accept(_)));
}

/// Milliseconds from a client's first datagram to its finished handshake, median and worst of many clients; beside a
/// flood. A handshake takes a core 0.3 ms; one core does them one after the other; a retry costs a round trip.
fn handshakes(limits: PortLimits, mut flood: impl FnMut(u64) -> Vec<(IpAddr, bool)>) -> (u64, u64) {
    const COST_US: u64 = 300;
    const ROUND_TRIP_MS: u64 = 40;
    let door = Doorman::new(limits);
    let (mut busy_until, mut under_way) = (0, Vec::<(u64, Place)>::new());
    let mut times = Vec::new();
    // Each knocks again with a token after a round trip, and after a second when sent away.
    let mut clients: Vec<(u64, u64, IpAddr, bool)> =
        (0..200).map(|n| (n * 50, n * 50, v4(10, n as u8, 0, 1), false)).collect();
    for ms in 0..12_000_u64 {
        let now = at(ms);
        under_way.retain(|(end, _)| *end > now.0);
        let mut accept = |under_way: &mut Vec<(u64, Place)>, place, answers: bool| {
            busy_until = now.0.max(busy_until) + COST_US;
            // Who never answers keeps its place until the handshake's time is over.
            let end = if answers { busy_until } else { now.0 + HANDSHAKE_TIMEOUT.as_micros() as u64 };
            under_way.push((end, place));
            end
        };
        for (addr, validated) in flood(ms) {
            if let Verdict::Accept(place) = door.judge(now, addr, validated, 0, under_way.len()) {
                accept(&mut under_way, place, validated);
            }
        }
        for client in clients.iter_mut().filter(|(_, next, ..)| *next == ms) {
            match door.judge(now, client.2, client.3, 0, under_way.len()) {
                Verdict::Accept(place) => {
                    let end = accept(&mut under_way, place, true);
                    times.push(end / 1000 + ROUND_TRIP_MS - client.0);
                    client.1 = u64::MAX;
                }
                Verdict::Retry => (client.1, client.3) = (ms + ROUND_TRIP_MS, true),
                Verdict::Refuse => client.1 = ms + 1_000,
            }
        }
    }
    times.extend(clients.iter().filter(|(_, next, ..)| *next != u64::MAX).map(|_| u64::MAX));
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// The limits as they would be without any.
const NONE: PortLimits =
    PortLimits { connections_per_network: 1 << 30, handshakes: 1_000_000, handshakes_per_network: 1_000_000, ..LIMITS };

#[test]
fn a_flood_from_invented_addresses_costs_others_one_round_trip_at_most() {
    let quiet = handshakes(LIMITS, |_| Vec::new());
    // 20,000 a second, each from another network.
    let flood = |ms: u64| (0..20).map(|n| (v4(ms as u8, (ms >> 8) as u8, n, 1), false)).collect();
    let flooded = handshakes(LIMITS, flood);
    assert!(flooded.1 <= 2 * quiet.0 + 5, "{flooded:?} instead of {quiet:?} ms");
}

#[test]
fn a_flood_of_real_handshakes_from_a_few_networks_costs_others_nothing() {
    let quiet = handshakes(LIMITS, |_| Vec::new());
    // 10,000 a second from four networks, with tokens.
    let flood = |ms: u64| (0..10).map(|n| (v4(192, 0, (n % 4) as u8, ms as u8), true)).collect();
    let flooded = handshakes(LIMITS, flood);
    assert!(flooded.1 <= 2 * quiet.0, "{flooded:?} instead of {quiet:?} ms");
    let control = handshakes(NONE, flood);
    assert!(control.1 > 2 * quiet.0, "the control: {control:?}");
}

#[test]
fn what_is_remembered_of_networks_is_bounded_and_those_inside_are_not_forgotten() {
    let door = Doorman::new(PortLimits { handshakes: 1_000_000, ..LIMITS });
    let Verdict::Accept(inside) = door.judge(at(0), v4(192, 0, 2, 1), true, 0, 0) else { panic!("refused") };
    for n in 0..MAX_NETWORKS as u32 * 2 {
        let [_, a, b, c] = n.to_be_bytes();
        assert!(matches!(door.judge(at(u64::from(n)), v4(a, b, c, 1), true, 0, 0), Verdict::Accept(_)));
        assert!(door.networks() <= MAX_NETWORKS);
    }
    let open = |door: &Doorman| door.with(|d| d.networks.get(&Network::of(v4(192, 0, 2, 1))).map(|guest| guest.open));
    assert_eq!(open(&door), Some(1));
    drop(inside);
    assert_eq!(open(&door), Some(0));
}
