//! Whether a command was told by a signal to end: for one that has to put something back first.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::signal::unix::{SignalKind, signal};

/// Listens for SIGTERM, SIGINT and SIGHUP, which from here on end nothing by themselves.
pub(crate) struct Told(Arc<AtomicBool>);

impl Told {
    /// From here on, with a thread that waits for them until the process ends.
    ///
    /// # Errors
    /// If the system gives no signals or no thread.
    pub(crate) fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut signals = {
            let _inside = runtime.enter();
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal)
        };
        if let Some(Err(e)) = signals.iter_mut().find(|signal| signal.is_err()) {
            return Err(io::Error::new(e.kind(), e.to_string()));
        }
        let told = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&told);
        thread::Builder::new().name("signals".into()).spawn(move || {
            runtime.block_on(poll_fn(|cx| {
                let came = signals.iter_mut().flatten().any(|signal| signal.poll_recv(cx).is_ready());
                if came { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            }));
            tell.store(true, Ordering::Relaxed);
        })?;
        Ok(Self(told))
    }

    /// Whether one of them has come.
    pub(crate) fn to_end(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
