//! The metrics, for a Prometheus on the same machine. Off unless `metrics.listen` names an address.
//!
//! They are coarse: the counters are those of the last whole minute, in steps of eight; gauges are what they are now.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::board::{Board, Settings};
use crate::report::Report;

mod names;
mod recorder;

pub(crate) use self::recorder::Recorded;

/// How old the counters that are told may be.
const COUNTERS_EVERY: Duration = Duration::from_secs(60);
/// Bytes of a request at most.
const MAX_REQUEST: usize = 4096;
/// How long a request, and the taking of its answer, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests at once; others wait with the system.
const MAX_CONNECTIONS: usize = 8;
/// Before the port is tried again.
const RETRY: Duration = Duration::from_secs(60);

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
    let mut counters_at = None;
    loop {
        let address = settings.borrow_and_update().metrics.address();
        let served = async {
            match address {
                Some(address) => loop {
                    listen(address, &recorded, &board, &mut counters_at).await;
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

async fn listen(address: SocketAddr, recorded: &Recorded, board: &Board, counters_at: &mut Option<Instant>) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(e) => return warn!("metrics can't be served on {address}: {e}; trying again"),
    };
    info!("metrics are served on http://{address}/metrics");
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => return warn!(kind = ?e.kind(), "the metrics take no connection"),
        };
        let Some(report) = board.report().await else { return };
        let body = collect(recorded, &report, counters_at);
        tokio::spawn(async move {
            // Whoever is too slow, or has gone, is none of ours to report to.
            let _ = timeout(PATIENCE, answer(&stream, &body)).await;
            drop(permit);
        });
    }
}

fn collect(recorded: &Recorded, report: &Report, counters_at: &mut Option<Instant>) -> String {
    names::record_gauges(report);
    if counters_at.is_none_or(|at| at.elapsed() >= COUNTERS_EVERY) {
        *counters_at = Some(Instant::now());
        names::record_counters(report.packets.received, &report.packets.counters);
    }
    recorded.render()
}

async fn answer(stream: &TcpStream, metrics: &str) -> std::io::Result<()> {
    let head = read_head(stream).await?;
    let (status, kind, body) =
        match head.split_once("\r\n").map_or(head.as_str(), |(line, _)| line).split(' ').collect::<Vec<_>>()[..] {
            ["GET", "/metrics", ..] => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics),
            ["GET", ..] => ("404 Not Found", "text/plain", "there is /metrics and nothing else\n"),
            _ => ("405 Method Not Allowed", "text/plain", "GET /metrics, please\n"),
        };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    write_all(stream, head.as_bytes()).await?;
    write_all(stream, body.as_bytes()).await
}

/// What comes before the empty line.
async fn read_head(stream: &TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut buffer = [0; MAX_REQUEST];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => head.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
        if head.len() > MAX_REQUEST {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(|_| std::io::ErrorKind::InvalidData.into())
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
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
