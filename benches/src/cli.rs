//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{clients, directory, hop, message, queues, relay, sim, store};

/// Measures one claim about Posta and prints it beside its floor or peer.
#[derive(Debug, Parser)]
#[command(name = "posta-benches", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// One hop (peel) and building a packet, beside the key decapsulation alone and beside sphinx-packet.
    Hop {
        /// One JSON object.
        #[arg(long)]
        json: bool,
    },
    /// A consensus of many relays: its size, the tally, and what a client verifies.
    Directory {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Relays.
        #[arg(long, default_value_t = 10_000)]
        relays: usize,
    },
    /// Durable sends, reads and acks a second, beside RocksDB alone; layouts; opening.
    Store {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Seconds of each slice; there are 38 of them.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// Queues in the store whose opening is measured; the full run has 10000000.
        #[arg(long, default_value_t = 100_000)]
        queues: u64,
        /// Where to make the stores; a folder on the disk that is measured.
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        dir: PathBuf,
    },
    /// A packet through a whole relay: CPU, rate and latency, beside the hop alone and a bare forwarder.
    Relay {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Packets of each run, all built before; 21.5 KB each.
        #[arg(long, default_value_t = 100_000)]
        packets: usize,
    },
    /// The relay that `relay` measures.
    #[command(hide = true)]
    Node {
        /// As for `posta-node`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The bare forwarder that `relay` measures.
    #[command(hide = true)]
    Forward {
        /// Its port.
        listen: u16,
        /// The sink's port.
        sink: u16,
    },
    /// Clients at an entry: resident memory of the relay for each, idle and after activity.
    Clients {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// How many.
        #[arg(long, default_value_t = 10_000)]
        count: usize,
    },
    /// The clients that `clients` measures.
    #[command(hide = true)]
    Crowd {
        /// The relay's port for clients.
        relay: SocketAddr,
        /// Its link key, hexadecimal.
        key: String,
        /// How many.
        clients: usize,
    },
    /// A message from client to client over a testnet: latency, throughput, CPU, and clients with nothing to do.
    Message {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Messages of each measurement; one every 50 ms, then all at once.
        #[arg(long, default_value_t = 300)]
        messages: usize,
        /// Seconds for which idle clients are watched.
        #[arg(long, default_value_t = 10)]
        idle: u64,
    },
    /// The programs that the network of `message` is made of.
    #[command(hide = true, disable_help_flag = true)]
    Role {
        /// As for `posta-testnet role`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// The simulator: a large network, simulated time by real time, and memory.
    Sim {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// Relays.
        #[arg(long, default_value_t = 1_000)]
        relays: usize,
        /// Clients.
        #[arg(long, default_value_t = 10_000)]
        clients: usize,
        /// Simulated minutes.
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
    },
    /// Many queues: disk and memory for each, creation and lookup, expiry in the background.
    Queues {
        /// One JSON object.
        #[arg(long)]
        json: bool,
        /// How many; the full run has 10000000.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Where to make the store.
        #[arg(long, default_value_os_t = std::env::temp_dir())]
        dir: PathBuf,
    },
}

/// Runs the program with these arguments, its own name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Arguments::parse_from(args).bench {
        Bench::Hop { json } => run_hop(json),
        Bench::Directory { json, relays } => run_directory(json, relays),
        Bench::Store { json, seconds, queues, dir } => run_store(json, &dir, seconds, queues),
        Bench::Queues { json, count, dir } => run_queues(json, &dir, count),
        Bench::Sim { json, relays, clients, minutes } => run_sim(json, relays, clients, minutes),
        Bench::Relay { json, packets } => run_relay(json, packets),
        Bench::Message { json, messages, idle } => run_message(json, messages, Duration::from_secs(idle)),
        Bench::Role { args } => {
            let role = ["posta-testnet".into(), "role".into()];
            return posta_testnet::cli::main(role.into_iter().chain(args));
        }
        Bench::Clients { json, count } => run_clients(json, count),
        Bench::Crowd { relay, key, clients } => clients::crowd(relay, &key, clients),
        Bench::Node { args } => return posta_node::cli::main(std::iter::once("posta-node".into()).chain(args)),
        Bench::Forward { listen, sink } => relay::forward(listen, sink),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("posta-benches: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_sim(json: bool, relays: usize, clients: usize, minutes: f64) -> Result<()> {
    let r = sim::measure(relays, clients, minutes)?;
    if json {
        println!("{}", serde_json::to_string(&r)?);
        return Ok(());
    }
    println!(
        "{} relays, {} clients: {:.0} s simulated in {:.1} s, {:.2} times as fast ({:.1} s of a core, {:.1} times); \
         {:.2} GiB; {:.0} events/s, {} packets, {} changes of keys; {} of {} messages delivered",
        r.relays,
        r.clients,
        r.simulated_s,
        r.real_s,
        r.speedup,
        r.cpu_s,
        r.speedup_cpu,
        r.resident_bytes as f64 / f64::from(1 << 30),
        r.events_per_s,
        r.packets,
        r.key_epochs,
        r.messages.1,
        r.messages.0
    );
    Ok(())
}

fn run_hop(json: bool) -> Result<()> {
    let result = hop::measure()?;
    if json {
        println!("{}", serde_json::to_string(&result)?);
    } else {
        for (payload, size) in &result.sizes {
            println!(
                "hop, {payload} bytes of payload: {:.1} us; its key decapsulation alone {:.1} us, ratio {:.2}; \
                 sphinx-packet {:.1} us, ratio {:.2}",
                size.hop_us, size.kem_floor_us, size.ratio_to_floor, size.sphinx_packet_us, size.ratio_to_sphinx_packet
            );
        }
        println!(
            "building a packet of 4 layers: {:.1} us; sphinx-packet, 3 layers: {:.1} us, ratio {:.2}",
            result.build_us, result.sphinx_packet_build_us, result.build_ratio
        );
    }
    Ok(())
}

fn run_directory(json: bool, relays: usize) -> Result<()> {
    let r = directory::measure(relays)?;
    if json {
        println!("{}", serde_json::to_string(&r)?);
        return Ok(());
    }
    println!(
        "{} relays: consensus {} bytes, mix keys of a key epoch {} bytes, a vote {} bytes",
        r.relays, r.consensus_bytes, r.mix_keys_bytes, r.vote_bytes
    );
    println!(
        "an hour later, with 2 % of the relays gone and as many come: {} bytes of difference ({} not compressed), {} more for \
         the mix keys of each key epoch; a new key epoch: {} bytes, and its mix keys",
        r.diff_bytes, r.diff_content_bytes, r.mix_keys_diff_bytes, r.rotation_diff_bytes
    );
    println!(
        "a client in 24 h: {} bytes; {} if everything were fetched whole",
        r.client_day_bytes, r.client_day_whole_bytes
    );
    println!("a difference is made in {:.1} ms, applied in {:.1} ms", r.diff_make_ms, r.diff_apply_ms);
    println!("tally of {} votes: {:.1} ms", r.authorities, r.tally_ms);
    println!(
        "verifying the consensus: {:.1} ms; with the mix keys of three key epochs: {:.1} ms more",
        r.verify_ms, r.verify_mix_keys_ms
    );
    Ok(())
}

fn run_store(json: bool, dir: &Path, seconds: f64, queues: u64) -> Result<()> {
    let result = store::measure(dir, seconds, queues)?;
    if json {
        println!("{}", serde_json::to_string(&result)?);
        return Ok(());
    }
    for (writers, w) in &result.writers {
        println!(
            "{writers} writers: {:.0} durable sends/s, p99 {:.0} us; RocksDB alone behind the same thread {:.0}/s, p99 {:.0} us, \
             ratio {:.2}; in a loop {:.0}/s, ratio {:.2}",
            w.sends.per_s, w.sends.p99_us, w.raw.per_s, w.raw.p99_us, w.ratio, w.raw_loop.per_s, w.ratio_to_loop
        );
    }
    println!("reads: {:.0}/s, p99 {:.0} us", result.reads.per_s, result.reads.p99_us);
    println!("acks: {:.0}/s, p99 {:.0} us", result.acks.per_s, result.acks.p99_us);
    for (name, kept) in &result.layouts {
        let habits = [("acknowledged soon", &kept.soon), ("late", &kept.late), ("all but a tenth", &kept.some_stay)];
        for (habit, cost) in habits {
            println!(
                "{name}, {habit}: {:.0}/s, read {:.0}/s, written {:.2} times, left {:.3}",
                cost.per_s, cost.reads_per_s, cost.written, cost.left
            );
        }
    }
    println!("opening with {} queues: {:.2} s", result.restart.queues, result.restart.seconds);
    Ok(())
}

fn run_relay(json: bool, packets: usize) -> Result<()> {
    let r = relay::measure(packets)?;
    if json {
        println!("{}", serde_json::to_string(&r)?);
        return Ok(());
    }
    println!(
        "a packet through a relay: {:.1} us of CPU; hop alone {:.1} us, bare forwarder {:.1} us, ratio to both {:.2}",
        r.relay.cpu_us, r.hop_us, r.forwarder.cpu_us, r.ratio_to_floor
    );
    println!(
        "{:.0} packets a CPU second; {:.0} a second on one core, {:.0} Mbit/s, {} dropped",
        r.packets_per_cpu_s, r.relay.per_s, r.goodput_mbit_s, r.relay.dropped
    );
    println!(
        "peels: {:.0}/s by one worker, {:.0}/s by two, ratio {:.2}; by the clock {:.2}",
        r.peels_per_s, r.peels_per_s_two, r.peels_ratio, r.peels_ratio_clock
    );
    for load in &r.loads {
        println!(
            "offered {:.0}/s: {:.0}/s, {} dropped, p50 {:.1} ms, p99 {:.1} ms; {:.1} ms once taken",
            load.offered_per_s, load.per_s, load.dropped, load.p50_ms, load.p99_ms, load.taken_p99_ms
        );
    }
    for [p50, p99] in &r.added_ms {
        println!("added to the forwarder's latency at the same rate: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    println!("at twice the load {:.2} of the most", r.overload_ratio);
    Ok(())
}

fn run_clients(json: bool, count: usize) -> Result<()> {
    let r = clients::measure(count)?;
    if json {
        println!("{}", serde_json::to_string(&r)?);
        return Ok(());
    }
    println!(
        "{} clients, connected in {:.1} s: {:.1} KiB each when idle, {:.1} KiB after activity",
        r.clients,
        r.connected_s,
        r.bytes_per_client as f64 / 1024.0,
        r.bytes_per_active_client as f64 / 1024.0
    );
    Ok(())
}

fn print_idle(name: &str, idle: &message::Idle) {
    let mib = idle.resident_bytes as f64 / (1024.0 * 1024.0);
    println!("{name}, idle: {mib:.1} MiB, {:.0} us of CPU a second", idle.cpu_us_per_s);
}

fn run_message(json: bool, messages: usize, idle: Duration) -> Result<()> {
    let r = message::measure(messages, idle)?;
    if json {
        println!("{}", serde_json::to_string(&r)?);
        return Ok(());
    }
    for (name, kept) in &r.kept {
        let [way, stored, delivered] = [kept.latency_ms, kept.stored_ms, kept.delivered_ms];
        println!(
            "{name}: one way p50 {:.1} ms, p95 {:.1}, p99 {:.1}; told as stored p50 {:.1}, as delivered {:.1}",
            way.p50, way.p95, way.p99, stored.p50, delivered.p50
        );
        println!(
            "{name}: {:.0} messages/s in one conversation; CPU for each: sender {:.0} us, receiver {:.0} us, all relays {:.0} us",
            kept.messages_per_s, kept.sender_cpu_us, kept.receiver_cpu_us, kept.relays_cpu_us
        );
        print_idle(name, &kept.idle);
    }
    r.idle.iter().for_each(|(profile, idle)| print_idle(profile, idle));
    Ok(())
}

fn run_queues(json: bool, dir: &Path, count: u64) -> Result<()> {
    let r = queues::measure(dir, count)?;
    if json {
        println!("{}", serde_json::to_string(&r)?);
        return Ok(());
    }
    println!("{} queues, {} with a message, made in {:.0} s", r.queues, r.with_message, r.build_s);
    println!(
        "disk without messages: {} bytes, {:.0} a queue; {:?}",
        r.disk_bytes, r.disk_bytes_per_queue, r.table_bytes
    );
    println!("memory: {} bytes, at most {}", r.resident_bytes, r.peak_resident_bytes);
    for (what, grown) in [("creation", &r.create), ("lookup", &r.lookup), ("lookup alone", &r.lookup_alone)] {
        println!(
            "{what} p99: {:.0} us; with 10 k queues {:.0} us: {:.2} x",
            grown.p99_us, grown.p99_us_few, grown.ratio
        );
    }
    println!("opening: {:.2} s", r.restart_s);
    println!(
        "expiry: {} of {} queues in {:.0} s; send p99 {:.0} us meanwhile, {:.0} us before; ratio {:.2}",
        r.expiry.erased,
        r.expiry.due,
        r.expiry.seconds,
        r.expiry.send_p99_us,
        r.expiry.send_p99_us_before,
        r.expiry.ratio
    );
    Ok(())
}
