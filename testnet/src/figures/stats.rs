//! Means, intervals, ROC curves.

use serde::Serialize;

/// Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom.
const T: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A mean over repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of its 95 % confidence interval, by Student's t; 0 of a single value.
    pub half_width: f64,
    /// Values.
    pub n: usize,
}

impl Estimate {
    /// Of these values.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n.max(1) as f64;
        let spread = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let half_width = match n {
            0 | 1 => 0.0,
            _ => T.get(n - 2).copied().unwrap_or(1.96) * (spread / (n - 1) as f64 / n as f64).sqrt(),
        };
        Self { mean, half_width, n }
    }

    /// Whether the interval contains a value.
    #[must_use]
    pub fn contains(&self, value: f64) -> bool {
        (self.mean - value).abs() <= self.half_width
    }
}

/// A quantile of sorted values.
#[must_use]
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let at = (sorted.len().saturating_sub(1) as f64 * part).round() as usize;
    sorted.get(at).copied()
}

/// A classifier's curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Roc {
    /// The area under it: how often a true pair has the higher score; ties count half.
    pub auc: f64,
    /// Points: the part of false pairs above a threshold, and of true ones.
    pub points: Vec<(f64, f64)>,
}

/// The curve of scores, each with whether it belongs to a true pair.
#[must_use]
pub fn roc(mut scores: Vec<(f64, bool)>) -> Roc {
    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = scores.iter().filter(|(_, is)| *is).count().max(1) as f64;
    let negatives = scores.iter().filter(|(_, is)| !*is).count().max(1) as f64;
    let (mut tp, mut fp, mut auc) = (0.0, 0.0, 0.0);
    let mut points = vec![(0.0, 0.0)];
    for tied in scores.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let p = tied.iter().filter(|(_, is)| *is).count() as f64;
        let n = tied.len() as f64 - p;
        auc += n * (tp + p / 2.0);
        tp += p;
        fp += n;
        points.push((fp / negatives, tp / positives));
    }
    Roc { auc: auc / positives / negatives, points }
}

impl Roc {
    /// The part of true pairs found when at most this part of false ones is.
    #[must_use]
    pub fn tpr_at(&self, fpr: f64) -> f64 {
        self.points.iter().take_while(|(f, _)| *f <= fpr).map(|(_, t)| *t).fold(0.0, f64::max)
    }

    /// About a hundred of its points, for a plot.
    #[must_use]
    pub fn thinned(&self) -> Vec<(f64, f64)> {
        let step = (self.points.len() / 100).max(1);
        let mut points: Vec<_> = self.points.iter().step_by(step).copied().collect();
        points.push((1.0, 1.0));
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_counts_ties_half() {
        let all = |scores: &[(f64, bool)]| roc(scores.to_vec()).auc;
        assert_eq!(all(&[(2.0, true), (1.0, false)]), 1.0);
        assert_eq!(all(&[(1.0, true), (2.0, false)]), 0.0);
        assert_eq!(all(&[(1.0, true), (1.0, false), (1.0, false)]), 0.5);
        let mixed = roc(vec![(3.0, true), (2.0, false), (1.0, true), (0.0, false)]);
        assert_eq!((mixed.auc, mixed.tpr_at(0.1), mixed.tpr_at(0.5)), (0.75, 0.5, 1.0));
    }

    #[test]
    fn an_interval_is_students() {
        let e = Estimate::of(&[1.0, 2.0, 3.0]);
        assert!((e.mean - 2.0).abs() < 1e-12 && (e.half_width - 4.303 / 3.0_f64.sqrt()).abs() < 1e-9, "{e:?}");
        assert!(e.contains(4.0) && !e.contains(5.0));
        assert_eq!(Estimate::of(&[7.0]).half_width, 0.0);
    }
}
