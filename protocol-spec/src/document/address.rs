//! Addresses in documents.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::codec::{Reader, Writer};
use crate::error::Malformed;
use crate::params::MAX_ADDRESSES;
use crate::registry::family;

const WHAT: &str = "addresses";

/// Reads a sorted list of at most [`MAX_ADDRESSES`]; each has a port, and an IPv4 address is written as one.
pub(super) fn read(r: &mut Reader<'_>) -> Result<Vec<SocketAddr>, Malformed> {
    let n = r.count(MAX_ADDRESSES, WHAT)?;
    let mut list: Vec<SocketAddr> = Vec::with_capacity(n);
    for _ in 0..n {
        let addr = read_one(r)?;
        if list.last().is_some_and(|last| *last >= addr) {
            return Err(Malformed::Value(WHAT));
        }
        list.push(addr);
    }
    Ok(list)
}

/// Reads one address that can be dialled.
pub(super) fn read_one(r: &mut Reader<'_>) -> Result<SocketAddr, Malformed> {
    let ip = match r.u8(WHAT)? {
        family::IPV4 => IpAddr::V4(Ipv4Addr::from(r.array::<4>(WHAT)?)),
        family::IPV6 => IpAddr::V6(Ipv6Addr::from(r.array::<16>(WHAT)?)),
        _ => return Err(Malformed::Value(WHAT)),
    };
    let addr = SocketAddr::new(ip, r.u16(WHAT)?);
    if usable(&addr) { Ok(addr) } else { Err(Malformed::Value(WHAT)) }
}

pub(super) fn write(list: &[SocketAddr], w: &mut Writer) {
    w.count(list.len());
    for addr in list {
        write_one(addr, w);
    }
}

pub(super) fn write_one(addr: &SocketAddr, w: &mut Writer) {
    match addr.ip() {
        IpAddr::V4(ip) => {
            w.u8(family::IPV4);
            w.bytes(&ip.octets());
        }
        IpAddr::V6(ip) => {
            w.u8(family::IPV6);
            w.bytes(&ip.octets());
        }
    }
    w.u16(addr.port());
}

/// Brings a list into its one order; mapped addresses become IPv4 and scopes are dropped.
pub(super) fn canonical(list: &mut Vec<SocketAddr>) {
    for addr in list.iter_mut() {
        *addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    }
    list.sort_unstable();
    list.dedup();
}

fn usable(addr: &SocketAddr) -> bool {
    let ip = addr.ip();
    addr.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && ip == ip.to_canonical()
}

/// Whether an address can be reached over the internet: not private, loopback, link-local or otherwise reserved.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_broadcast()
                || ip.is_documentation()
                || a == 0
                || a >= 224
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (18..20).contains(&b))
                || (a == 192 && b == 0 && c == 0))
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            // Global unicast is 2000::/3; documentation and Teredo lie inside it.
            a & 0xe000 == 0x2000 && !(a == 0x2001 && (b == 0x0db8 || b == 0))
        }
    }
}
