//! Opens the file, which brings its schema up to date, and can stop in the middle of that.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use dash::Result;
use dash::store::{SqliteStore, Store as _};

use super::tell::say;

/// Opens `DIR/run.db` and closes it. Once `stop` statements of migrations are done, it goes no
/// further: it says so and waits to be killed.
pub(crate) async fn run(dir: &Path, stop: Option<u32>) -> Result<()> {
    let done = AtomicU32::new(0);
    let watch = move |version: u32, statement: u32| {
        let now = done.fetch_add(1, Ordering::Relaxed) + 1;
        if Some(now) == stop {
            say(&format!("stopped {version} {statement}"));
            loop {
                std::thread::park();
            }
        }
    };
    let store = SqliteStore::open_watched(dir.join("run.db"), watch).await?;
    say("open");
    store.close().await?;
    Ok(())
}
