//! The status page: one document without scripts, with all of its style in it, for light and dark screens.

use std::fmt::Write;

use posta_link::fetch::to_hex;
use posta_link::http::escape;
use posta_protocol::document::{Consensus, Position, RelayEntry, Reliability};
use posta_protocol::now::Wall;

use crate::keys::ending;
use crate::randomness::problems;
use crate::show::{key_epoch, reliability, speed};

/// A round that has made a consensus, as one authority saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundLine {
    /// The epoch.
    pub epoch: u64,
    /// Attempts before this one that came to nothing.
    pub failed: u32,
    /// Votes that counted.
    pub counted: usize,
    /// Votes that came too late, or were left out.
    pub not_counted: usize,
    /// Authorities that voted twice.
    pub twice: usize,
    /// When it was published, against the start of its epoch: negative if before.
    pub after_start_ms: i64,
}

/// What the page is made of.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// The newest consensus, if there is one.
    pub consensus: Option<&'a Consensus>,
    /// The last rounds, the newest first; those since the program's start.
    pub rounds: &'a [RoundLine],
    /// Authorities of the network.
    pub authorities: usize,
    /// Pieces of evidence that have come up since the program's start.
    pub evidence: u64,
    /// When the authority's signing key ends.
    pub expires: Wall,
    /// Now.
    pub now: Wall,
}

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#ccd;--soft:#667;--bad:#a11;--good:#161}\
@media(prefers-color-scheme:dark){:root{--line:#445;--soft:#99a;--bad:#f88;--good:#8d8}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--soft)}dd{margin:0}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--soft);font-weight:600}td.n{text-align:right;font-variant-numeric:tabular-nums}\
code{font:13px ui-monospace,monospace}.bad{color:var(--bad)}.good{color:var(--good)}";

/// The page.
#[must_use]
pub fn page(status: &Status<'_>) -> String {
    let mut out = String::with_capacity(4096 + status.consensus.map_or(0, |c| c.relays().len() * 256));
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Posta directory</title><style>{STYLE}</style><h1>Posta directory authority</h1>"
    );
    match status.consensus {
        None => out.push_str("<p class=bad>There is no consensus yet: the authorities have not agreed on one.</p>"),
        Some(consensus) => {
            facts(&mut out, consensus, status);
            rounds(&mut out, status);
            relays(&mut out, consensus, status.now);
        }
    }
    out.push_str(
        "<h2>For programs</h2><p><a href=\"/consensus\">/consensus</a> (canonical bytes), \
         <a href=\"/consensus.json\">/consensus.json</a>, <a href=\"/history.json\">/history.json</a>, \
         <code>/consensus/EPOCH</code> and <code>/consensus/EPOCH.json</code>, <code>/metrics</code> on this machine. \
         Verify what you take from here: <code>posta-directory show</code> does.</p></html>",
    );
    out
}

fn facts(out: &mut String, consensus: &Consensus, status: &Status<'_>) {
    let current = key_epoch(consensus, status.now);
    let count = |position| consensus.relays_at(current, position).count();
    let (state, class) = if status.now >= consensus.valid_until() {
        ("expired: nobody uses it any more", "bad")
    } else if status.now >= consensus.fresh_until() {
        ("a newer one is late; this one stays valid", "bad")
    } else {
        ("fresh", "good")
    };
    let _ = write!(
        out,
        "<dl><dt>epoch<dd>{} <span class={class}>{state}</span>\
         <dt>fresh for<dd>{}<dt>valid for<dd>{}<dt>hash<dd><code>{}</code><dt>signatures<dd>{} of {} authorities\
         <dt>key epoch<dd>{}<dt>relays<dd>{}: {} edges, {} in mix 1, {} in mix 2<dt>evidence of cheating<dd>{}</dl>",
        consensus.epoch().0,
        span(consensus.fresh_until().since(status.now).as_secs()),
        span(consensus.valid_until().since(status.now).as_secs()),
        to_hex(&consensus.hash().0),
        consensus.signed_header().signatures.len(),
        status.authorities,
        current.0,
        consensus.relays().len(),
        count(Position::Edge),
        count(Position::Mix1),
        count(Position::Mix2),
        status.evidence,
    );
    if let Some(ending) = ending(status.expires, status.now) {
        let _ = write!(out, "<p class=bad>{}</p>", escape(&ending.says));
    }
    for problem in problems(consensus.body()) {
        let _ = write!(out, "<p class=bad>{}</p>", escape(&problem));
    }
}

fn rounds(out: &mut String, status: &Status<'_>) {
    out.push_str(
        "<h2>Last rounds</h2><div class=wide><table><tr><th>epoch<th>votes counted<th>not counted<th>voted twice\
         <th>attempts failed<th>published</tr>",
    );
    for round in status.rounds {
        let when = round.after_start_ms.unsigned_abs() / 1000;
        let when = match round.after_start_ms {
            ..=0 => format!("{} before its epoch", span(when)),
            _ => format!("<span class=bad>{} into its epoch</span>", span(when)),
        };
        let _ = write!(
            out,
            "<tr><td class=n>{}<td class=n>{} of {}<td class=n>{}<td class=n>{}<td class=n>{}<td>{when}</tr>",
            round.epoch, round.counted, status.authorities, round.not_counted, round.twice, round.failed
        );
    }
    out.push_str("</table></div>");
    if status.rounds.is_empty() {
        out.push_str("<p>None since this program has started.</p>");
    }
}

fn relays(out: &mut String, consensus: &Consensus, now: Wall) {
    out.push_str("<h2>Relays</h2><div class=wide><table><tr><th>relay<th>offers");
    for part in consensus.key_epochs() {
        let _ = write!(out, "<th>key epoch {}", part.epoch.0);
    }
    out.push_str("<th>packets/s<th>loss<th>speed<th>listed for<th>address</tr>");
    for relay in consensus.relays() {
        let _ = write!(out, "<tr><td><code>{}</code><td>{}", relay.id.short(), offers(relay));
        for layer in &relay.layers {
            let _ = write!(out, "<td>{}", place(*layer));
        }
        let address = relay.link_addresses.first().map_or_else(|| "-".to_owned(), ToString::to_string);
        let _ = write!(
            out,
            "<td class=n>{}<td{}>{}<td>{}<td>{}<td><code>{}</code></tr>",
            relay.capacity,
            if relay.class.reliability == Reliability::Flagged { " class=bad" } else { "" },
            reliability(relay.class),
            speed(relay.class),
            span(now.since(relay.listed_since).as_secs()),
            escape(&address)
        );
    }
    out.push_str("</table></div>");
}

const fn offers(relay: &RelayEntry) -> &'static str {
    match (relay.roles.edge, relay.roles.mix) {
        (true, true) => "edge, mix",
        (true, false) => "edge",
        _ => "mix",
    }
}

const fn place(position: Option<Position>) -> &'static str {
    match position {
        Some(Position::Edge) => "edge",
        Some(Position::Mix1) => "mix 1",
        Some(Position::Mix2) => "mix 2",
        None => "-",
    }
}

/// A span in its two largest units.
#[must_use]
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

/// The same for a Prometheus.
#[must_use]
pub fn metrics(status: &Status<'_>) -> String {
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: i64| {
        let _ = write!(
            out,
            "# HELP posta_directory_{name} {help}\n# TYPE posta_directory_{name} gauge\nposta_directory_{name} {value}\n"
        );
    };
    let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    gauge("authorities", "Authorities of the network.", whole(status.authorities));
    gauge(
        "evidence",
        "Evidence of cheating since the program's start.",
        i64::try_from(status.evidence).unwrap_or(i64::MAX),
    );
    let seconds = |until: Wall| {
        let apart = i128::from(until.0) - i128::from(status.now.0);
        i64::try_from(apart / 1000).unwrap_or(i64::MIN)
    };
    gauge(
        "signing_key_seconds",
        "For how long the signing key is certified; negative once that has ended.",
        seconds(status.expires),
    );
    if let Some(consensus) = status.consensus {
        let current = key_epoch(consensus, status.now);
        gauge("epoch", "Epoch of the newest consensus.", i64::try_from(consensus.epoch().0).unwrap_or(i64::MAX));
        gauge(
            "fresh_seconds",
            "For how long it is fresh; negative once a newer one is late.",
            seconds(consensus.fresh_until()),
        );
        gauge(
            "valid_seconds",
            "For how long it is valid; negative once it has expired.",
            seconds(consensus.valid_until()),
        );
        gauge("signatures", "Authorities that have signed it.", whole(consensus.signed_header().signatures.len()));
        gauge("relays", "Relays that it lists.", whole(consensus.relays().len()));
        for (name, position) in [("edges", Position::Edge), ("mixes_1", Position::Mix1), ("mixes_2", Position::Mix2)] {
            gauge(
                name,
                "Relays with this place in the present key epoch.",
                whole(consensus.relays_at(current, position).count()),
            );
        }
    }
    if let Some(consensus) = status.consensus {
        let flagged = consensus.relays().iter().filter(|r| r.class.reliability == Reliability::Flagged).count();
        gauge("flagged", "Relays that lose so much that paths avoid them.", whole(flagged));
    }
    if let Some(round) = status.rounds.first() {
        gauge("votes_counted", "Votes that counted in the round that made it.", whole(round.counted));
        gauge("votes_twice", "Authorities that voted twice in that round.", whole(round.twice));
        gauge("attempts_failed", "Attempts before that round that came to nothing.", round.failed.into());
        gauge(
            "published_after_ms",
            "When it was published against its epoch's start, in milliseconds; negative if before.",
            round.after_start_ms,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_at_a_glance() {
        let said = [0, 59, 61, 3_600, 90_000].map(span);
        assert_eq!(said, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }

    #[test]
    fn a_network_without_a_consensus_says_so_and_nothing_runs_on_its_page() {
        let status = Status {
            consensus: None,
            rounds: &[],
            authorities: 4,
            evidence: 0,
            expires: Wall(90_000_000_000),
            now: Wall(0),
        };
        let html = page(&status);
        assert!(html.contains("no consensus yet") && !html.contains("<script") && !html.contains("http"), "{html}");
        let text = metrics(&status);
        assert!(text.contains("\nposta_directory_authorities 4\n") && !text.contains("epoch"), "{text}");
        assert!(text.contains("\nposta_directory_signing_key_seconds 90000000\n"), "{text}");
    }
}
