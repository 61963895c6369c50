//! `posta profile`, and what else shows or sets how packets leave.

use std::path::Path;

use posta_link::exit;
use rand::rngs::StdRng;
use serde_json::json;

use super::Ending;
use super::folder::Folder;
use super::show::Show;
use crate::client::StartError;
use crate::driver::Clock;
use crate::session::event::{Action, Options, Profile};
use crate::session::{ENOUGH_TO_MIX, ProfileCost, Session};
use crate::store::Records;

/// A profile as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Named {
    /// No delay, no cover: quick, and can be correlated by one who watches both ends.
    Fast,
    /// Random delays at each relay, packets at random times whether there is something to say or not.
    Mixed,
    /// Random delays, packets at a constant rate up and down: the line never shows whether anything is said.
    Steady,
}

impl From<Named> for Profile {
    fn from(named: Named) -> Self {
        match named {
            Named::Fast => Self::Fast,
            Named::Mixed => Self::Mixed,
            Named::Steady => Self::Steady,
        }
    }
}

/// Makes the state, with its profile in it.
pub(super) fn init(folder: &Folder, network: &Path, profile: Named) -> Result<(), Ending> {
    let mut store = super::commands::init(folder, network)?;
    let rng = Box::new(rand::make_rng::<StdRng>());
    let now = Clock::new().now();
    let session = Session::restore(Options::default(), rng, now, &Records::new());
    let mut session = session.map_err(StartError::Records)?;
    session.set_profile(now, profile.into());
    while let Some(action) = session.poll() {
        if let Action::Save(changes) = action {
            store.apply(&changes)?;
        }
    }
    Ok(())
}

/// Sets the profile, or shows what each costs and gives.
pub(super) async fn profile(folder: &Folder, name: Option<Named>) -> Result<(), Ending> {
    if let Some(name) = name {
        let profile = Profile::from(name);
        let (mut store, mut session, now) = folder.session()?;
        session.set_profile(now, profile);
        while let Some(action) = session.poll() {
            if let Action::Save(changes) = action {
                store.apply(&changes)?;
            }
        }
        let text = format!("From the next start on, packets leave as {profile} wants it.");
        Show { json: folder.json }.say(&json!({ "event": "profile-set", "profile": profile.to_string() }), &text);
        return Ok(());
    }
    let client = folder.open().await?;
    let costs = client.profiles().await?;
    client.close().await;
    let Some(costs) = costs else {
        return Err(Ending::new(exit::NETWORK, "the list of relays is not there: try again"));
    };
    costs.iter().for_each(|cost| print(folder, cost));
    if let Some(small) = costs.iter().find(|cost| cost.is_too_small()) {
        let text = format!(
            "! This network is too small for mixed and steady: the relays\u{2019} own traffic keeps {} packets in a mix on\n\
             ! average, and {ENOUGH_TO_MIX} would be needed to hide one among. Others who use it add to that; nobody can count them.",
            small.mix_holds
        );
        Show { json: false }.say(&json!(null), if folder.json { "" } else { &text });
    }
    Ok(())
}

fn print(folder: &Folder, cost: &ProfileCost) {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let object = json!({
        "event": "profile", "profile": cost.profile.to_string(), "used": cost.used,
        "up_mb_per_day": mb(cost.up), "down_mb_per_day": mb(cost.down),
        "hop_delay_ms": cost.hop_delay.as_secs_f64() * 1000.0, "mix_holds": cost.mix_holds,
        "too_small": cost.is_too_small(),
    });
    let used = if cost.used { "*" } else { " " };
    let (up, down) = (mb(cost.up), mb(cost.down));
    let line = match cost.profile {
        Profile::Fast => format!(
            "{used} fast    {:6.0} MB a day for each contact, while nothing is said; no delay, no cover",
            up + down
        ),
        profile => format!(
            "{used} {profile:<7} {:6.0} MB a day ({up:.0} up, {down:.0} down) whatever is said; {:.1} s delay a hop",
            up + down,
            cost.hop_delay.as_secs_f64()
        ),
    };
    Show { json: folder.json }.say(&object, &line);
}

/// One line of `status`: the profile, and how packets came back when the client ran last.
pub(super) fn status(folder: &Folder, session: &Session) {
    let (profile, health) = (session.profile(), session.health());
    let of = health.answered + health.lost;
    let object = json!({
        "event": "line", "profile": profile.to_string(), "health": health.level.to_string(),
        "answered": health.answered, "lost": health.lost,
    });
    let line = format!("Profile {profile}; {} of the last {of} packets came back: {}.", health.answered, health.level);
    Show { json: folder.json }.say(&object, &line);
}
