//! The relay's report as metrics: names, units, what each says.

use std::collections::BTreeMap;

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::recorder::LABEL;
use crate::report::{Filter, Level, Report, State};

/// Counters are told in steps of this many, downwards: a watcher of the metrics sees no single packet.
pub(crate) const STEP: u64 = 8;

/// A counter of [`crate::relay::Counters`]: its field, its metric, and for a metric of several its reason.
type Counted = (&'static str, &'static str, Option<&'static str>);

const DROPPED: &str = "posta_packets_dropped_total";
const REFUSED: &str = "posta_commands_refused_total";
pub(crate) const COUNTERS: &[Counted] = &[
    ("forwarded", "posta_packets_forwarded_total", None),
    ("delivered", "posta_packets_delivered_total", None),
    ("commands", "posta_commands_total", None),
    ("answers", "posta_answers_total", None),
    ("stored", "posta_messages_stored_total", None),
    ("cover", "posta_packets_cover_total", None),
    ("loops_sent", "posta_loops_sent_total", None),
    ("loops_returned", "posta_loops_returned_total", None),
    ("loops_lost", "posta_loops_lost_total", None),
    ("refused", DROPPED, Some("refused")),
    ("replay_full", DROPPED, Some("replay_full")),
    ("replay_unwritten", DROPPED, Some("replay_unwritten")),
    ("illegal_route", DROPPED, Some("illegal_route")),
    ("delay_full", DROPPED, Some("delay_full")),
    ("stopped", DROPPED, Some("stopped")),
    ("no_inbox", DROPPED, Some("no_inbox")),
    ("inbox_overflow", DROPPED, Some("inbox_overflow")),
    ("client_backlog", DROPPED, Some("client_backlog")),
    ("link_backlog", DROPPED, Some("link_backlog")),
    ("held_back", "posta_intake_held_total", None),
    ("inboxes_full", "posta_attaches_refused_total", None),
    ("malformed", REFUSED, Some("malformed")),
    ("not_admitted", REFUSED, Some("not_admitted")),
    ("busy", REFUSED, Some("busy")),
    ("retiring", REFUSED, Some("retiring")),
    ("create_rate", REFUSED, Some("create_rate")),
    ("unanswered", "posta_answers_unsent_total", None),
    ("blocks_dropped", "posta_reply_blocks_dropped_total", None),
];

const HELP: &[(&str, &str)] = &[
    ("posta_packets_received_total", "Packets peeled or refused"),
    ("posta_packets_forwarded_total", "Packets passed on to another relay"),
    ("posta_packets_delivered_total", "Replies handed to clients' links"),
    ("posta_packets_cover_total", "Cover that ended here"),
    ("posta_loops_sent_total", "Loops of the relay's own that were sent"),
    ("posta_loops_returned_total", "Loops of the relay's own that came back whole"),
    ("posta_loops_lost_total", "Loops of the relay's own that were lost, late or garbled"),
    (DROPPED, "Packets dropped, by reason"),
    ("posta_intake_held_total", "Times that senders were made to wait because too much waited for other relays"),
    ("posta_commands_total", "Commands for the queue service, whatever became of them"),
    (REFUSED, "Commands refused before they reached the store, by reason"),
    ("posta_answers_total", "Answers sent through reply blocks, messages included"),
    ("posta_answers_unsent_total", "Answers not sent: no reply block, or one that can't be used now"),
    ("posta_messages_stored_total", "Messages that the store has accepted"),
    ("posta_attaches_refused_total", "Attach requests refused: too many inboxes"),
    ("posta_reply_blocks_dropped_total", "Reply blocks replaced by newer ones, or dropped with a subscription"),
    ("posta_counted_total", "What else was counted, by name"),
];

/// Describes every metric; once, when the recorder is there.
pub(crate) fn describe() {
    for (name, help) in HELP {
        describe_counter!(*name, Unit::Count, *help);
    }
    describe_gauge!("posta_uptime_seconds", Unit::Seconds, "Time since the relay was started");
    describe_gauge!("posta_running", Unit::Count, "1 while the relay carries packets");
    describe_gauge!("posta_errors", Unit::Count, "What `posta-node status` calls errors; 0 when the relay is well");
    describe_gauge!("posta_warnings", Unit::Count, "What `posta-node status` calls warnings");
    describe_gauge!("posta_listed", Unit::Count, "1 if the newest consensus lists the relay with its link key");
    describe_gauge!("posta_place", Unit::Count, "1 if the relay has a place on paths in this key epoch");
    describe_gauge!("posta_consensus_age_seconds", Unit::Seconds, "Time since the newest consensus began");
    describe_gauge!(
        "posta_consensus_left_seconds",
        Unit::Seconds,
        "Time until the newest consensus must not be used any more"
    );
    describe_gauge!("posta_authorities", Unit::Count, "Authorities of the network");
    describe_gauge!("posta_authorities_accepted", Unit::Count, "Authorities that have taken the last descriptor");
    describe_gauge!(
        "posta_clock_offset_seconds",
        Unit::Seconds,
        "Least time by which the clock is off; above 0 it is ahead"
    );
    describe_gauge!("posta_links_out", Unit::Count, "Links to relays that this one has dialled");
    describe_gauge!("posta_links_in", Unit::Count, "Links that relays have dialled");
    describe_gauge!("posta_client_links", Unit::Count, "Links from clients");
    describe_gauge!("posta_packets_delayed", Unit::Count, "Packets that wait for their time");
    describe_gauge!(
        "posta_loop_loss_ratio",
        Unit::Count,
        "Part of the relay's own loops of the last hour that were lost"
    );
    describe_gauge!("posta_store_queues", Unit::Count, "Queues held");
    describe_gauge!("posta_store_queues_max", Unit::Count, "Queues at most");
    describe_gauge!("posta_store_held_bytes", Unit::Bytes, "Messages and blobs held");
    describe_gauge!("posta_store_quota_bytes", Unit::Bytes, "Messages and blobs at most");
    describe_gauge!("posta_store_free_bytes", Unit::Bytes, "Free space on the store's disk");
    describe_gauge!("posta_store_min_free_bytes", Unit::Bytes, "Free space below which nothing is taken in");
    describe_gauge!(
        "posta_replay_filter_step",
        Unit::Count,
        "How full the replay filter is: 0 below four fifths, 1 below nine tenths, 2 below full, 3 full"
    );
    describe_gauge!("posta_signing_key_left_seconds", Unit::Seconds, "Time until the signing key's certificate ends");
}

/// Records what a report says now, its counters excepted.
#[expect(clippy::cast_precision_loss, reason = "nobody minds the last bits of a gauge")]
pub(crate) fn record_gauges(report: &Report) {
    let flag = |on: bool| f64::from(u8::from(on));
    let level = |level| report.problems.iter().filter(|problem| problem.level == level).count() as f64;
    let Report { directory, place, links, packets, store, .. } = report;
    gauge!("posta_uptime_seconds").set(report.uptime_s as f64);
    gauge!("posta_running").set(flag(report.state == State::Running));
    gauge!("posta_errors").set(level(Level::Error));
    gauge!("posta_warnings").set(level(Level::Warning));
    gauge!("posta_listed").set(flag(directory.listed));
    gauge!("posta_place").set(flag(place.now.is_some()));
    gauge!("posta_consensus_age_seconds").set(directory.age_s.map_or(f64::NAN, |s| s as f64));
    gauge!("posta_consensus_left_seconds").set(directory.left_s.map_or(f64::NAN, |s| s as f64));
    gauge!("posta_authorities").set(directory.authorities as f64);
    gauge!("posta_authorities_accepted").set(directory.accepted.unwrap_or_default() as f64);
    gauge!("posta_clock_offset_seconds").set(report.clock.off_s as f64);
    gauge!("posta_links_out").set(links.out as f64);
    gauge!("posta_links_in").set(links.in_ as f64);
    gauge!("posta_client_links").set(links.clients as f64);
    gauge!("posta_packets_delayed").set(packets.delayed as f64);
    gauge!("posta_loop_loss_ratio").set(report.loops.loss_permille().map_or(f64::NAN, |lost| lost as f64 / 1000.0));
    gauge!("posta_store_queues").set(store.queues as f64);
    gauge!("posta_store_queues_max").set(store.max_queues as f64);
    gauge!("posta_store_held_bytes").set(store.bytes as f64);
    gauge!("posta_store_quota_bytes").set(store.quota_bytes as f64);
    gauge!("posta_store_free_bytes").set(store.free_bytes as f64);
    gauge!("posta_store_min_free_bytes").set(store.min_free_bytes as f64);
    gauge!("posta_replay_filter_step").set(match report.replay_filter {
        Filter::Room => 0.0,
        Filter::High => 1.0,
        Filter::VeryHigh => 2.0,
        Filter::Full => 3.0,
    });
    gauge!("posta_signing_key_left_seconds").set(report.signing_key.left_s as f64);
}

/// Records the counters.
pub(crate) fn record_counters(received: u64, counters: &BTreeMap<String, u64>) {
    let told = |n: u64| n - n % STEP;
    counter!("posta_packets_received_total").absolute(told(received));
    for (field, n) in counters {
        match COUNTERS.iter().find(|(known, ..)| known == field) {
            Some((_, name, None)) => counter!(*name).absolute(told(*n)),
            Some((_, name, Some(reason))) => counter!(*name, LABEL => *reason).absolute(told(*n)),
            // A counter that came later: it is told, if without words of its own.
            None => counter!("posta_counted_total", LABEL => field.clone()).absolute(told(*n)),
        }
    }
}
