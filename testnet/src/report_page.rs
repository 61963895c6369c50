//! `posta-testnet report`: one page that compares runs, with nothing from elsewhere; and the same as CSV and JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

mod plot;

use self::plot::{Axis, Guess, Plot, Series, escaped, short};

const STYLE: &str = include_str!("report_page/style.css");
/// Attacks: the key in front of their figures, and their names.
const ATTACKS: [(&str, &str); 3] =
    [("timing", "timing correlation"), ("intersection", "intersection"), ("disclosure", "statistical disclosure")];
/// Figures of the table, in order, with what they say.
const ROWS: [(&str, &str); 30] = [
    ("messages", "messages written (all but the last, which could not arrive)"),
    ("loss", "part of them that never arrived"),
    ("latency_p50_s", "latency, median, s"),
    ("latency_p95_s", "latency, 95 %, s"),
    ("latency_p99_s", "latency, 99 %, s"),
    ("up_mb_day", "a client's line up, MB a day"),
    ("down_mb_day", "a client's line down, MB a day"),
    ("entropy_bits", "anonymity set of a message, bits"),
    ("anonymity_set", "the same, as equally likely packets"),
    ("timing_auc", "timing correlation, AUC"),
    ("timing_tpr", "true positives at 1e-3 false ones"),
    ("timing_top1", "contact ranked first"),
    ("timing_messages", "messages until half are ranked first"),
    ("intersection_auc", "intersection, AUC"),
    ("intersection_tpr", "true positives at 1e-3 false ones"),
    ("intersection_top1", "contact ranked first"),
    ("intersection_messages", "messages until half are ranked first"),
    ("disclosure_auc", "statistical disclosure, AUC"),
    ("disclosure_tpr", "true positives at 1e-3 false ones"),
    ("disclosure_top1", "contact ranked first"),
    ("disclosure_messages", "messages until half are ranked first"),
    ("mix_held", "packets that a mix holds, mean"),
    ("mix_held_variance", "and variance (Loopix: as the mean)"),
    ("mix_arrivals_per_s", "packets that come to a mix in a second"),
    ("client_loops_returned", "part of clients' loops that returned"),
    ("relay_loops_sent", "relays' own loops"),
    ("relay_loops_lost", "part of them known as lost"),
    ("refused", "packets that relays refused"),
    ("detection_s", "seconds until loops tell of the attack"),
    ("false_alarm", "runs in which a relay left alone raised an alarm"),
];

/// One group of runs, as `result.json` has it.
#[derive(Debug)]
struct Group(Value, String);

impl Group {
    fn estimate(&self, name: &str) -> Option<(f64, f64)> {
        let e = self.0.get("summary")?.get(name)?;
        Some((e.get("mean")?.as_f64()?, e.get("half_width")?.as_f64()?))
    }

    fn runs(&self) -> usize {
        self.0.get("runs").and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// The attack that finds most.
    fn worst(&self) -> Option<(f64, f64)> {
        let auc = |(key, _): &(&str, &str)| self.estimate(&format!("{key}_auc"));
        ATTACKS.iter().filter_map(auc).max_by(|a, b| a.0.total_cmp(&b.0))
    }

    fn first_run(&self) -> Option<&Value> {
        self.0.get("runs")?.get(0)
    }
}

/// Reads results and writes `report.html`, `report.csv` and `report.json` into a folder.
///
/// # Errors
/// If a result can't be read or a file not be written.
pub fn report(results: &[PathBuf], out: &Path) -> Result<PathBuf> {
    let mut groups = Vec::new();
    let mut commands = Vec::new();
    for path in results {
        let file = if path.is_dir() { path.join("result.json") } else { path.clone() };
        let text = fs::read(&file).with_context(|| format!("can't read {}", file.display()))?;
        let value: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no result", file.display()))?;
        commands.extend(value.get("command").and_then(Value::as_str).map(str::to_owned));
        for group in value.get("groups").and_then(Value::as_array).into_iter().flatten() {
            let label = group.get("label").and_then(Value::as_str).unwrap_or("?").to_owned();
            groups.push(Group(group.clone(), label));
        }
    }
    ensure!(!groups.is_empty(), "there is nothing in these results");
    fs::create_dir_all(out).with_context(|| format!("can't make {}", out.display()))?;
    let page = out.join("report.html");
    fs::write(&page, html(&groups, &commands)).context("can't write the page")?;
    fs::write(out.join("report.csv"), csv(&groups)).context("can't write the CSV")?;
    let all: Vec<&Value> = groups.iter().map(|group| &group.0).collect();
    fs::write(out.join("report.json"), serde_json::to_vec_pretty(&all)?).context("can't write the JSON")?;
    Ok(page)
}

fn csv(groups: &[Group]) -> String {
    let mut all = String::from("group,figure,mean,half_width,runs\n");
    for group in groups {
        for (name, _) in ROWS {
            if let Some((mean, half)) = group.estimate(name) {
                let _ = writeln!(all, "{},{name},{mean},{half},{}", group.1, group.runs());
            }
        }
    }
    all
}

fn html(groups: &[Group], commands: &[String]) -> String {
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Posta: simulation report</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><main>\
         <h1>Posta: simulation report</h1><ul class=\"lead\">{}</ul>",
        lead(groups)
    );
    page.push_str("<section class=\"plots\">");
    for plot in plots(groups) {
        page.push_str(&plot.html());
    }
    page.push_str("</section><h2>All figures</h2>");
    page.push_str(&table(groups));
    page.push_str("<h2>What is compared</h2>");
    page.push_str(&settings(groups));
    page.push_str("<h2>Again</h2>");
    for command in commands {
        let _ = write!(page, "<pre>{}</pre>", escaped(command));
    }
    page.push_str(
        "<p>Every figure is a mean over runs that differ by their seed, ± half of its 95 % confidence interval (Student's t). \
         AUC: how often a pair that talks has a higher score than one that doesn't; 0.5 is guessing.</p></main></body></html>",
    );
    page
}

/// What comes out, a sentence for each group.
fn lead(groups: &[Group]) -> String {
    let one = |group: &Group| {
        let (auc, half) = group.worst()?;
        let latency = group
            .estimate("latency_p50_s")
            .map_or_else(String::new, |(l, _)| format!(" at a median of {} s", short(l)));
        let verdict = if auc - half <= 0.5 {
            "the observer of all lines guesses"
        } else if auc >= 0.9 {
            "the observer of all lines finds who talks to whom"
        } else {
            "the observer of all lines learns something"
        };
        Some(format!(
            "<li><b>{}</b>: {verdict} (largest AUC {} ± {}){latency}.</li>",
            escaped(&group.1),
            short(auc),
            short(half)
        ))
    };
    let all: Vec<String> = groups.iter().filter_map(one).collect();
    if all.is_empty() { "<li>No lines were watched: latency and cost only.</li>".to_owned() } else { all.join(" ") }
}

fn plots(groups: &[Group]) -> Vec<Plot> {
    let mut plots = Vec::new();
    let auc = Axis { label: "AUC of the best attack", log: false, covers: (0.4, 1.0) };
    for (key, label, title, meaning) in [
        (
            "latency_p50_s",
            "median latency, s",
            "Latency against linkage",
            "What waiting buys: the further down, the less an observer of every line learns of who talks to whom; the dashed \
             line is guessing.",
        ),
        (
            "down_mb_day",
            "MB a day down to a client",
            "Traffic against linkage",
            "What cover costs: megabytes a day on a client's line, and what the observer learns nonetheless.",
        ),
    ] {
        let point = |group: &Group| {
            let ((x, _), (y, half)) = (group.estimate(key)?, group.worst()?);
            Some(Series { label: group.1.clone(), points: vec![(x, y, half)], line: false })
        };
        let series: Vec<_> = groups.iter().filter_map(point).collect();
        if !series.is_empty() {
            let x = Axis { label, log: true, covers: (1.0, 1.0) };
            let y = auc.clone();
            let (title, meaning) = (title.to_owned(), meaning.to_owned());
            plots.push(Plot { title, meaning, x, y, series, guess: Some(Guess::Level(0.5)) });
        }
    }
    plots.extend(cdf(groups));
    for (key, name) in ATTACKS {
        plots.extend(roc(groups, key, name));
    }
    plots.extend(entropy(groups));
    plots.extend(compromise(groups));
    plots
}

fn cdf(groups: &[Group]) -> Option<Plot> {
    let one = |group: &Group| {
        let quantiles = group.first_run()?.get("latency_s")?.as_array()?;
        let points: Vec<_> =
            (0_u8..).zip(quantiles).filter_map(|(p, s)| Some((s.as_f64()?, f64::from(p) / 100.0, 0.0))).collect();
        (!points.is_empty()).then(|| Series { label: group.1.clone(), points, line: true })
    };
    let series: Vec<_> = groups.iter().filter_map(one).collect();
    (!series.is_empty()).then(|| Plot {
        title: "Latency".to_owned(),
        meaning:
            "The part of messages that had arrived after so many seconds, from writing to reading, of the first run."
                .to_owned(),
        x: Axis { label: "seconds", log: true, covers: (1.0, 1.0) },
        y: Axis { label: "part of messages", log: false, covers: (0.0, 1.0) },
        series,
        guess: None,
    })
}

fn roc(groups: &[Group], key: &str, name: &str) -> Option<Plot> {
    let one = |group: &Group| {
        let curve = group.first_run()?.get("roc")?.get(name)?.as_array()?;
        let point = |p: &Value| Some((p.get(0)?.as_f64()?, p.get(1)?.as_f64()?, 0.0));
        let area = group.estimate(&format!("{key}_auc"))?;
        let label = format!("{} ({} ± {})", group.1, short(area.0), short(area.1));
        Some(Series { label, points: curve.iter().filter_map(point).collect(), line: true })
    };
    let series: Vec<_> = groups.iter().filter_map(one).collect();
    (!series.is_empty()).then(|| Plot {
        title: format!("ROC: {name}"),
        meaning: format!(
            "How many of the pairs that talk {name} finds (up) for how many that don't (right), in the first run; the dashed \
             diagonal is guessing. In brackets the area over all runs."
        ),
        x: Axis { label: "false positives", log: false, covers: (0.0, 1.0) },
        y: Axis { label: "true positives", log: false, covers: (0.0, 1.0) },
        series,
        guess: Some(Guess::Diagonal),
    })
}

fn entropy(groups: &[Group]) -> Option<Plot> {
    let one = |group: &Group| {
        let (bits, half) = group.estimate("entropy_bits")?;
        let (latency, _) = group.estimate("latency_p50_s")?;
        Some(Series { label: group.1.clone(), points: vec![(latency, bits, half)], line: false })
    };
    let series: Vec<_> = groups.iter().filter_map(one).collect();
    (!series.is_empty()).then(|| Plot {
        title: "Anonymity set of a message".to_owned(),
        meaning:
            "In how many packets behind the second mixes a message may be: each bit doubles them. The observer sees \
                  every line and knows how many packets each relay holds."
                .to_owned(),
        x: Axis { label: "median latency, s", log: true, covers: (1.0, 1.0) },
        y: Axis { label: "bits", log: false, covers: (0.0, 1.0) },
        series,
        guess: None,
    })
}

fn compromise(groups: &[Group]) -> Option<Plot> {
    let rows = groups.first()?.0.get("compromise")?.as_array()?;
    let read = |row: &Value, name: &str| {
        let e = row.get(name)?;
        let (mean, half) = (e.get("mean")?.as_f64()?, e.get("half_width")?.as_f64()?);
        (e.get("n")?.as_u64()? > 0).then_some((row.get("bad")?.as_f64()?, mean, half))
    };
    let series = |name: &str, label: &str| Series {
        label: label.to_owned(),
        points: rows.iter().filter_map(|row| read(row, name)).collect(),
        line: true,
    };
    let series = vec![
        series("hours", "hours until a path is all bad, if the entry is"),
        series("guard_messages", "messages until a contact has found the guard"),
    ];
    series.iter().any(|s| !s.points.is_empty()).then(|| Plot {
        title: "Bad relays".to_owned(),
        meaning:
            "In a network of 1,000 relays: how long a client goes before one of its packets crosses bad relays only \
                  (never, if its \
                  entry is good), and \
                  how many messages a malicious contact with bad mixes needs until it sees the guard."
                .to_owned(),
        x: Axis { label: "part of relays that are bad", log: false, covers: (0.0, 0.3) },
        y: Axis { label: "hours, messages", log: true, covers: (1.0, 1.0) },
        series,
        guess: None,
    })
}

fn table(groups: &[Group]) -> String {
    let mut html = String::from("<div class=\"wide\"><table><thead><tr><th>figure</th>");
    for group in groups {
        let _ = write!(html, "<th>{}<br><small>{} runs</small></th>", escaped(&group.1), group.runs());
    }
    html.push_str("</tr></thead><tbody>");
    for (name, says) in ROWS {
        if groups.iter().all(|group| group.estimate(name).is_none()) {
            continue;
        }
        let _ = write!(html, "<tr><th scope=\"row\">{says}</th>");
        for group in groups {
            let cell = group.estimate(name).map_or_else(
                || "–".to_owned(),
                |(mean, half)| if half > 0.0 { format!("{} ± {}", short(mean), short(half)) } else { short(mean) },
            );
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
    html
}

/// The groups' options, as they are.
fn settings(groups: &[Group]) -> String {
    let mut html = String::new();
    for group in groups {
        let options = group.0.get("options").map_or_else(String::new, Value::to_string);
        let short: String = options.chars().take(2000).collect();
        let _ =
            write!(html, "<details><summary>{}</summary><pre>{}</pre></details>", escaped(&group.1), escaped(&short));
    }
    html
}
