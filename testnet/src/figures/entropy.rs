//! In how many packets a message may be, for somebody who sees every line and knows how many packets each relay holds.
//!
//! The observer follows the probability that a packet is the message: what arrives at a relay adds its part to the relay's,
//! and each packet that leaves takes an equal share with those that stay, for exponential delays forget how long they have
//! run. (Loopix, section 4.1.3, states the same as a recursion for one mix.) What leaves the second mixes are the candidates.

use std::collections::BTreeMap;

use crate::sim::large::{CLIENT, Outcome};

/// A share smaller than this is no longer followed.
const LEAST: f64 = 1e-9;

/// The anonymity set of a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Set {
    /// Shannon entropy.
    pub bits: f64,
    /// 2 to that: as many equally likely packets.
    pub effective: f64,
}

/// The entropy of shares that needn't sum to one.
#[must_use]
pub fn bits(shares: &[f64]) -> f64 {
    let all: f64 = shares.iter().sum();
    let one = |share: &f64| {
        let p = share / all;
        if p > 0.0 { -p * p.log2() } else { 0.0 }
    };
    if all > 0.0 { shares.iter().map(one).sum::<f64>().max(0.0) } else { 0.0 }
}

/// The mean of at most so many messages, evenly picked from the run.
#[must_use]
pub fn of_messages(outcome: &Outcome, targets: usize) -> Option<Set> {
    let sent: Vec<(u64, u32)> = outcome.messages.iter().filter_map(|m| Some((m.sent_us?, m.from | CLIENT))).collect();
    // Neither those before the pools have filled nor those that don't end.
    let middle = sent.get(sent.len() / 5..sent.len() * 4 / 5)?;
    let step = (middle.len() / targets.max(1)).max(1);
    let all: Vec<f64> = middle.iter().step_by(step).filter_map(|(at, from)| follow(outcome, *at, *from)).collect();
    if all.is_empty() {
        return None;
    }
    let n = all.len() as f64;
    Some(Set { bits: all.iter().sum::<f64>() / n, effective: all.iter().map(|bits| bits.exp2()).sum::<f64>() / n })
}

/// The entropy of the message that this client sent at this time.
fn follow(outcome: &Outcome, at: u64, from: u32) -> Option<f64> {
    let begin = outcome.seen.partition_point(|s| s.at_us < at);
    let mut parts = BTreeMap::<u32, f64>::new();
    let mut found = Vec::new();
    let mut left = 1.0;
    let mut begun = false;
    for (seen, held) in outcome.seen.iter().zip(&outcome.held).skip(begin) {
        if !begun {
            begun = seen.from == from && seen.at_us == at;
            if begun {
                parts.insert(seen.to, 1.0);
            }
            continue;
        }
        let Some(part) = parts.get_mut(&seen.from) else { continue };
        // A packet that goes down to a client isn't on its way forth.
        if seen.to & CLIENT != 0 || *part < LEAST {
            continue;
        }
        let share = *part / (f64::from(*held) + 1.0);
        *part -= share;
        if outcome.positions.get(seen.from as usize) == Some(&2) {
            found.push(share);
            left -= share;
            if left < 0.001 {
                return Some(bits(&found));
            }
        } else {
            *parts.entry(seen.to).or_default() += share;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_have_the_logarithm_of_their_number() {
        assert_eq!(bits(&[1.0; 8]), 3.0);
        assert_eq!(bits(&[0.25, 0.25]), 1.0);
        assert_eq!(bits(&[1.0]), 0.0);
        assert_eq!(bits(&[]), 0.0);
    }
}
