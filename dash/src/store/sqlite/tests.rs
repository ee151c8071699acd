//! The conformance suite on files.


use super::*;
use crate::testing::samples::World;
use crate::testing::store_suite;

const WORLD: World = World::new(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let next = std::sync::atomic::AtomicU32::new(0);
    store_suite::run_all(|| {
        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.path().join(format!("{n}.db"));
        async move { Arc::new(SqliteStore::open(path).await.unwrap()) as Arc<dyn Store> }
    })
    .await;
}
