//! What this process costs, how long things take, and what the disk does.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// The time now.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Microseconds since `began`.
pub(crate) fn micros_since(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e6
}

/// CPU seconds (user and system) this process has used.
pub(crate) fn cpu_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    float(spent.tv_sec) + float(spent.tv_nsec) / 1e9
}

/// CPU seconds this process has used as (user, system), in steps of a clock tick.
fn cpu_user_system() -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name may hold blanks; it ends with the last parenthesis.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = after.split_whitespace().skip(11);
    let mut ticks = || -> Result<f64> {
        let text = fields.next().ok_or("a short /proc/self/stat")?;
        Ok(text.parse::<f64>()?)
    };
    let per_second = float(i64::try_from(rustix::param::clock_ticks_per_second())?);
    Ok((ticks()? / per_second, ticks()? / per_second))
}

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Seconds.
    pub(crate) wall: f64,
    /// CPU seconds, exactly.
    pub(crate) cpu: f64,
    /// CPU seconds by kind, in steps of a clock tick.
    pub(crate) user: f64,
    /// As above.
    pub(crate) system: f64,
    /// CPU seconds since the start of the process.
    pub(crate) process: f64,
    /// Resident memory before it.
    pub(crate) resident_kib: f64,
    /// The most resident memory.
    pub(crate) peak_kib: f64,
}

/// Runs while work is measured.
#[derive(Debug)]
pub(crate) struct Meter {
    began: Instant,
    cpu: f64,
    split: (f64, f64),
    resident_kib: f64,
}

impl Cost {
    /// Begins to measure.
    pub(crate) fn begin() -> Result<Meter> {
        let resident_kib = status_kib("VmRSS");
        reset_peak();
        Ok(Meter {
            split: cpu_user_system()?,
            cpu: cpu_seconds(),
            began: now(),
            resident_kib,
        })
    }
}

impl Meter {
    /// What it took.
    pub(crate) fn end(self) -> Result<Cost> {
        let wall = self.began.elapsed().as_secs_f64();
        let process = cpu_seconds();
        let (user, system) = cpu_user_system()?;
        Ok(Cost {
            wall,
            cpu: process - self.cpu,
            user: user - self.split.0,
            system: system - self.split.1,
            process,
            resident_kib: self.resident_kib,
            peak_kib: status_kib("VmHWM"),
        })
    }
}

/// A line of `/proc/self/status`, KiB.
pub(crate) fn status_kib(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0.0)
}

/// Forgets the peak of the resident memory, so that `VmHWM` starts anew.
fn reset_peak() {
    // Not granted everywhere; then the peak includes the start.
    drop(std::fs::write("/proc/self/clear_refs", "5"));
}

/// A count as a number to calculate with. Exact below 2^53, far above any count here.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^53")]
pub(crate) const fn float(count: i64) -> f64 {
    count as f64
}

/// [`float`] of a length.
pub(crate) fn len(count: usize) -> f64 {
    float(i64::try_from(count).unwrap_or(i64::MAX))
}

/// The value below which `percent` of the values lie.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) * percent + 50) / 100;
    values.get(at).copied().unwrap_or(0.0)
}

/// Times `count` appends of 4 KiB, each made durable; microseconds.
pub(crate) fn fdatasync(dir: &Path, count: usize) -> Result<Vec<f64>> {
    let path = dir.join("fdatasync");
    let mut file = File::create(&path)?;
    let block = [7_u8; 4_096];
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        file.write_all(&block)?;
        let began = now();
        file.sync_data()?;
        times.push(micros_since(began));
    }
    drop(file);
    std::fs::remove_file(path)?;
    Ok(times)
}

/// Bytes of a store's files.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    let len = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::fs::metadata(name).map_or(0, |meta| meta.len())
    };
    len("") + len("-wal")
}
