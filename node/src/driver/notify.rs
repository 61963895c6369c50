//! What a service manager is told (`sd_notify`): ready, a line of status, that we live, stopping.
//!
//! A datagram of `NAME=VALUE` lines to the socket that `NOTIFY_SOCKET` names: a path, or `@` and a name without a file.
//! Without the variable nothing is said. `WATCHDOG_USEC` is how long the manager waits for a sign of life before it
//! starts the relay again; half of that is how often it gets one. The signs come from the task that owns the core: if
//! that hangs, they end.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use posta_protocol::now::Mono;
use tokio::time::sleep;
use tracing::warn;

/// Bytes of a status line at most.
const MAX_STATUS: usize = 200;

/// The way to the service manager, if there is one.
pub(crate) struct Notify {
    socket: Option<UnixDatagram>,
    every: Option<Duration>,
    next: Mono,
    said: String,
}

impl Notify {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var_os(name);
        let ours = variable("WATCHDOG_PID")
            .and_then(|pid| pid.to_str()?.parse().ok())
            .is_none_or(|pid: u32| pid == std::process::id());
        Self::new(variable("NOTIFY_SOCKET"), variable("WATCHDOG_USEC").filter(|_| ours))
    }

    fn new(address: Option<OsString>, watchdog: Option<OsString>) -> Self {
        let socket = address.filter(|address| !address.is_empty()).and_then(|address| match connect(&address) {
            Ok(socket) => Some(socket),
            Err(e) => {
                warn!("the service manager can't be told anything: {e}");
                None
            }
        });
        let every = watchdog.and_then(|text| text.to_str()?.parse().ok()).filter(|usec| *usec > 0);
        let every = every.map(|usec| Duration::from_micros(usec) / 2).filter(|_| socket.is_some());
        Self { socket, every, next: Mono(0), said: String::new() }
    }

    /// The ports are open and the queues there.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// One line for people; said again only if it is another one.
    pub(crate) fn status(&mut self, line: &str) {
        if self.socket.is_some() && self.said != line {
            let plain: String = line.chars().filter(|c| !c.is_control()).take(MAX_STATUS).collect();
            self.tell(&format!("STATUS={plain}"));
            line.clone_into(&mut self.said);
        }
    }

    /// From here on nothing new is taken in.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// A sign of life, when it is time for one.
    pub(crate) fn alive(&mut self, now: Mono) {
        if let Some(every) = self.every
            && now >= self.next
        {
            self.next = now + every;
            self.tell("WATCHDOG=1");
        }
    }

    /// Signs of life for as long as this is awaited.
    pub(crate) async fn live(&self) -> Infallible {
        loop {
            match self.every {
                Some(every) => {
                    self.tell("WATCHDOG=1");
                    sleep(every).await;
                }
                None => std::future::pending().await,
            }
        }
    }

    fn tell(&self, what: &str) {
        if let Some(socket) = &self.socket {
            // A manager that doesn't listen is none of our troubles.
            let _ = socket.send(what.as_bytes());
        }
    }
}

fn connect(address: &OsString) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(address)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 512];
        let mut all = Vec::new();
        while let Ok(n) = manager.recv(&mut buffer) {
            all.push(String::from_utf8(buffer[..n].to_vec()).unwrap());
        }
        all
    }

    #[test]
    fn a_manager_hears_what_changes_and_that_we_live() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notify = Notify::new(Some(path.into()), Some("10000000".into()));
        notify.ready();
        notify.status("one\ntwo");
        notify.status("one\ntwo");
        for second in 0..11 {
            notify.alive(Mono(second * 1_000_000));
        }
        notify.stopping();
        // Every 5 of the 10 seconds.
        let alive = "WATCHDOG=1";
        assert_eq!(heard(&manager), ["READY=1", "STATUS=onetwo", alive, alive, alive, "STOPPING=1"]);
    }

    #[test]
    fn a_name_without_a_file_will_do_and_silence_too() {
        let name = format!("posta-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut notify = Notify::new(Some(format!("@{name}").into()), None);
        notify.ready();
        notify.alive(Mono(0));
        assert_eq!(heard(&manager), ["READY=1"]);
        for nobody in [None, Some("".into()), Some("/nonexistent/socket".into())] {
            let mut notify = Notify::new(nobody, Some("1000000".into()));
            notify.ready();
            notify.status("x");
            notify.alive(Mono(0));
            assert!(notify.every.is_none());
        }
    }
}
