//! What is kept of many runs.

use std::time::Duration;

/// One run: what it took on the clock, and on the processors by the program and
/// what it waited for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

/// Of all runs of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) runs: usize,
    /// The first quartile of the wall-clock time. Other load only ever makes a
    /// run longer, so this is what comparisons are made with.
    pub(crate) q25: Duration,
    pub(crate) median: Duration,
    /// The median of the processor time.
    pub(crate) cpu: Duration,
}

impl Summary {
    /// `None` of no samples.
    pub(crate) fn of(samples: &[Sample]) -> Option<Summary> {
        let walls: Vec<_> = samples.iter().map(|sample| sample.wall).collect();
        let cpus: Vec<_> = samples.iter().map(|sample| sample.cpu).collect();
        Some(Summary {
            runs: samples.len(),
            q25: quantile(&walls, 0.25)?,
            median: quantile(&walls, 0.5)?,
            cpu: quantile(&cpus, 0.5)?,
        })
    }
}

/// The quantile `share` (0 to 1) of `values`, interpolated between neighbours.
fn quantile(values: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below).mul_f64(place.fract()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(walls_ms: &[u64]) -> Vec<Sample> {
        let ms = Duration::from_millis;
        walls_ms.iter().map(|wall| Sample { wall: ms(*wall), cpu: ms(1) }).collect()
    }

    #[test]
    fn quartiles_lie_between_the_samples() {
        let summary = Summary::of(&samples(&[40, 10, 30, 20])).unwrap();
        assert_eq!(summary.q25, Duration::from_micros(17_500));
        assert_eq!(summary.median, Duration::from_millis(25));
        assert_eq!(summary.runs, 4);
    }

    #[test]
    fn one_sample_is_all_quantiles_and_none_has_none() {
        let summary = Summary::of(&samples(&[7])).unwrap();
        assert_eq!((summary.q25, summary.median), (summary.median, Duration::from_millis(7)));
        assert_eq!(Summary::of(&[]), None);
    }
}
