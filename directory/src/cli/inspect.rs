//! Commands that look at a network from outside: what its authorities hold and have said, and evidence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use posta_link::fetch::{FetchError, Network, ask, ask_all, connect, fetch_signed, look_for_forks, to_hex};
use posta_link::{Audience, Endpoint, exit};
use posta_protocol::document::{
    Authority, Consensus, Reply, Request, RoundReport, UnverifiedConsensus, UnverifiedEvidence, UnverifiedVote,
    VoteState,
};
use posta_protocol::ids::Epoch;
use posta_protocol::params::MAX_EVIDENCE_LEN;
use serde_json::json;

use super::{Failure, print, runtime};
use crate::driver::Clock;
use crate::votes::Said;

pub(super) fn load(path: &Path) -> Result<Network, Failure> {
    Network::load(path).map_err(|e| Failure::new(exit::USAGE, &e))
}

pub(super) fn dialer(network: &Network) -> Result<Endpoint, Failure> {
    let six = network.authorities().list().iter().flat_map(|a| &a.addresses).all(SocketAddr::is_ipv6);
    let local = if six { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    Ok(Endpoint::dialer(local, Audience::Directory, None)?)
}

/// Checks evidence, and says what it proves.
pub(super) fn verify_evidence(path: &Path, file: &Path) -> Result<(), Failure> {
    let network = load(path)?;
    let unreadable = |e| Failure { code: exit::DISK, text: format!("{} can't be read: {e}", file.display()) };
    if std::fs::metadata(file).map_err(unreadable)?.len() > MAX_EVIDENCE_LEN as u64 {
        return Err(Failure { code: exit::USAGE, text: format!("{} is too long for evidence", file.display()) });
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    let verified = UnverifiedEvidence::decode(&bytes).and_then(|evidence| evidence.verify(network.authorities()));
    let evidence = verified.map_err(|e| Failure {
        code: exit::FAILURE,
        text: format!("{} proves nothing about the authorities in {}: {e}", file.display(), path.display()),
    })?;
    print(&format!("proven: {evidence}\n"))
}

struct Held {
    authority: Authority,
    answer: Result<Option<Consensus>, String>,
    round: Option<RoundReport>,
}

/// What each authority holds, and whether it took part in the newest round.
pub(super) fn status(path: &Path, as_json: bool) -> Result<(), Failure> {
    let network = load(path)?;
    let (held, fork) = runtime()?.block_on(async {
        let dialer = dialer(&network)?;
        let consensus = Arc::new(Request::GetConsensus { newer_than: Epoch(0) });
        let answers = ask_all(&network, &dialer, &consensus).await;
        let rounds = ask_all(&network, &dialer, &Arc::new(Request::GetRound)).await;
        let held: Vec<_> = answers
            .into_iter()
            .zip(rounds)
            .map(|((authority, answer), (_, round))| Held {
                authority,
                answer: consensus_of(answer, &network),
                round: match round {
                    Ok(Reply::Ok(bytes)) => RoundReport::decode(&bytes).ok(),
                    _ => None,
                },
            })
            .collect();
        let newest = held.iter().filter_map(|h| h.answer.as_ref().ok()?.as_ref()).map(Consensus::epoch).max();
        let fork = look_for_forks(&network, &dialer, newest.unwrap_or_default(), None).await;
        Ok::<_, Failure>((held, fork))
    })?;
    let now = Clock::start().now().wall;
    let newest = held.iter().filter_map(|h| h.answer.as_ref().ok()?.as_ref()).max_by_key(|c| c.epoch());
    let signed = |id| newest.is_some_and(|c| c.signed_header().signatures.iter().any(|s| s.authority() == id));
    let vote = |id| held.iter().filter_map(|h| h.round.as_ref()).find_map(|r| r.votes.iter().find(|v| v.voter == id));
    let mut lines = Vec::new();
    let mut objects = Vec::new();
    for Held { authority, answer, .. } in &held {
        let says = match vote(authority.id).map(|v| v.state) {
            Some(VoteState::Counted) => "its vote counted",
            Some(VoteState::NotCounted) => "its vote came too late",
            Some(VoteState::Twice) => "it voted twice",
            None => "it did not vote",
        };
        let holds = match answer {
            Ok(Some(c)) if c.valid_until() <= now => format!("epoch {}, expired", c.epoch().0),
            Ok(Some(c)) => format!("epoch {}, {} relays, hash {}", c.epoch().0, c.relays().len(), short(&c.hash().0)),
            Ok(None) => "no consensus yet".to_owned(),
            Err(e) => e.clone(),
        };
        let signature = if signed(authority.id) { "signed" } else { "not signed" };
        lines.push(format!("{:18}{signature:12}{says:24}{holds}\n", short(&authority.id.0)));
        objects.push(json!({
            "authority": to_hex(&authority.id.0), "signed": signed(authority.id), "vote": says,
            "epoch": answer.as_ref().ok().and_then(|c| c.as_ref()).map(|c| c.epoch().0),
            "hash": answer.as_ref().ok().and_then(|c| c.as_ref()).map(|c| to_hex(&c.hash().0)),
            "failure": answer.as_ref().err(),
        }));
    }
    if as_json {
        let fork = fork.as_ref().map(|evidence| to_hex(evidence.encode()));
        return print(&format!("{}\n", json!({ "authorities": objects, "fork": fork })));
    }
    let wide = |a: &str, b: &str, c: &str| format!("{a:18}{b:12}{c:24}holds\n");
    let mut text = wide("authority", "newest", "in its round") + &lines.concat();
    if let Some(evidence) = fork {
        let name = format!("{}-{}.evidence", evidence.epoch().0, short(&evidence.hash().0));
        let unwritable = |e| Failure { code: exit::DISK, text: format!("{name} can't be written: {e}") };
        std::fs::write(&name, evidence.encode()).map_err(unwritable)?;
        text += &format!("\nFORK: {evidence}. The proof is in {name}: hand it on.\n");
    }
    print(&text)
}

fn consensus_of(answer: Result<Reply, FetchError>, network: &Network) -> Result<Option<Consensus>, String> {
    match answer {
        Ok(Reply::Ok(bytes)) => {
            let verified = UnverifiedConsensus::decode(&bytes).and_then(|c| c.verify_signatures(network.authorities()));
            verified.map(Some).map_err(|e| format!("its consensus is not to be trusted: {e}"))
        }
        Ok(Reply::None) => Ok(None),
        Ok(Reply::Refused(reason)) => Err(format!("refuses: {reason}")),
        Err(e) => Err(e.to_string()),
    }
}

/// What each authority said in the round that made the newest consensus, and why each relay is in or out.
pub(super) fn votes(path: &Path, relay: Option<&str>) -> Result<(), Failure> {
    let network = load(path)?;
    let now = Clock::start().now().wall;
    let (consensus, said) = runtime()?.block_on(async {
        let dialer = dialer(&network)?;
        let (consensus, _) = fetch_signed(&network, &dialer, now, None).await?;
        let mut last = None;
        for authority in network.authorities().list() {
            match said(&network, authority, &dialer, consensus.epoch()).await {
                Ok(Some(said)) => return Ok((consensus, said)),
                Ok(None) => {}
                Err(e) => last = Some(e),
            }
        }
        Err(last.map_or_else(
            || Failure { code: exit::NETWORK, text: "no authority was in the newest round from its start".to_owned() },
            Failure::from,
        ))
    })?;
    print(&said.table(&consensus, network.authorities(), relay))
}

/// The votes of a consensus' round, as one authority has them; `None` if it has another round's.
async fn said(
    network: &Network,
    authority: &Authority,
    dialer: &Endpoint,
    epoch: Epoch,
) -> Result<Option<Said>, FetchError> {
    let connection = connect(authority, dialer).await?;
    let Reply::Ok(bytes) = ask(&connection, &Request::GetRound).await? else { return Ok(None) };
    let report = RoundReport::decode(&bytes)?;
    if report.epoch != epoch {
        return Ok(None);
    }
    let mut said = Said { report, votes: Default::default() };
    for vote in said.report.votes.clone() {
        if let Reply::Ok(bytes) = ask(&connection, &Request::GetVote(vote.hash)).await? {
            let verified = UnverifiedVote::decode(&bytes)?.verify(network.authorities())?;
            if verified.voter() == vote.voter && verified.epoch == epoch {
                said.votes.insert(vote.voter, verified);
            }
        }
    }
    connection.close();
    Ok(Some(said))
}

fn short(bytes: &[u8; 32]) -> String {
    bytes.iter().take(8).map(|b| format!("{b:02x}")).collect()
}
