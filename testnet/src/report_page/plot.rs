//! Plots as SVG, drawn by hand: axes, lines, points with error bars.

use std::fmt::Write as _;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 48.0;
/// Colours of the page's style sheet.
const COLOURS: usize = 8;

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) label: &'static str,
    /// Powers of ten at equal distances.
    pub(super) log: bool,
    /// What it covers at least.
    pub(super) covers: (f64, f64),
}

/// A point: x, y, and half the height of its error bar.
pub(super) type Point = (f64, f64, f64);

/// Points of one group.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) label: String,
    pub(super) points: Vec<Point>,
    pub(super) line: bool,
}

/// A plot with the sentence that says what it means.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) meaning: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// A line of guessing: y = value, or y = x for `None` inside.
    pub(super) guess: Option<Guess>,
}

/// What chance alone gives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guess {
    Level(f64),
    Diagonal,
}

/// Text that is safe inside HTML.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number as people write it.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        v if !(0.001..100_000.0).contains(&v) => format!("{value:.1e}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

struct Scale {
    log: bool,
    from: f64,
    to: f64,
    begin: f64,
    end: f64,
}

impl Scale {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>, begin: f64, end: f64) -> Self {
        let usable = values.filter(|v| v.is_finite() && (!axis.log || *v > 0.0));
        let (mut from, mut to) = usable.fold(axis.covers, |(a, b), v| (a.min(v), b.max(v)));
        if axis.log {
            from = 10_f64.powf(from.max(1e-9).log10().floor());
            to = 10_f64.powf(to.max(1e-9).log10().ceil());
        }
        if to <= from {
            to = from + 1.0;
        }
        Self { log: axis.log, from, to, begin, end }
    }

    fn at(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.from).log10() - self.from.log10()) / (self.to.log10() - self.from.log10())
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.begin + part * (self.end - self.begin)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let (a, b) = (self.from.log10().round() as i32, self.to.log10().round() as i32);
            return (a..=b).map(|power| 10_f64.powi(power)).collect();
        }
        let raw = (self.to - self.from) / 5.0;
        let power = 10_f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
        let first = (self.from / step).ceil() as i64;
        (first..).map(|n| n as f64 * step).take_while(|v| *v <= self.to + step * 1e-6).collect()
    }
}

impl Plot {
    /// The figure, with its caption and legend.
    pub(super) fn html(&self) -> String {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let x = Scale::new(&self.x, points().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let ys = points().flat_map(|p| [p.1 - p.2, p.1 + p.2]);
        let y = Scale::new(&self.y, ys, HEIGHT - BOTTOM, TOP);
        let mut svg = String::new();
        let _ = write!(
            svg,
            "<figure><h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escaped(&self.title),
            escaped(&self.meaning)
        );
        for tick in x.ticks() {
            let (at, low) = (x.at(tick), HEIGHT - BOTTOM);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{at:.1} {TOP}V{low}\"/><text x=\"{at:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text>",
                low + 16.0,
                short(tick)
            );
        }
        for tick in y.ticks() {
            let at = y.at(tick);
            let _ = write!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                short(tick)
            );
        }
        let _ = write!(
            svg,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"axis\" transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 8.0,
            self.x.label,
            f64::midpoint(TOP, HEIGHT - BOTTOM),
            self.y.label
        );
        match self.guess {
            Some(Guess::Level(level)) => {
                let at = y.at(level);
                let _ = write!(svg, "<path class=\"guess\" d=\"M{LEFT} {at:.1}H{:.1}\"/>", WIDTH - RIGHT);
            }
            Some(Guess::Diagonal) => {
                let (a, b) = ((x.at(x.from), y.at(x.from)), (x.at(1.0), y.at(1.0)));
                let _ = write!(svg, "<path class=\"guess\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>", a.0, a.1, b.0, b.1);
            }
            None => {}
        }
        for (n, series) in self.series.iter().enumerate() {
            draw(&mut svg, n, series, &x, &y);
        }
        svg.push_str("</svg><p class=\"legend\">");
        for (n, series) in self.series.iter().enumerate() {
            let _ = write!(svg, "<span><i class=\"k{}\"></i>{}</span> ", n % COLOURS, escaped(&series.label));
        }
        let _ = write!(svg, "</p><figcaption>{}</figcaption></figure>", escaped(&self.meaning));
        svg
    }
}

fn draw(svg: &mut String, n: usize, series: &Series, x: &Scale, y: &Scale) {
    let class = n % COLOURS;
    if series.line {
        let mut path = String::new();
        for (px, py, _) in &series.points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x.at(*px), y.at(*py));
        }
        let _ = write!(svg, "<path class=\"line s{class}\" d=\"{path}\"/>");
    }
    if !series.line || series.points.iter().any(|p| p.2 > 0.0) {
        for (px, py, half) in &series.points {
            let (cx, cy) = (x.at(*px), y.at(*py));
            let (low, high) = (y.at(py - half), y.at(py + half));
            let _ = write!(
                svg,
                "<path class=\"line s{class}\" d=\"M{cx:.1} {low:.1}V{high:.1}\"/><circle class=\"f{class}\" \
                 cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"4\"><title>{}: {}, {} ± {}</title></circle>",
                escaped(&series.label),
                short(*px),
                short(*py),
                short(*half)
            );
        }
    }
}
