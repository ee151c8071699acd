//! The file tools on real directories, called as the engine calls them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use pretty_assertions::assert_eq;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ids::{AgentId, SwarmId};
use crate::model::swarm::WorkspaceRoot;
use crate::model::{ContentBlock, SideEffect};
use crate::tool::fence::READ_BYTES_MAX;
use crate::tool::{Fence, ToolContext, ToolOutput, ToolUpdates, check_name};

struct Place {
    temp: tempfile::TempDir,
    cx: ToolContext,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("ws");
        fs::create_dir(&path).unwrap();
        let root = WorkspaceRoot {
            name: ".".to_owned(),
            path,
            writable: true,
        };
        let fence = Arc::new(Fence::open(&[root]).unwrap());
        let cx = ToolContext {
            agent_id: AgentId::from_u128(1),
            swarm_id: SwarmId::from_u128(2),
            call_id: "call-1".to_owned(),
            idempotency_key: "a/t1/c0".to_owned(),
            try_number: 1,
            fence,
            cancel: CancellationToken::new(),
            updates: ToolUpdates::default(),
        };
        Self { temp, cx }
    }

    fn ws(&self, path: &str) -> PathBuf {
        self.temp.path().join("ws").join(path)
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.ws(path).parent().unwrap()).unwrap();
        fs::write(self.ws(path), content).unwrap();
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.ws(path)).unwrap()
    }

    async fn call(&self, name: &str, arguments: Value) -> Result<String, String> {
        let tool = all()
            .into_iter()
            .find(|tool| tool.spec().name == name)
            .unwrap();
        match tool.call(self.cx.clone(), arguments).await {
            Ok(output) => Ok(text_of(&output)),
            Err(err) => Err(err.message),
        }
    }

    async fn edit(&self, edits: &[(&str, &str)]) -> Result<String, String> {
        let edits: Vec<Value> = edits
            .iter()
            .map(|(old, new)| json!({"old_text": old, "new_text": new}))
            .collect();
        self.call("edit", json!({"path": "f", "edits": edits}))
            .await
    }
}

fn text_of(output: &ToolOutput) -> String {
    match output.content.as_slice() {
        [ContentBlock::Text { text }] => text.clone(),
        other => panic!("not one text: {other:?}"),
    }
}

#[test]
fn every_tool_has_a_valid_name_and_describes_every_argument() {
    let expected = [
        ("read", SideEffect::Pure),
        ("list", SideEffect::Pure),
        ("find", SideEffect::Pure),
        ("grep", SideEffect::Pure),
        ("write", SideEffect::Idempotent),
        ("edit", SideEffect::Reconcilable),
    ];
    let tools = all();
    let got: Vec<_> = tools
        .iter()
        .map(|t| (t.spec().name.as_str(), t.side_effect()))
        .collect();
    assert_eq!(got, expected);
    for tool in tools {
        let spec = tool.spec();
        check_name(&spec.name).unwrap();
        assert_eq!(spec.parameters["type"], "object");
        for (name, schema) in spec.parameters["properties"].as_object().unwrap() {
            assert!(
                schema["description"].is_string(),
                "{}.{name}: {schema}",
                spec.name
            );
        }
    }
}

#[tokio::test]
async fn read_gives_lines_and_says_how_to_continue() {
    let place = Place::new();
    let lines: Vec<String> = (1..=5_000).map(|n| format!("line {n}")).collect();
    place.put("a.txt", lines.join("\n"));
    let got = place.call("read", json!({"path": "a.txt"})).await.unwrap();
    assert_eq!(got.lines().count(), read::LINES_MAX + 1);
    assert!(got.starts_with("line 1\nline 2\n"));
    assert!(got.ends_with("line 2000\n[lines 1 to 2000 of 5000; continue with offset 2001]\n"));
    let got = place
        .call("read", json!({"path": "a.txt", "offset": 4_999}))
        .await
        .unwrap();
    assert_eq!(got, "line 4999\nline 5000\n");
    let got = place
        .call("read", json!({"path": "a.txt", "offset": 2, "limit": 1}))
        .await
        .unwrap();
    assert_eq!(
        got,
        "line 2\n[lines 2 to 2 of 5000; continue with offset 3]\n"
    );
    let err = place
        .call("read", json!({"path": "a.txt", "offset": 5_001}))
        .await
        .unwrap_err();
    assert_eq!(err, "`offset` 5001 is past the end: `a.txt` has 5000 lines");
    let err = place
        .call("read", json!({"path": "a.txt", "offset": 0}))
        .await
        .unwrap_err();
    assert_eq!(err, "`offset` and `limit` count from 1");
}

#[tokio::test]
async fn read_is_bounded_in_bytes() {
    let place = Place::new();
    place.put("wide", format!("{}\n", "é".repeat(500)).repeat(1_000));
    let got = place.call("read", json!({"path": "wide"})).await.unwrap();
    assert!(got.len() < OUTPUT_BYTES_MAX + 200);
    assert!(
        got.ends_with("[lines 1 to 51 of 1000; continue with offset 52]\n"),
        "{got:.200}"
    );
    place.put("long", "é".repeat(100_000));
    let got = place.call("read", json!({"path": "long"})).await.unwrap();
    assert!(got.len() < OUTPUT_BYTES_MAX + 200);
    assert!(
        got.contains("[line 1 has 200000 bytes and was cut after 51198"),
        "{got:.100}"
    );
}

#[tokio::test]
async fn read_keeps_the_text_as_it_is_and_refuses_binaries() {
    let place = Place::new();
    place.put("crlf", "a\r\n\tb\r\n");
    assert_eq!(
        place.call("read", json!({"path": "crlf"})).await.unwrap(),
        "a\r\n\tb\r\n"
    );
    place.put("empty", "");
    let got = place.call("read", json!({"path": "empty"})).await.unwrap();
    assert_eq!(got, "[the file is empty]");
    place.put("bin", b"ELF\0\x01");
    let err = place
        .call("read", json!({"path": "bin"}))
        .await
        .unwrap_err();
    assert_eq!(
        err,
        "`bin` is a binary file of 5 bytes: there is no text to read"
    );
    fs::File::create(place.ws("huge"))
        .unwrap()
        .set_len(READ_BYTES_MAX + 1)
        .unwrap();
    let err = place
        .call("read", json!({"path": "huge"}))
        .await
        .unwrap_err();
    assert_eq!(
        err,
        "`huge`: too large: 16777217 bytes; at most 16777216 are allowed"
    );
    let err = place
        .call("read", json!({"path": "../x"}))
        .await
        .unwrap_err();
    assert!(err.contains("leaves the workspace"), "{err}");
}

#[tokio::test]
async fn wrong_arguments_name_their_place() {
    let place = Place::new();
    let err = place.call("read", json!({"path": [7]})).await.unwrap_err();
    assert_eq!(
        err,
        "invalid arguments:\npath: must be string, not array\nReceived: {\"path\":[7]}"
    );
    let edits = json!({"path": "f", "edits": [{"old_text": "a"}]});
    let err = place.call("edit", edits).await.unwrap_err();
    assert!(err.contains("\nedits[0].new_text: is required\n"), "{err}");
    let err = place.call("read", json!({})).await.unwrap_err();
    assert!(err.contains("\npath: is required\n"), "{err}");
}

#[tokio::test]
async fn list_shows_what_is_there_in_order() {
    let place = Place::new();
    for path in [
        "b.txt",
        "a/x",
        "a/y/z",
        ".git/config",
        "target/debug/x",
        "a.txt",
    ] {
        place.put(path, "");
    }
    symlink("a", place.ws("link")).unwrap();
    place.put("two\nlines", "");
    let got = place.call("list", json!({})).await.unwrap();
    assert_eq!(
        got,
        ".git/\na/\na.txt\nb.txt\nlink@\ntarget/\n\"two\\nlines\"\n"
    );
    let got = place.call("list", json!({"depth": 9})).await.unwrap();
    let expected = ".git/\na/\na/x\na/y/\na/y/z\na.txt\nb.txt\nlink@\ntarget/\n\"two\\nlines\"\n";
    assert_eq!(got, expected);
    let got = place
        .call("list", json!({"path": "target", "depth": 2}))
        .await
        .unwrap();
    assert_eq!(got, "target/debug/\ntarget/debug/x\n");
    let got = place
        .call("list", json!({"path": "./link/"}))
        .await
        .unwrap();
    assert_eq!(got, "link/x\nlink/y/\n");
    let err = place
        .call("list", json!({"path": "a.txt"}))
        .await
        .unwrap_err();
    assert_eq!(err, "`a.txt` is a file: use read");
    fs::create_dir(place.ws("none")).unwrap();
    let got = place.call("list", json!({"path": "none"})).await.unwrap();
    assert_eq!(got, "[the directory is empty]\n");
}

#[tokio::test]
async fn list_names_every_root() {
    let mut place = Place::new();
    place.put("a/in-a", "");
    place.put("b/in-b", "");
    let root = |name: &str, writable| WorkspaceRoot {
        name: name.to_owned(),
        path: place.ws(name),
        writable,
    };
    let fence = Fence::open(&[root("a", true), root("b", false)]).unwrap();
    place.cx.fence = Arc::new(fence);
    for arguments in [json!({}), json!({"path": null})] {
        let got = place.call("list", arguments).await.unwrap();
        assert_eq!(got, "a/\na/in-a\nb/ (read-only)\nb/in-b\n");
    }
    let got = place.call("find", json!({"glob": "in-*"})).await.unwrap();
    assert_eq!(got, "a/in-a\nb/in-b\n");
    let got = place
        .call("find", json!({"glob": "in-*", "path": "."}))
        .await
        .unwrap();
    assert_eq!(got, "a/in-a\nb/in-b\n");
    let err = place.call("list", json!({"path": "c"})).await.unwrap_err();
    assert!(
        err.contains("must begin with one of the workspace directories: `a`, `b`"),
        "{err}"
    );
    place.cx.fence = Arc::new(Fence::none());
    for tool in ["list", "find", "grep"] {
        let arguments = json!({"glob": "*", "pattern": "x"});
        let err = place.call(tool, arguments).await.unwrap_err();
        assert!(err.contains("no directory is within reach"), "{err}");
    }
}

#[tokio::test]
async fn list_and_find_stop_at_their_limits() {
    let place = Place::new();
    for n in 0..1_200 {
        place.put(&format!("f{n:04}"), "");
    }
    let got = place.call("list", json!({})).await.unwrap();
    assert_eq!(got.lines().count(), list::LINES_MAX + 1);
    assert!(got.starts_with("f0000\nf0001\n"));
    assert!(
        got.ends_with("f0499\n[only the first 500 entries; give a narrower path or use find]\n")
    );
    let got = place.call("find", json!({"glob": "f*"})).await.unwrap();
    assert_eq!(got.lines().count(), find::LINES_MAX + 1);
    assert!(got.ends_with("[only the first 1000 results; narrow the glob or the path]\n"));
}

#[tokio::test]
async fn find_compares_names_or_paths() {
    let place = Place::new();
    for path in [
        "src/a.rs",
        "src/b/c.rs",
        "x.rs",
        "x.txt",
        "node_modules/m.rs",
        ".git/h.rs",
        "target/t.rs",
    ] {
        place.put(path, "");
    }
    symlink("src", place.ws("again")).unwrap();
    let find = |glob: &'static str, path: Option<&'static str>| {
        let arguments = json!({"glob": glob, "path": path});
        let place = &place;
        async move { place.call("find", arguments).await }
    };
    assert_eq!(
        find("*.rs", None).await.unwrap(),
        "src/a.rs\nsrc/b/c.rs\nx.rs\n"
    );
    assert_eq!(find("src/*.rs", None).await.unwrap(), "src/a.rs\n");
    assert_eq!(
        find("src/**/*.rs", None).await.unwrap(),
        "src/a.rs\nsrc/b/c.rs\n"
    );
    assert_eq!(find("**/c.rs", Some("src")).await.unwrap(), "src/b/c.rs\n");
    assert_eq!(find("*.rs", Some("target")).await.unwrap(), "target/t.rs\n");
    assert_eq!(find("again", None).await.unwrap(), "again@\n");
    assert_eq!(find("*.py", None).await.unwrap(), "[nothing matches]\n");
    assert!(
        find("a[", None)
            .await
            .unwrap_err()
            .starts_with("`a[` is not a glob")
    );
    let err = find("*", Some("gone")).await.unwrap_err();
    assert_eq!(err, "`gone`: no such file or directory");
}

#[tokio::test]
async fn grep_shows_matches_in_order_with_context() {
    let place = Place::new();
    place.put("b.rs", "one\ntwo\nHIT a\nfour\nfive\nsix\nseven\nhit b\n");
    place.put("a/z.txt", "no\nHIT c\n");
    place.put("target/x.rs", "HIT");
    let got = place.call("grep", json!({"pattern": "HIT"})).await.unwrap();
    assert_eq!(got, "a/z.txt:2: HIT c\nb.rs:3: HIT a\n");
    let got = place.call(
        "grep",
        json!({"pattern": "hit", "glob": "*.rs", "ignore_case": true}),
    );
    assert_eq!(got.await.unwrap(), "b.rs:3: HIT a\nb.rs:8: hit b\n");
    let arguments = json!({"pattern": "hit", "path": "b.rs", "ignore_case": true, "context": 1});
    let expected = "b.rs-2- two\nb.rs:3: HIT a\nb.rs-4- four\n--\nb.rs-7- seven\nb.rs:8: hit b\n";
    assert_eq!(place.call("grep", arguments).await.unwrap(), expected);
    let got = place
        .call("grep", json!({"pattern": "HIT", "path": "target"}))
        .await
        .unwrap();
    assert_eq!(got, "target/x.rs:1: HIT\n");
    let got = place
        .call("grep", json!({"pattern": "nowhere"}))
        .await
        .unwrap();
    assert_eq!(got, "[nothing matches]\n");
    let err = place
        .call("grep", json!({"pattern": "("}))
        .await
        .unwrap_err();
    assert!(err.starts_with("the pattern is not usable"), "{err}");
    let err = place
        .call("grep", json!({"pattern": "(\\w{900}){900}"}))
        .await
        .unwrap_err();
    assert!(err.starts_with("the pattern is not usable"), "{err}");
}

#[tokio::test]
async fn grep_stops_at_its_limits_and_names_what_it_skipped() {
    let place = Place::new();
    place.put("many", "x\n".repeat(150));
    let got = place.call("grep", json!({"pattern": "x"})).await.unwrap();
    assert_eq!(got.lines().count(), grep::MATCHES_MAX + 1);
    assert!(got.ends_with("[only the first 100 matches; narrow the pattern or the path]\n"));
    fs::remove_file(place.ws("many")).unwrap();

    let outside = place.temp.path().join("outside");
    fs::write(&outside, "x").unwrap();
    fs::hard_link(&outside, place.ws("linked")).unwrap();
    symlink(&outside, place.ws("symlink")).unwrap();
    place.put("bin", b"x\0");
    place.put("wide", "x".repeat(2_000));
    fs::File::create(place.ws("huge"))
        .unwrap()
        .set_len(READ_BYTES_MAX + 1)
        .unwrap();
    let got = place.call("grep", json!({"pattern": "x"})).await.unwrap();
    let expected = format!(
        "wide:1: {}… [line cut]\n[files skipped: 1 binary, 1 larger than 16777216 bytes, 1 with \
         more than one hard link]\n",
        "x".repeat(grep::LINE_CHARS_MAX)
    );
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_cancelled_search_stops() {
    let place = Place::new();
    place.put("a", "x");
    place.cx.cancel.cancel();
    for tool in ["list", "find", "grep"] {
        let arguments = json!({"glob": "*", "pattern": "x"});
        let err = place.call(tool, arguments).await.unwrap_err();
        assert_eq!(err, "the call was cancelled before it began");
    }
    let err = place
        .call("write", json!({"path": "b", "content": "x"}))
        .await
        .unwrap_err();
    assert_eq!(err, "the call was cancelled before it began");
    assert!(!place.ws("b").exists());
}

#[tokio::test]
async fn write_creates_and_replaces() {
    let place = Place::new();
    let arguments = json!({"path": "new/dir/f.txt", "content": "one"});
    let got = place.call("write", arguments.clone()).await.unwrap();
    assert_eq!(got, "wrote 3 bytes to `new/dir/f.txt`");
    assert_eq!(place.call("write", arguments).await.unwrap(), got);
    assert_eq!(place.text("new/dir/f.txt"), "one");
    place
        .call("write", json!({"path": "new/dir/f.txt", "content": ""}))
        .await
        .unwrap();
    assert_eq!(place.text("new/dir/f.txt"), "");
    let err = place
        .call("write", json!({"path": ".git/hooks/x", "content": ""}))
        .await;
    assert!(err.unwrap_err().contains("below `.git` may not be written"));
    let names: Vec<_> = fs::read_dir(place.ws("new/dir")).unwrap().collect();
    assert_eq!(names.len(), 1);
}

#[tokio::test]
async fn edit_replaces_against_the_original() {
    let place = Place::new();
    place.put("f", "alpha beta gamma");
    // The second old text would match what the first puts in, if it were applied in turn.
    let got = place
        .edit(&[("gamma", "alpha"), ("alpha", "beta"), (" beta ", " - ")])
        .await;
    assert_eq!(got.unwrap(), "made 3 replacement(s) in `f`");
    assert_eq!(place.text("f"), "beta - alpha");
    place.edit(&[("beta - ", "")]).await.unwrap();
    assert_eq!(place.text("f"), "alpha");
}

#[tokio::test]
async fn an_edit_that_is_not_exact_changes_nothing() {
    let place = Place::new();
    let text = "aaa\r\nbcb bcd\r\n";
    place.put("f", text);
    let cases: [(&[(&str, &str)], &str); 9] = [
        (&[("zzz", "x")], "`edits[0].old_text` was found 0 times"),
        (
            &[("bcd", "x"), ("bc", "y")],
            "`edits[1].old_text` was found 2 times",
        ),
        // Overlapping occurrences are ambiguous too.
        (&[("aa", "x")], "`edits[0].old_text` was found 2 times"),
        (
            &[("bcb b", "x"), ("b bcd", "y")],
            "`edits[0]` and `edits[1]` overlap",
        ),
        (
            &[("bcd", "x"), ("cd", "y")],
            "`edits[0]` and `edits[1]` overlap",
        ),
        (&[("aaa\nbcb", "x")], "end in \\r\\n"),
        (&[("", "x")], "`edits[0].old_text` is empty"),
        (&[("bcd", "bcd")], "`edits[0]` changes nothing"),
        (&[], "`edits` needs 1 to 100"),
    ];
    for (edits, expected) in cases {
        let err = place.edit(edits).await.unwrap_err();
        assert!(err.contains(expected), "{edits:?}: {err}");
        assert_eq!(place.text("f"), text);
    }
    place.put("f", "a".repeat(1_000));
    assert!(
        place
            .edit(&[("a", "x")])
            .await
            .unwrap_err()
            .contains("at least 100 times")
    );
    fs::remove_file(place.ws("f")).unwrap();
    let err = place.edit(&[("a", "x")]).await.unwrap_err();
    assert_eq!(err, "`f`: no such file or directory");
    place.put("f", b"a\xff");
    assert!(
        place
            .edit(&[("a", "x")])
            .await
            .unwrap_err()
            .contains("not UTF-8")
    );
}

/// What a second try of an edit does, given what the crash left behind.
#[tokio::test]
async fn an_edit_after_a_crash_is_made_once() {
    const DONE: &str = "were already made";
    const MADE: &str = "made 1";
    const DOUBT: &str = "an earlier try of this edit was interrupted";
    let mut place = Place::new();
    place.cx.try_number = 2;
    let cases = [
        // (found, old, new, answer, left)
        ("x = 2;", "x = 1;", "x = 2;", DONE, "x = 2;"),
        ("x = 1;", "x = 1;", "x = 2;", MADE, "x = 2;"),
        ("x = 1; y = 2;", "x = 1", "y = 2", MADE, "y = 2; y = 2;"),
        // An insertion that keeps the old text: the new text tells.
        ("use a;", "use a;", "use a;\nuse b;", MADE, "use a;\nuse b;"),
        (
            "use a;\nuse b;",
            "use a;",
            "use a;\nuse b;",
            DOUBT,
            "use a;\nuse b;",
        ),
        ("aa", "a", "aa", "found 2 times", "aa"),
        // A deletion is made if the text is gone, and in doubt if it is there: `<<>>` without
        // `<>` is `<>`.
        ("rest", "gone", "", DONE, "rest"),
        ("<>", "<>", "", DOUBT, "<>"),
        ("neither", "x", "y", "found 0 times", "neither"),
    ];
    for (found, old, new, answer, left) in cases {
        place.put("f", found);
        let (Ok(got) | Err(got)) = place.edit(&[(old, new)]).await;
        assert!(got.contains(answer), "{found:?}: {old:?} -> {new:?}: {got}");
        assert_eq!(place.text("f"), left, "{found:?}: {old:?} -> {new:?}");
    }
    // Several replacements are made by one rename, so one that is missing says none was made.
    place.put("f", "use a; one");
    place
        .edit(&[("use a;", "use a; use b;"), ("one", "two")])
        .await
        .unwrap();
    assert_eq!(place.text("f"), "use a; use b; two");
    let err = place
        .edit(&[("use a;", "use a; use b;"), ("one", "two")])
        .await
        .unwrap_err();
    assert!(
        err.contains("`edits[1].old_text` was found 0 times"),
        "{err}"
    );
    assert_eq!(place.text("f"), "use a; use b; two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_edits_of_one_file_all_count() {
    const WRITERS: usize = 24;
    let place = Arc::new(Place::new());
    let lines: Vec<String> = (0..WRITERS).map(|n| format!("<{n}>")).collect();
    place.put("f", lines.join("\n"));
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..WRITERS {
        let place = Arc::clone(&place);
        calls.spawn(async move {
            place
                .edit(&[(&format!("<{n}>"), &format!("[{n}]"))])
                .await
                .unwrap();
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
    let expected: Vec<String> = (0..WRITERS).map(|n| format!("[{n}]")).collect();
    assert_eq!(place.text("f"), expected.join("\n"));
}

#[tokio::test]
async fn a_search_does_not_go_deeper_than_its_limit() {
    let place = Place::new();
    let depth = crate::tool::fence::DEPTH_MAX;
    place.put(&format!("{}f", "d/".repeat(depth - 1)), "");
    let got = place.call("find", json!({"glob": "f"})).await.unwrap();
    assert_eq!(got, format!("{}f\n", "d/".repeat(depth - 1)));
    place.put(&format!("{}g", "d/".repeat(depth)), "");
    let got = place.call("find", json!({"glob": "g"})).await.unwrap();
    let left_out = "[what lies deeper than 64 directories was left out]\n";
    assert_eq!(got, format!("[nothing matches]\n{left_out}"));
}
