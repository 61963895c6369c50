//! The thread that writes a client's state: one transaction and one sync for all that waits.
//!
//! The driver goes on while a write is under way; what a step wants done waits here for that step's write.

use std::path::PathBuf;
use std::sync::mpsc as std_mpsc;
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::warn;
use zeroize::Zeroizing;

use crate::store::{Change, Cost, PURGE_AFTER, Records, Store, StoreError};

/// Orders, and reports of writes, that wait. The driver has fewer writes than that under way, so neither side ever waits for
/// the other with both queues full.
const QUEUE: usize = 256;

/// What the thread is asked for.
pub(crate) enum Order {
    /// Changes, and the number of this write. Reported when they are on disk.
    Write(u64, Vec<Change>),
    Purge(oneshot::Sender<Result<(), StoreError>>),
    Passphrase(Zeroizing<Vec<u8>>, oneshot::Sender<Result<(), StoreError>>),
    /// Purges, lets go of the folder, and answers.
    Close(oneshot::Sender<()>),
}

/// A handle on the thread. It ends, after all that was ordered, when this is dropped.
pub(crate) struct Keeper {
    orders: std_mpsc::SyncSender<Order>,
    written: mpsc::Receiver<Result<u64, StoreError>>,
}

impl Keeper {
    pub(crate) fn start(store: Store) -> std::io::Result<Self> {
        let (orders, ordered) = std_mpsc::sync_channel(QUEUE);
        let (reported, written) = mpsc::channel(QUEUE);
        thread::Builder::new().name("posta-store".to_owned()).spawn(move || run(store, &ordered, &reported))?;
        Ok(Self { orders, written })
    }

    pub(crate) fn order(&self, order: Order) {
        // A thread that has ended has said why.
        let _ = self.orders.send(order);
    }

    /// Waits until everything is on disk and the folder is free.
    pub(crate) async fn close(self) {
        let (reply, replied) = oneshot::channel();
        self.order(Order::Close(reply));
        let _ = replied.await;
    }
}

/// The newest write that is done; never, for a client without a store.
pub(crate) async fn written(keeper: Option<&mut Keeper>) -> Result<u64, StoreError> {
    let gone = || StoreError::Io(std::io::Error::other("the thread that writes has ended"));
    match keeper {
        Some(keeper) => keeper.written.recv().await.unwrap_or_else(|| Err(gone())),
        None => std::future::pending().await,
    }
}

/// Opens a store, or makes one, where waiting is allowed: a passphrase costs time on purpose.
pub(crate) async fn open(
    folder: PathBuf,
    passphrase: Zeroizing<Vec<u8>>,
    create: Option<Cost>,
) -> Result<(Store, Records), StoreError> {
    let opened = tokio::task::spawn_blocking(move || match create {
        Some(cost) => Ok((Store::create(&folder, &passphrase, cost)?, Records::new())),
        None => Store::open(&folder, &passphrase),
    });
    opened.await.map_err(|e| StoreError::Io(std::io::Error::other(e)))?
}

fn run(mut store: Store, orders: &std_mpsc::Receiver<Order>, reported: &mpsc::Sender<Result<u64, StoreError>>) {
    let mut purge_at: Option<Instant> = None;
    loop {
        let wait = purge_at.map_or(PURGE_AFTER, |at| at.saturating_duration_since(Instant::now()));
        let mut next = match orders.recv_timeout(wait) {
            Ok(order) => Some(order),
            Err(std_mpsc::RecvTimeoutError::Timeout) => None,
            Err(std_mpsc::RecvTimeoutError::Disconnected) => break,
        };
        // One transaction for all writes that wait.
        let mut changes = Vec::new();
        let mut number = None;
        while let Some(Order::Write(n, more)) = next {
            changes.extend(more);
            number = Some(n);
            next = orders.try_recv().ok();
        }
        if let Some(number) = number {
            let applied = store.apply(&changes).map(|()| number);
            let failed = applied.is_err();
            let _ = reported.blocking_send(applied);
            if failed {
                return;
            }
        }
        if !store.is_purged() {
            purge_at.get_or_insert_with(|| Instant::now() + PURGE_AFTER);
        }
        match next {
            Some(Order::Purge(reply)) => {
                let _ = reply.send(store.purge());
            }
            Some(Order::Passphrase(new, reply)) => {
                let _ = reply.send(store.change_passphrase(&new));
            }
            Some(Order::Close(reply)) => {
                purge(&mut store);
                drop(store);
                let _ = reply.send(());
                return;
            }
            Some(Order::Write(..)) | None => {}
        }
        if purge_at.is_some_and(|at| at <= Instant::now()) {
            purge_at = None;
            purge(&mut store);
        }
    }
    purge(&mut store);
}

/// What fails here is done at the next opening.
fn purge(store: &mut Store) {
    if let Err(e) = store.purge() {
        warn!("what was deleted is not overwritten yet: {e}");
    }
}
