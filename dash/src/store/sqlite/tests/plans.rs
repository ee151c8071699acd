//! Every hot read goes by an index.

use rusqlite::fallible_iterator::FallibleIterator as _;

use super::super::read::Select;
use super::*;

/// Asserts that no table is walked from end to end, and nothing is sorted in a temporary tree
/// unless `may_sort`. A walk along a partial index is no walk of the table.
#[track_caller]
fn assert_indexed(conn: &Connection, select: &Select, may_sort: bool) {
    let (sql, values) = select.parts();
    assert_sql_indexed(conn, sql, rusqlite::params_from_iter(values), may_sort);
}

#[track_caller]
fn assert_sql_indexed(conn: &Connection, sql: &str, params: impl rusqlite::Params, may_sort: bool) {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let rows = statement
        .query_map(params, |row| row.get::<_, String>(3))
        .unwrap();
    let plan: Vec<String> = rows.collect::<Result<_, _>>().unwrap();
    let partial = ["_active", "_open", "_queued"];
    for line in &plan {
        let is_fine = !line.starts_with("SCAN")
            || partial.iter().any(|suffix| line.ends_with(suffix))
            || line == "SCAN path";
        assert!(is_fine, "{sql}\n{plan:#?}");
        assert!(
            may_sort || !line.contains("TEMP B-TREE"),
            "{sql}\n{plan:#?}"
        );
    }
}

#[tokio::test]
async fn hot_reads_use_an_index() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(3)).await.unwrap();
    let conn = open::connect_reader(&path).unwrap();
    let (agent, swarm) = (Some(WORLD.agent_id), Some(WORLD.swarm_id));
    let after = |n: u128| Some(AgentId::from_u128(n));

    for columns in [
        rows::SWARM_COLUMNS,
        rows::AGENT_COLUMNS,
        rows::TASK_COLUMNS,
        rows::BUDGET_COLUMNS,
    ] {
        assert_sql_indexed(&conn, &[columns, " WHERE id = ?1"].concat(), ["x"], false);
    }
    let project = [rows::PROJECT_COLUMNS, " WHERE name = ?1"].concat();
    assert_sql_indexed(&conn, &project, ["x"], false);

    let active = vec![AgentStatus::Running, AgentStatus::Spawning];
    for filter in [
        AgentFilter {
            swarm_id: swarm,
            ..AgentFilter::default()
        },
        AgentFilter {
            parent_id: agent,
            ..AgentFilter::default()
        },
        AgentFilter {
            statuses: active.clone(),
            ..AgentFilter::default()
        },
        AgentFilter {
            statuses: active,
            swarm_id: swarm,
            ..AgentFilter::default()
        },
    ] {
        for after in [None, after(3)] {
            assert_indexed(
                &conn,
                &list::agents(&filter, Page { after, limit: 9 }),
                false,
            );
        }
    }
}

#[tokio::test]
async fn lists_use_an_index() {
    let (_dir, path) = place();
    drop(open_seeded(&path).await);
    let conn = open::connect_reader(&path).unwrap();
    let (agent, swarm) = (Some(WORLD.agent_id), Some(WORLD.swarm_id));
    let statuses = vec![SwarmStatus::Active, SwarmStatus::Paused];
    let filter = SwarmFilter {
        statuses,
        ..SwarmFilter::default()
    };
    assert_indexed(&conn, &list::swarms(&filter, Page::first(9)), false);
    let filter = TaskFilter {
        swarm_id: swarm,
        statuses: vec![TaskStatus::Ready],
    };
    assert_indexed(&conn, &list::tasks(&filter, Page::first(9)), false);
    for filter in [
        BudgetFilter {
            parent_id: Some(WORLD.budget_id),
            ..BudgetFilter::default()
        },
        BudgetFilter {
            entity: Some((crate::model::BudgetScope::Agent, "x".to_owned())),
            ..BudgetFilter::default()
        },
    ] {
        assert_indexed(&conn, &list::budgets(&filter, Page::first(9)), false);
    }
    let filter = ReservationFilter {
        agent_id: agent,
        ..ReservationFilter::default()
    };
    assert_indexed(&conn, &list::reservations(&filter, Page::first(9)), false);
    let states = vec![ReservationState::Held];
    let filter = ReservationFilter {
        states,
        ..ReservationFilter::default()
    };
    assert_indexed(&conn, &list::reservations(&filter, Page::first(9)), false);
    for filter in [
        TicketFilter {
            agent_id: agent,
            state: Some(TicketState::Queued),
        },
        TicketFilter {
            agent_id: None,
            state: Some(TicketState::Queued),
        },
    ] {
        assert_indexed(&conn, &list::tickets(&filter, Page::first(9)), false);
    }
}

#[tokio::test]
async fn reads_of_steps_and_paths_use_an_index() {
    let (_dir, path) = place();
    drop(open_seeded(&path).await);
    let conn = open::connect_reader(&path).unwrap();
    let agent = Some(WORLD.agent_id);
    let key = StepKey::Tool { turn: 1, index: 0 };
    let params = list::step_params(WORLD.agent_id, key);
    assert_sql_indexed(&conn, &list::step_sql(), params, false);
    for after in [None, Some((WORLD.agent_id, key))] {
        let page = Page { after, limit: 9 };
        let filter = StepFilter {
            agent_id: agent,
            ..StepFilter::default()
        };
        assert_indexed(&conn, &list::steps(&filter, page), false);
        let open = vec![StepState::Intended, StepState::InDoubt];
        let filter = StepFilter {
            agent_id: agent,
            states: open.clone(),
        };
        assert_indexed(&conn, &list::steps(&filter, page), false);
        let filter = StepFilter {
            agent_id: None,
            states: open,
        };
        assert_indexed(&conn, &list::steps(&filter, page), true);
    }
    let params = ([0_u8; 16], 9);
    assert_sql_indexed(&conn, &read::path_sql(), params, true);
}

#[tokio::test]
async fn reads_of_events_use_an_index() {
    let (_dir, path) = place();
    let store = open_seeded(&path).await;
    store.commit(WORLD.events(3)).await.unwrap();
    let conn = open::connect_reader(&path).unwrap();
    let of = |swarm_id: Option<SwarmId>, source: Option<String>, types: &[&str]| EventFilter {
        swarm_id,
        source,
        types: types.iter().map(|name| (*name).to_owned()).collect(),
    };
    let source = || Some(WORLD.agent_id.to_string());
    let started: &[&str] = &["agent.started"];
    for (filter, index) in [
        (of(None, None, &[]), "PRIMARY KEY"),
        (of(Some(WORLD.swarm_id), None, &[]), "events_by_swarm"),
        (of(None, source(), &[]), "events_by_source"),
        (of(None, None, started), "events_by_type"),
        (of(Some(WORLD.swarm_id), source(), started), "events_by"),
    ] {
        let select = list::events(&conn, &filter, 7, 100).unwrap().unwrap();
        assert_indexed(&conn, &select, false);
        let (sql, values) = select.parts();
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let values = rusqlite::params_from_iter(values);
        let first: String = statement.query_row(values, |row| row.get(3)).unwrap();
        assert!(first.contains(index), "{first}");
    }
}

/// What SQLite does, in its own steps, to take migration 3 back and to apply it again while there are
/// so many entries.
async fn steps_of_the_move(entries: u32) -> (i64, i64) {
    let (_dir, path) = place();
    open_seeded(&path).await.close().await.unwrap();
    let conn = open::connect_writer(&path, Flush::EveryCommit).unwrap();
    conn.pragma_update(None, "foreign_keys", 0).unwrap();
    // A conversation whose first entry has the last one as its parent: a clock may have been set back.
    let fill = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < ?1)
        INSERT INTO entries (id, agent, parent_id, at, body)
        SELECT unhex(format('%032x', n)), 1,
            CASE n WHEN 1 THEN unhex(format('%032x', ?1)) WHEN 2 THEN NULL
                ELSE unhex(format('%032x', n - 1)) END, 0, '{}'
        FROM n";
    assert_eq!(conn.execute(fill, [entries]).unwrap(), entries as usize);
    conn.pragma_update(None, "foreign_keys", 1).unwrap();
    let run = |sql: &str| {
        let mut steps = 0;
        let mut statements = rusqlite::Batch::new(&conn, sql);
        while let Some(mut statement) = statements.next().unwrap() {
            statement.raw_execute().unwrap();
            steps += i64::from(statement.get_status(rusqlite::StatementStatus::VmStep));
        }
        steps
    };
    let third = migrate::MIGRATIONS.last().unwrap();
    assert_eq!(third.version, 3);
    (run(third.down), run(third.up))
}

#[tokio::test]
async fn the_work_of_migration_3_grows_with_the_entries_and_not_with_their_square() {
    let (few, many) = (
        steps_of_the_move(1_000).await,
        steps_of_the_move(4_000).await,
    );
    assert!(many.0 < 5 * few.0, "down: {} and {}", few.0, many.0);
    assert!(many.1 < 5 * few.1, "up: {} and {}", few.1, many.1);
}
