//! The file that the tools work on: commas between, no quotes.

use std::path::{Path, PathBuf};

use dash::tool::ToolError;

/// A column that holds numbers. The doc comments are what the model reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Column {
    /// Diameter at the equator, km.
    DiameterKm,
    /// Distance from the sun, million km.
    DistanceMillionKm,
    /// Known moons.
    Moons,
    /// Hours from noon to noon.
    DayHours,
}

impl Column {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::DiameterKm => "diameter_km",
            Self::DistanceMillionKm => "distance_million_km",
            Self::Moons => "moons",
            Self::DayHours => "day_hours",
        }
    }
}

/// The file. Read anew for each call: another program may have changed it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    path: PathBuf,
}

impl Table {
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn rows(&self) -> Result<Vec<Vec<String>>, ToolError> {
        let text = std::fs::read_to_string(&self.path).map_err(|err| failed("read", &err))?;
        let cells = |line: &str| line.split(',').map(str::to_owned).collect();
        Ok(text.lines().map(cells).collect())
    }

    fn place(rows: &[Vec<String>], column: Column) -> Result<usize, ToolError> {
        let head = rows.first().map(Vec::as_slice).unwrap_or_default();
        let place = head.iter().position(|name| name == column.name());
        place.ok_or_else(|| ToolError::new(format!("the file has no column `{}`", column.name())))
    }

    /// Name and value of every row with at least this value, the greatest first.
    pub(crate) fn at_least(
        &self,
        column: Column,
        least: f64,
    ) -> Result<Vec<(String, f64)>, ToolError> {
        let rows = self.rows()?;
        let place = Self::place(&rows, column)?;
        let mut found: Vec<(String, f64)> = rows
            .iter()
            .skip(1)
            .filter_map(|row| Some((row.first()?.clone(), row.get(place)?.parse().ok()?)))
            .filter(|(_, value)| *value >= least)
            .collect();
        found.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Ok(found)
    }

    /// Writes a value, and tells the old one.
    pub(crate) fn set(&self, name: &str, column: Column, value: f64) -> Result<String, ToolError> {
        let mut rows = self.rows()?;
        let place = Self::place(&rows, column)?;
        let mut all = rows.iter_mut();
        let row = all.find(|row| row.first().is_some_and(|first| first == name));
        let cell = row.and_then(|row| row.get_mut(place));
        let cell = cell.ok_or_else(|| ToolError::new(format!("there is no `{name}`")))?;
        let old = std::mem::replace(cell, value.to_string());
        let lines: Vec<String> = rows.iter().map(|row| row.join(",") + "\n").collect();
        std::fs::write(&self.path, lines.concat()).map_err(|err| failed("write", &err))?;
        Ok(old)
    }
}

fn failed(what: &str, err: &std::io::Error) -> ToolError {
    ToolError::new(format!("the file cannot be {what}: {err}"))
}
