//! The large simulator, its adversary and its figures: what they must show, and controls that they must catch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use posta_testnet::adversary::{Active, Deed, Watch};
use posta_testnet::experiment::{self, Group};
use posta_testnet::figures::{Figures, figures, stats, summary};
use posta_testnet::report_page;
use posta_testnet::sim::large::{CLIENT, Crypto, Habit, Latency, Lines, Options, Outcome, Traffic, run};

/// Twelve relays, twenty clients, three minutes.
fn small() -> Options {
    Options { relays: 12, clients: 20, length: Duration::from_secs(180), ..Options::default() }
}

fn watched(habit: Habit, seed: u64) -> Options {
    Options {
        seed,
        habit,
        clients: 40,
        length: Duration::from_secs(900),
        traffic: Traffic::Poisson { mean: Duration::from_secs(20) },
        watch: Watch::Everything,
        ..small()
    }
}

fn value(figures: &Figures, name: &str) -> f64 {
    figures.values.get(name).copied().unwrap_or_else(|| panic!("{name}: {:?}", figures.values))
}

/// Of what was written early enough.
fn delivered(outcome: &Outcome, before: Duration) -> (usize, usize) {
    let early: Vec<_> = outcome.messages.iter().filter(|m| u128::from(m.written_us) < before.as_micros()).collect();
    (early.len(), early.iter().filter(|m| m.delivered_us.is_some()).count())
}

#[test]
fn one_seed_has_one_trace_on_every_machine() {
    let options = Options { watch: Watch::Everything, ..small() };
    let (a, b) = (run(&options).unwrap(), run(&options).unwrap());
    assert_eq!((a.trace, &a.seen, &a.messages), (b.trace, &b.seen, &b.messages));
    assert_ne!(run(&Options { seed: 2, ..options }).unwrap().trace, a.trace);
    // Another machine that differs here computes logarithms differently: its traces can't be compared with others'.
    let hash: String = a.trace.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, "eec108f1c943ec2c81e3e214d04057bdfb191afcf0b215054e501c9daba33462");
}

#[test]
fn every_profile_delivers_with_real_and_with_modelled_cryptography_over_a_change_of_keys() {
    for habit in Habit::ALL {
        for crypto in [Crypto::Model, Crypto::Real] {
            let length = Duration::from_secs(if crypto == Crypto::Real { 480 } else { 600 });
            let clients = if crypto == Crypto::Real { 6 } else { 20 };
            let options = Options { habit, crypto, length, clients, ..small() };
            let outcome = run(&options).unwrap();
            assert_eq!(outcome.key_epochs, length.as_secs() / 300, "{habit:?}");
            let (written, delivered) = delivered(&outcome, length - Duration::from_secs(240));
            assert!(written > 10, "{habit:?} {crypto:?}: {written}");
            assert_eq!(written, delivered, "{habit:?} {crypto:?}");
        }
    }
}

#[test]
fn times_of_packets_are_the_same_idle_and_busy() {
    let emitted = |habit, traffic| {
        let options = Options { habit, traffic, watch: Watch::Everything, ..small() };
        let outcome = run(&options).unwrap();
        (outcome.emitted, outcome.messages.len())
    };
    let busy = Traffic::Bursty { mean: Duration::from_secs(15), burst: 4.0 };
    for habit in [Habit::Mixed, Habit::Steady] {
        let (idle, none) = emitted(habit, Traffic::Idle);
        let (talk, some) = emitted(habit, busy.clone());
        assert!(none == 0 && some > 50, "{some}");
        assert_eq!(idle, talk, "{habit:?}");
    }
    // The controls differ.
    for habit in [Habit::Fast, Habit::LeakySteady] {
        assert_ne!(emitted(habit, Traffic::Idle).0, emitted(habit, busy.clone()).0, "{habit:?}");
    }
}

#[test]
fn a_mix_holds_as_many_packets_as_loopix_says() {
    let options = Options { habit: Habit::Mixed, clients: 100, length: Duration::from_secs(1500), ..small() };
    let options = Options { hop_delay: Duration::from_secs(2), relay_loops: Duration::ZERO, ..options };
    let found = figures(&options, &run(&options).unwrap());
    // Theorem 1: Poisson with the rate of arrivals times the mean delay.
    let expected = value(&found, "mix_arrivals_per_s") * 2.0;
    let (mean, variance) = (value(&found, "mix_held"), value(&found, "mix_held_variance"));
    assert!((mean / expected - 1.0).abs() < 0.05, "{mean} {expected}");
    assert!((variance / expected - 1.0).abs() < 0.2, "{variance} {expected}");
}

#[test]
fn the_delays_of_a_path_add_up_to_an_erlang_distribution() {
    // `leaky-steady` waits for nothing but the delays: three there, two on the way to the reader.
    let lines = Lines { latency: Latency::Uniform(Duration::ZERO, Duration::ZERO), ..Lines::default() };
    let (length, hours) = (Duration::from_secs(3000), Duration::from_secs(3600));
    let options =
        Options { habit: Habit::LeakySteady, clients: 100, length, epoch: hours, key_epoch: hours * 4, ..small() };
    let options = Options { lines, traffic: Traffic::Poisson { mean: Duration::from_secs(250) }, ..options };
    let outcome = run(&options).unwrap();
    let early = outcome.messages.iter().filter(|m| m.written_us > 60_000_000 && m.written_us < 2_900_000_000);
    let all: Vec<f64> = early.filter_map(|m| Some((m.delivered_us? - m.written_us) as f64 / 1e6)).collect();
    let mut all = all;
    all.sort_by(f64::total_cmp);
    // Of five exponential delays of 1 s. Above, a queue that is out of reply blocks for a moment adds a little.
    for (part, expected) in [(0.1, 2.433), (0.25, 3.369), (0.5, 4.671), (0.75, 6.274), (0.9, 7.994)] {
        let at = stats::quantile(&all, part).unwrap();
        assert!((at / expected - 1.0).abs() < 0.08, "{} messages: {part}: {at} {expected}", all.len());
    }
}

#[test]
fn every_attack_finds_the_contacts_of_the_controls_and_guesses_in_steady() {
    let aucs = |habit, seeds: std::ops::Range<u64>| {
        let runs: Vec<_> = seeds
            .map(|seed| {
                let options = watched(habit, seed);
                figures(&options, &run(&options).unwrap())
            })
            .collect();
        summary(&runs)
    };
    let attacks = ["timing_auc", "intersection_auc", "disclosure_auc"];
    for control in [Habit::Fast, Habit::LeakySteady] {
        let found = aucs(control, 1..3);
        for attack in attacks {
            assert!(found[attack].mean >= 0.9, "{control:?} {attack}: {:?}", found[attack]);
        }
        assert!(found["disclosure_top1"].mean > 0.5, "{control:?}: {found:?}");
    }
    let steady = aucs(Habit::Steady, 1..6);
    for attack in attacks {
        let e = steady[attack];
        assert!((e.mean - 0.5).abs() < e.half_width.max(0.05), "{attack}: {e:?}");
    }
}

#[test]
fn a_message_hides_among_more_packets_the_longer_they_are_held() {
    let bits = |habit, hop_delay| {
        let options = Options { hop_delay: Duration::from_millis(hop_delay), ..watched(habit, 1) };
        value(&figures(&options, &run(&options).unwrap()), "entropy_bits")
    };
    let (fast, short, long) = (bits(Habit::Fast, 1000), bits(Habit::Mixed, 300), bits(Habit::Mixed, 3000));
    assert!(fast < 0.1, "the control: {fast}");
    assert!(short > 2.0 && long > short + 2.0, "{short} {long}");
}

#[test]
fn active_attacks_do_what_they_say_and_loops_tell_of_those_that_take_packets() {
    // Large enough for one mix not to be on most loops' way.
    let base = Options { relays: 32, clients: 20, length: Duration::from_secs(400), ..Options::default() };
    let mix = run(&base).unwrap().positions.iter().position(|p| *p == 1).unwrap() as u32;
    let with = |deed| {
        let active = Active { target: mix, from: Duration::from_secs(120), until: Duration::MAX, deed };
        let options = Options { active: Some(active), ..base.clone() };
        let outcome = run(&options).unwrap();
        (figures(&options, &outcome), outcome)
    };
    let quiet = run(&base).unwrap();
    let (none, _) = with(Deed::Flood(0.001));
    assert_eq!(none.values.get("detection_s"), None, "nothing happens, and nobody raises an alarm");
    let (isolated, _) = with(Deed::Isolate(20.0));
    let delay = value(&isolated, "detection_s");
    assert!((30.0..90.0).contains(&delay), "(n-1): loops are given up after 30 s: {delay}");
    assert_eq!(value(&isolated, "false_alarm"), 0.0);
    let (dropped, _) = with(Deed::Drop(0.9));
    assert!(value(&dropped, "detection_s") < 120.0);
    let (replayed, outcome) = with(Deed::Replay);
    assert_eq!(replayed.values.get("detection_s"), None);
    assert!(outcome.refused > quiet.refused + 100, "each copy is refused: {}", outcome.refused);
    let (_, outcome) = with(Deed::Tag);
    assert!(outcome.refused > quiet.refused + 10, "{}", outcome.refused);
    let (_, outcome) = with(Deed::Flood(50.0));
    assert!(outcome.arrived[mix as usize] > quiet.arrived[mix as usize] + 10_000);
    let (late, _) = with(Deed::Delay(Duration::from_secs(15)));
    assert_eq!(late.values.get("detection_s"), None, "late, not lost");
    assert!(value(&late, "client_loops_returned") < value(&none, "client_loops_returned"));
}

#[test]
fn a_watcher_sees_its_own_lines_only() {
    let seen = |watch| run(&Options { watch, ..small() }).unwrap().seen;
    assert!(seen(Watch::Nothing).is_empty());
    let all = seen(Watch::Everything);
    let one = seen(Watch::Nodes(vec![3]));
    assert!(!one.is_empty() && one.iter().all(|s| s.from == 3 || s.to == 3));
    assert_eq!(one, all.iter().filter(|s| s.from == 3 || s.to == 3).copied().collect::<Vec<_>>());
    let line = all.iter().find(|s| s.from & CLIENT != 0).unwrap();
    let lines = seen(Watch::Lines(vec![(line.from, line.to)]));
    assert!(!lines.is_empty() && lines.iter().all(|s| (s.from, s.to) == (line.from, line.to)));
}

#[test]
fn lines_are_as_slow_as_they_are_said_to_be() {
    let median = |lines| {
        let options = Options { habit: Habit::Fast, lines, ..small() };
        value(&figures(&options, &run(&options).unwrap()), "latency_p50_s")
    };
    let still = Lines { latency: Latency::Uniform(Duration::ZERO, Duration::ZERO), ..Lines::default() };
    let ten = Latency::Uniform(Duration::from_millis(10), Duration::from_millis(10));
    // Eight lines from writer to reader.
    let at = median(Lines { latency: ten, ..still.clone() });
    assert!((0.08..0.09).contains(&at), "{at}");
    let jitter = median(Lines { jitter: Duration::from_millis(10), ..still.clone() });
    assert!((0.06..0.1).contains(&jitter), "{jitter}");
    // 21.6 KB at 10 Mbit/s: 17 ms each, and some waiting behind loops.
    let narrow = median(Lines { bandwidth: 10_000_000, ..still });
    assert!((0.13..0.3).contains(&narrow), "{narrow}");
    assert!(median(Lines { latency: Latency::cities(), ..Lines::default() }) > 0.2);
}

#[test]
fn traffic_models_keep_their_means() {
    let written = |traffic| {
        let options = Options { clients: 40, length: Duration::from_secs(3600), traffic, ..small() };
        run(&Options { habit: Habit::Fast, relay_loops: Duration::ZERO, ..options }).unwrap().messages.len() as f64
    };
    let mean = Duration::from_secs(60);
    let expected = 40.0 * 60.0;
    let poisson = written(Traffic::Poisson { mean });
    assert!((poisson / expected - 1.0).abs() < 0.08, "{poisson}");
    let bursty = written(Traffic::Bursty { mean, burst: 5.0 });
    assert!((bursty / expected - 1.0).abs() < 0.2, "{bursty}");
    // From 8 to 9 in the morning there is 90/1000 of the day's traffic, instead of a 24th.
    let office = written(Traffic::OfficeDay { mean });
    assert!((office / (expected * 24.0 * 0.09) - 1.0).abs() < 0.1, "{office}");
    let trace = Traffic::parse("# seconds,client\n1.5,0\n2,3\n100,0\n").unwrap();
    assert_eq!(written(trace), 3.0);
    assert_eq!(Traffic::parse("nonsense"), None);
}

#[test]
fn a_report_is_one_page_with_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let group = |habit: Habit| Group { label: habit.name().to_owned(), options: watched(habit, 1) };
    let groups = [group(Habit::Fast), group(Habit::Steady)];
    let runs = folder.path().join("runs");
    let two = experiment::run(&groups, 2, 2, Some(&runs), "posta-testnet sim".to_owned()).unwrap();
    let one = experiment::run(&groups, 2, 1, None, "posta-testnet sim".to_owned()).unwrap();
    let text = |m| serde_json::to_string(m).unwrap();
    assert_eq!(text(&two), text(&one), "threads change nothing");
    let first = std::fs::read_to_string(runs.join("trace-fast.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(first.lines().next().unwrap()).unwrap();
    assert!(line["us"].is_u64() && line["from"].is_string() && line["to"].is_string() && line["bytes"].is_u64());
    let truth = std::fs::read_to_string(runs.join("truth-fast.jsonl")).unwrap();
    assert!(truth.lines().count() > 100 && !first.contains("written_us"));

    let out = folder.path().join("page");
    let page = std::fs::read_to_string(report_page::report(&[runs], &out).unwrap()).unwrap();
    assert!(!page.contains("http") && !page.contains("<script") && !page.contains("url("));
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("@media print"));
    let plots = page.matches("<figure>").count();
    assert!(plots >= 8, "{plots}");
    assert_eq!(page.matches("<figcaption>").count(), plots);
    assert_eq!(page.matches("aria-label").count(), plots);
    assert!(page.contains("<b>fast</b>: the observer of all lines finds") && !page.contains("NaN"));
    let csv = std::fs::read_to_string(out.join("report.csv")).unwrap();
    assert!(csv.starts_with("group,figure,mean,half_width,runs\n") && csv.contains("steady,timing_auc,"));
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert!(report_page::report(&[folder.path().join("nothing")], &out).is_err());
}
