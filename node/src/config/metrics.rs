//! Whether metrics are served.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where metrics are served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsConfig {
    /// An address of this machine alone, as `127.0.0.1:9464` or `[::1]:9464`. Empty: nowhere.
    pub listen: String,
}

impl MetricsConfig {
    /// The address to serve at, if there is one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        match self.address() {
            Some(address) if !address.ip().is_loopback() => Err(format!(
                "`metrics.listen` is {address}, which others can reach: choose 127.0.0.1:{}, and let a Prometheus on this \
                 machine read it",
                address.port()
            )),
            None if !self.listen.is_empty() => Err(format!(
                "`metrics.listen` is \"{}\": give ADDRESS:PORT, as 127.0.0.1:9464, or nothing",
                self.listen
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_reads_them() {
        let judged = |listen: &str| MetricsConfig { listen: listen.into() }.validate();
        for good in ["", "127.0.0.1:9464", "127.9.0.1:1", "[::1]:9464"] {
            assert_eq!(judged(good), Ok(()), "{good}");
        }
        for (bad, words) in
            [("0.0.0.0:9464", "127.0.0.1:9464"), ("[2001:db8::1]:1", "reach"), ("localhost", "ADDRESS:PORT")]
        {
            let e = judged(bad).unwrap_err();
            assert!(e.contains("`metrics.listen`") && e.contains(words), "{e}");
        }
    }
}
