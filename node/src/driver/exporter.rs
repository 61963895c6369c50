//! The metrics, for a Prometheus on the same machine. Off unless `metrics.listen` names an address.
//!
//! They are coarse: the counters are those of the last whole minute, in steps of eight; gauges are what they are now.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use posta_link::http::{self, Asked, Page};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::board::{Board, Settings};
use crate::report::Report;

mod names;
mod recorder;

pub(crate) use self::recorder::Recorded;

/// How old the counters that are told may be.
const COUNTERS_EVERY: Duration = Duration::from_secs(60);
const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Before the port is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// When the counters that are told were taken.
type CountersAt = Arc<Mutex<Option<Instant>>>;

/// Takes what the process records from here on.
pub(crate) fn install() -> Recorded {
    let recorded = Recorded::default();
    // Fails if there is one already, which then has its reader.
    let _ = metrics::set_global_recorder(recorded.clone());
    names::describe();
    recorded
}

/// Answers at the address that the settings name, at each new one when they change, until the process ends.
pub(crate) async fn serve(recorded: Recorded, board: Board, mut settings: Settings) {
    let counters_at = CountersAt::default();
    loop {
        let address = settings.borrow_and_update().metrics.address();
        let served = async {
            match address {
                Some(address) => loop {
                    listen(address, &recorded, &board, &counters_at).await;
                    sleep(RETRY).await;
                },
                None => std::future::pending::<()>().await,
            }
        };
        let changed = async {
            // Only another address is news.
            let other = settings.wait_for(|settings| settings.metrics.address() != address).await.is_ok();
            if !other {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = served => {}
            () = changed => {}
        }
    }
}

async fn listen(address: SocketAddr, recorded: &Recorded, board: &Board, counters_at: &CountersAt) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(e) => return warn!("metrics can't be served on {address}: {e}; trying again"),
    };
    info!("metrics are served on http://{address}/metrics");
    let (recorded, board, counters_at) = (recorded.clone(), board.clone(), Arc::clone(counters_at));
    let answer = move |asked: Asked| {
        let (recorded, board, counters_at) = (recorded.clone(), board.clone(), Arc::clone(&counters_at));
        async move {
            if asked.path != "/metrics" {
                return Page::not_found("there is /metrics and nothing else\n");
            }
            match board.report().await {
                Some(report) => Page::new(KIND, collect(&recorded, &report, &counters_at).into_bytes()),
                None => Page::unavailable("the relay is ending\n"),
            }
        }
    };
    let e = http::serve(&listener, answer).await;
    warn!(kind = ?e.kind(), "the metrics take no connection");
}

fn collect(recorded: &Recorded, report: &Report, counters_at: &CountersAt) -> String {
    let mut counters_at = counters_at.lock().unwrap_or_else(PoisonError::into_inner);
    names::record_gauges(report);
    if counters_at.is_none_or(|at| at.elapsed() >= COUNTERS_EVERY) {
        *counters_at = Some(Instant::now());
        names::record_counters(report.packets.received, &report.packets.counters);
    }
    recorded.render()
}

#[cfg(test)]
mod tests {
    use super::names::{COUNTERS, record_counters};
    use super::*;
    use crate::driver::board::by_name;
    use crate::relay::Counters;

    #[test]
    fn every_counter_is_a_metric_with_words_of_its_own() {
        let known: Vec<_> = COUNTERS.iter().map(|(field, ..)| *field).collect();
        for field in by_name(&Counters::default()).keys() {
            assert!(known.contains(&field.as_str()), "driver/exporter/names.rs has no metric for `{field}`");
        }
        let recorded = Recorded::default();
        let counters = Counters { forwarded: 17, refused: 9, ..Counters::default() };
        metrics::with_local_recorder(&recorded, || {
            names::describe();
            record_counters(30, &by_name(&counters));
        });
        let text = recorded.render();
        for line in [
            "posta_packets_received_total 24",
            "posta_packets_forwarded_total 16",
            "posta_packets_dropped_total{reason=\"refused\"} 8",
            "posta_packets_dropped_total{reason=\"link_backlog\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in {text}");
        }
        assert!(!text.contains("posta_counted_total"), "{text}");
        for help in text.lines().filter(|line| line.starts_with("# HELP")) {
            assert!(help.split(' ').count() > 4, "{help}");
        }
    }
}
