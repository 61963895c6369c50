//! How full the replay filter is: said in the log, and told to the directory as a lower capacity.

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::relay::replay::Fill;

/// How full the replay filter is, by worker, and who is told.
pub(crate) struct Filter {
    fills: Vec<Fill>,
    told: watch::Sender<Fill>,
}

impl Filter {
    pub(crate) fn new(fills: Vec<Fill>, told: watch::Sender<Fill>) -> Self {
        let filter = Self { fills, told };
        filter.tell();
        filter
    }

    /// A worker says how full its share is.
    pub(crate) fn report(&mut self, worker: usize, fill: Fill) {
        if let Some(held) = self.fills.get_mut(worker).filter(|held| **held != fill) {
            *held = fill;
            self.tell();
        }
    }

    /// How full the fullest share is: a packet can't choose another.
    pub(crate) fn fill(&self) -> Fill {
        self.fills.iter().max().copied().unwrap_or_default()
    }

    /// Tells the directory's task of the fullest share.
    fn tell(&self) {
        let fill = self.fill();
        let news = self.told.send_if_modified(|told| std::mem::replace(told, fill) != fill);
        if !news {
            return;
        }
        match fill {
            Fill::Room => info!("the replay filter has room again"),
            Fill::High => warn!("the replay filter is four fifths full: the directory is told half the capacity"),
            Fill::VeryHigh => warn!("the replay filter is nine tenths full: the directory is told a quarter"),
            Fill::Full => error!(
                "the replay filter is full: packets are refused until the key epoch ends; raise `replay.max_tags`"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_told_of_the_fullest_share_and_only_when_it_changes() {
        let (told, mut seen) = watch::channel(Fill::Room);
        let mut filter = Filter::new(vec![Fill::Room, Fill::High], told);
        assert_eq!(*seen.borrow_and_update(), Fill::High, "what the log held counts from the start");
        filter.report(0, Fill::High);
        assert!(!seen.has_changed().unwrap());
        filter.report(0, Fill::Full);
        assert_eq!(*seen.borrow_and_update(), Fill::Full);
        filter.report(0, Fill::Room);
        assert_eq!(*seen.borrow_and_update(), Fill::High, "the other share is what it was");
        filter.report(1, Fill::Room);
        assert_eq!(*seen.borrow_and_update(), Fill::Room, "a new key epoch");
    }
}
