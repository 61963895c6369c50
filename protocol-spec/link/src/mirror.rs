//! A relay's side of directory connections: it answers with what lies on a [`Shelf`], dials for other relays, and nothing else.

use std::sync::Arc;

use posta_protocol::document::{Refusal, Reply, Request, Shelf};
use posta_protocol::now::Mono;
use posta_protocol::registry::directory_answer;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tracing::debug;

use crate::connection::Connection;
use crate::limits::Rate;
use crate::reach::Reacher;

/// Replies with documents that are under way at once at a port, each with a window of 1 MiB; more are told to come back.
pub const TRANSFERS: usize = 32;
/// Requests that one connection has at once, and how many come back in a second; more are told to come back.
const BURST: u32 = 32;
const PER_SECOND: u32 = 10;

/// What a mirror serves, and how much at once. A clone serves the same.
#[derive(Clone, Debug)]
pub struct Mirrored {
    shelf: watch::Receiver<Arc<Shelf>>,
    transfers: Arc<Semaphore>,
    reacher: Option<Reacher>,
}

impl Mirrored {
    /// Serves the newest of these shelves.
    #[must_use]
    pub fn new(shelf: watch::Receiver<Arc<Shelf>>) -> Self {
        Self { shelf, transfers: Arc::new(Semaphore::new(TRANSFERS)), reacher: None }
    }

    /// Dials for other relays that ask for it, too.
    #[must_use]
    pub fn reaching(self, reacher: Reacher) -> Self {
        Self { reacher: Some(reacher), ..self }
    }

    /// Answers the requests of one directory connection, one after the other, until it closes.
    pub async fn serve(&self, connection: &Connection) {
        let start = Instant::now();
        let mut rate = Rate::new(PER_SECOND, BURST);
        while let Ok((body, responder)) = connection.next_request(Request::MAX_LEN).await {
            let now = Mono(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX));
            let reply =
                if rate.take(now) { self.answer(connection, &body).await } else { Reply::Refused(Refusal::Busy) };
            let sent = match reply {
                Reply::Ok(document) => match self.transfers.try_acquire() {
                    Ok(_permit) => responder.reply_in_parts(&[&[directory_answer::OK], &document]).await,
                    Err(_) => responder.reply(&Reply::<Vec<u8>>::Refused(Refusal::Busy).encode()).await,
                },
                other => responder.reply(&other.encode()).await,
            };
            if let Err(e) = sent {
                debug!("a mirrored document did not arrive: {e}");
            }
        }
    }

    async fn answer(&self, connection: &Connection, body: &[u8]) -> Reply<Arc<[u8]>> {
        match (Request::decode(body), &self.reacher) {
            (Err(_), _) => Reply::Refused(Refusal::Malformed),
            (Ok(Request::Reach { client, address }), Some(reacher)) => {
                match reacher.answer(connection, client, address).await {
                    Reply::Ok(content) => Reply::Ok(content.into()),
                    Reply::None => Reply::None,
                    Reply::Refused(reason) => Reply::Refused(reason),
                }
            }
            // What only authorities can do.
            (Ok(request), _) => self.shelf.borrow().answer(&request).unwrap_or(Reply::Refused(Refusal::Unsupported)),
        }
    }
}
