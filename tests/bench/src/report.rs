//! Figures over several runs, beside their yardsticks and targets.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::Result;
use crate::measure::percentile;

/// When a figure is good enough.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// The figure itself.
    AtMost(f64),
    /// The yardstick and this much.
    AtMostAbove(f64),
    /// The figure over the yardstick.
    RatioAtLeast(f64),
    /// The figure over the yardstick.
    RatioAtMost(f64),
}

/// What one run measured.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) yardstick: Option<(&'static str, f64)>,
    pub(crate) target: Option<Target>,
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            yardstick: None,
            target: None,
        }
    }

    /// What to compare it with, measured in the same run.
    pub(crate) const fn beside(mut self, what: &'static str, value: f64) -> Self {
        self.yardstick = Some((what, value));
        self
    }

    pub(crate) const fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }
}

/// Median, least and most.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        Self {
            median: percentile(&mut values, 50),
            min: percentile(&mut values, 0),
            max: percentile(&mut values, 100),
        }
    }

    fn text(self) -> String {
        let Self { median, min, max } = self;
        if min.to_bits() == max.to_bits() {
            return short(median);
        }
        format!("{} ({}–{})", short(median), short(min), short(max))
    }

    fn json(self) -> Value {
        let Self { median, min, max } = self;
        json!({"median": rounded(median), "min": rounded(min), "max": rounded(max)})
    }
}

/// One figure over all runs.
struct Line {
    first: Figure,
    value: Spread,
    yardstick: Option<Spread>,
    ratio: Option<Spread>,
}

impl Line {
    fn of(runs: &[&Figure], first: &Figure) -> Self {
        let yards: Vec<f64> = runs
            .iter()
            .filter_map(|f| f.yardstick.map(|y| y.1))
            .collect();
        let ratios: Vec<f64> = runs
            .iter()
            .filter_map(|f| f.yardstick.map(|y| f.value / y.1))
            .collect();
        Self {
            first: first.clone(),
            value: Spread::of(runs.iter().map(|f| f.value).collect()),
            yardstick: (!yards.is_empty()).then(|| Spread::of(yards)),
            ratio: (!ratios.is_empty()).then(|| Spread::of(ratios)),
        }
    }

    /// The target in words and whether the median meets it.
    fn verdict(&self) -> Option<(String, bool)> {
        let unit = self.first.unit;
        let ratio = self.ratio.map_or(f64::NAN, |r| r.median);
        let yardstick = self.yardstick.map_or(f64::NAN, |y| y.median);
        Some(match self.first.target? {
            Target::AtMost(max) => (format!("≤ {} {unit}", short(max)), self.value.median <= max),
            Target::AtMostAbove(more) => (
                format!("≤ yardstick + {} {unit}", short(more)),
                self.value.median <= yardstick + more,
            ),
            Target::RatioAtLeast(min) => (format!("≥ {} of it", short(min)), ratio >= min),
            Target::RatioAtMost(max) => (format!("≤ {} of it", short(max)), ratio <= max),
        })
    }

    fn json(&self, scenario: &str, runs: usize) -> Value {
        let mut out = serde_json::Map::new();
        let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
        put("bench", json!(scenario));
        put("figure", json!(self.first.name));
        put("unit", json!(self.first.unit));
        put("runs", json!(runs));
        put("value", self.value.json());
        if let (Some((what, _)), Some(yardstick), Some(ratio)) =
            (self.first.yardstick, self.yardstick, self.ratio)
        {
            put("beside", json!(what));
            put("yardstick", yardstick.json());
            put("ratio", ratio.json());
        }
        if let Some((target, met)) = self.verdict() {
            put("target", json!(target));
            put("met", json!(met));
        }
        Value::Object(out)
    }
}

/// Prints what all runs of a scenario measured.
pub(crate) fn print(scenario: &str, runs: &[Vec<Figure>], as_json: bool) -> Result<()> {
    let lines: Vec<Line> = runs
        .first()
        .into_iter()
        .flatten()
        .map(|first| {
            let same = |f: &&Figure| f.name == first.name;
            let all: Vec<&Figure> = runs.iter().flatten().filter(same).collect();
            Line::of(&all, first)
        })
        .collect();
    let mut text = String::new();
    if as_json {
        for line in &lines {
            writeln!(text, "{}", line.json(scenario, runs.len()))?;
        }
        writeln!(text, "{}", targets_json(scenario, &lines))?;
    } else {
        table(&mut text, scenario, &lines, runs.len())?;
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(())
}

fn targets_json(scenario: &str, lines: &[Line]) -> Value {
    let targets: Vec<Value> = lines
        .iter()
        .filter_map(|line| {
            let (target, met) = line.verdict()?;
            Some(json!({"figure": line.first.name, "target": target, "met": met}))
        })
        .collect();
    json!({"bench": scenario, "targets": targets})
}

fn table(text: &mut String, scenario: &str, lines: &[Line], runs: usize) -> Result<()> {
    writeln!(text, "{scenario}: median (min–max) of {runs} run(s)")?;
    for line in lines {
        let Figure { name, unit, .. } = &line.first;
        write!(text, "  {name:<44} {:>26} {unit:<9}", line.value.text())?;
        if let (Some((what, _)), Some(yardstick), Some(ratio)) =
            (line.first.yardstick, line.yardstick, line.ratio)
        {
            write!(
                text,
                " {what}: {}, ratio {}",
                yardstick.text(),
                ratio.text()
            )?;
        }
        writeln!(text)?;
    }
    let verdicts: Vec<String> = lines
        .iter()
        .filter_map(|line| {
            let (target, met) = line.verdict()?;
            let word = if met { "met" } else { "NOT MET" };
            Some(format!("{} {target}: {word}", line.first.name))
        })
        .collect();
    if verdicts.is_empty() {
        writeln!(text, "  targets: none for this scenario")?;
    } else {
        writeln!(text, "  targets: {}", verdicts.join("; "))?;
    }
    Ok(())
}

/// Three significant digits, more for large numbers.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1_000.0).round() / 1_000.0
}
