//! Attacks on the fence, each beside the same access without it, which must succeed: otherwise the
//! attack proves nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, RenameFlags};

use super::*;

/// What lies outside and must never be seen.
const SECRET: &str = "canary-outside";

/// A workspace `ws` beside a twin `ws-evil` and a secret.
struct Place {
    temp: tempfile::TempDir,
    fence: Fence,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("ws")).unwrap();
        fs::create_dir(temp.path().join("ws-evil")).unwrap();
        fs::write(temp.path().join("secret"), SECRET).unwrap();
        fs::write(temp.path().join("ws-evil/secret"), SECRET).unwrap();
        fs::write(temp.path().join("ws/in.txt"), "inside").unwrap();
        let fence = Fence::open(&[root(".", &temp.path().join("ws"))]).unwrap();
        Self { temp, fence }
    }

    fn outer(&self, path: &str) -> PathBuf {
        self.temp.path().join(path)
    }

    fn ws(&self, path: &str) -> PathBuf {
        self.outer("ws").join(path)
    }

    fn read(&self, path: &str) -> Result<String, PathProblem> {
        let bytes = self.fence.read(path).map_err(|err| err.problem)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn write(&self, path: &str) -> Result<(), PathProblem> {
        self.fence
            .write(path, b"written", Parents::Create)
            .map_err(|err| err.problem)
    }

    /// Asserts that an attack to read works without the fence and not with it.
    fn read_is_refused(&self, path: &str, expected: &PathProblem) {
        let bare = fs::read_to_string(self.ws(path)).unwrap();
        assert_eq!(
            bare, SECRET,
            "the attack by `{path}` must work without the fence"
        );
        assert_eq!(self.read(path).as_ref(), Err(expected), "{path}");
    }

    /// Everything in the workspace and beside it, to see that nothing was left behind.
    fn names(&self) -> Vec<String> {
        fn collect(dir: &Path, names: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                names.push(entry.path().to_string_lossy().into_owned());
                if entry.file_type().unwrap().is_dir() {
                    collect(&entry.path(), names);
                }
            }
        }
        let mut names = Vec::new();
        collect(self.temp.path(), &mut names);
        names.sort();
        names
    }

    /// Asserts that a write is refused and changes nothing, not even the list of names.
    fn write_is_refused(&self, path: &str, expected: &PathProblem) {
        let before = self.names();
        assert_eq!(self.write(path).as_ref(), Err(expected), "{path:?}");
        assert_eq!(self.names(), before, "{path:?} left something behind");
        assert_eq!(fs::read_to_string(self.outer("secret")).unwrap(), SECRET);
    }
}

fn root(name: &str, path: &Path) -> WorkspaceRoot {
    WorkspaceRoot {
        name: name.to_owned(),
        path: path.to_owned(),
        writable: true,
    }
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn a_path_out_of_the_root_is_refused() {
    let place = Place::new();
    place.read_is_refused("../secret", &PathProblem::Escapes);
    place.read_is_refused("../ws-evil/secret", &PathProblem::Escapes);
    place.read_is_refused("./../secret", &PathProblem::Escapes);
    let absolute = place.outer("secret").to_string_lossy().into_owned();
    place.read_is_refused(&absolute, &PathProblem::Absolute);
    place.write_is_refused("../new", &PathProblem::Escapes);
    place.write_is_refused("../ws-evil/new", &PathProblem::Escapes);
    place.write_is_refused("a/../../new", &PathProblem::NotFound);
    place.write_is_refused("a/../new", &PathProblem::NotFound);
    place.write_is_refused(&absolute, &PathProblem::Absolute);
    // Out and in again leaves the root too.
    assert_eq!(place.read("../ws/in.txt"), Err(PathProblem::Escapes));
    // `..` that stays beneath does not.
    fs::create_dir(place.ws("a")).unwrap();
    assert_eq!(place.read("a/../in.txt"), Ok("inside".to_owned()));
    place.write_is_refused("a/../../new", &PathProblem::Escapes);
    assert_eq!(place.write("a/../b.txt"), Ok(()));
    assert_eq!(fs::read_to_string(place.ws("b.txt")).unwrap(), "written");
}

#[test]
fn a_link_out_of_the_root_is_refused() {
    let place = Place::new();
    symlink("../secret", place.ws("relative")).unwrap();
    symlink(place.outer("secret"), place.ws("absolute")).unwrap();
    symlink("../ws-evil", place.ws("dir")).unwrap();
    symlink(place.outer("ws-evil"), place.ws("absolute-dir")).unwrap();
    fs::create_dir(place.ws("sub")).unwrap();
    symlink("..", place.ws("sub/up")).unwrap();
    for path in [
        "relative",
        "absolute",
        "dir/secret",
        "absolute-dir/secret",
        "sub/up/../secret",
    ] {
        place.read_is_refused(path, &PathProblem::Escapes);
    }
    for path in [
        "dir/new",
        "absolute-dir/new",
        "dir/a/b/new",
        "sub/up/../new",
    ] {
        place.write_is_refused(path, &PathProblem::Escapes);
    }
    place.write_is_refused("relative", &PathProblem::Symlink);
    place.write_is_refused("absolute", &PathProblem::Symlink);
    // Without the fence the same write goes out.
    fs::write(place.ws("dir/new"), "x").unwrap();
    assert!(place.outer("ws-evil/new").exists());
}

#[test]
fn a_dangling_link_is_not_written_through() {
    let place = Place::new();
    symlink("../created", place.ws("out")).unwrap();
    symlink("created", place.ws("in")).unwrap();
    place.write_is_refused("out", &PathProblem::Symlink);
    place.write_is_refused("in", &PathProblem::Symlink);
    place.write_is_refused("out/x", &PathProblem::Escapes);
    assert_eq!(place.read("out"), Err(PathProblem::Escapes));
    assert_eq!(place.read("in"), Err(PathProblem::NotFound));
    fs::write(place.ws("out"), "x").unwrap();
    assert!(
        place.outer("created").exists(),
        "without the fence the link is followed"
    );
}

#[test]
fn links_beneath_the_root_work() {
    let place = Place::new();
    fs::create_dir_all(place.ws("real/deep")).unwrap();
    symlink("in.txt", place.ws("file-link")).unwrap();
    symlink("real", place.ws("dir-link")).unwrap();
    symlink("../../in.txt", place.ws("real/deep/up")).unwrap();
    assert_eq!(place.read("file-link"), Ok("inside".to_owned()));
    assert_eq!(place.read("dir-link/deep/up"), Ok("inside".to_owned()));
    assert_eq!(place.write("dir-link/deep/new/x.txt"), Ok(()));
    assert_eq!(
        fs::read_to_string(place.ws("real/deep/new/x.txt")).unwrap(),
        "written"
    );
    symlink("loop-b", place.ws("loop-a")).unwrap();
    symlink("loop-a", place.ws("loop-b")).unwrap();
    assert_eq!(place.read("loop-a/x"), Err(PathProblem::TooManyLinks));
    assert_eq!(place.write("loop-a/x"), Err(PathProblem::TooManyLinks));
}

#[test]
fn a_file_with_two_names_is_refused() {
    let place = Place::new();
    fs::hard_link(place.outer("secret"), place.ws("hard")).unwrap();
    place.read_is_refused("hard", &PathProblem::HardLinked { links: 2 });
    place.write_is_refused("hard", &PathProblem::HardLinked { links: 2 });
}

#[test]
fn what_is_not_a_regular_file_is_refused_and_never_waited_for() {
    let place = Place::new();
    fifo(&place.ws("pipe"));
    let _socket = std::os::unix::net::UnixListener::bind(place.ws("socket")).unwrap();
    for path in ["pipe", "socket"] {
        assert_eq!(place.read(path), Err(PathProblem::NotRegular), "{path}");
        place.write_is_refused(path, &PathProblem::NotRegular);
    }
    fs::create_dir(place.ws("dir")).unwrap();
    assert_eq!(place.read("dir"), Err(PathProblem::IsDirectory));
    assert_eq!(place.read("."), Err(PathProblem::IsDirectory));
    for path in ["dir", "dir/", "dir/.", "dir/..", "."] {
        place.write_is_refused(path, &PathProblem::IsDirectory);
    }
    place.write_is_refused("in.txt/x", &PathProblem::NotADirectory);
    let devices = Fence::open(&[root(".", Path::new("/dev"))]).unwrap();
    assert_eq!(
        devices.read("null").unwrap_err().problem,
        PathProblem::NotRegular
    );
    assert_eq!(
        devices.read("zero").unwrap_err().problem,
        PathProblem::NotRegular
    );
}

#[test]
fn the_magic_links_of_proc_are_refused() {
    let place = Place::new();
    let secret = File::open(place.outer("secret")).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&secret);
    let bare = fs::read_to_string(format!("/proc/self/fd/{fd}")).unwrap();
    assert_eq!(bare, SECRET, "the attack must work without the fence");
    let proc = Fence::open(&[root(".", Path::new("/proc/self"))]).unwrap();
    for path in [
        format!("fd/{fd}"),
        format!("root{}", place.outer("secret").display()),
    ] {
        let problem = proc.read(&path).unwrap_err().problem;
        assert!(
            matches!(problem, PathProblem::TooManyLinks | PathProblem::Escapes),
            "{path}: {problem:?}"
        );
    }
}

/// A directory that is a link outwards every other moment.
#[test]
fn a_swapped_link_never_leaks() {
    const READS: usize = 20_000;
    let place = Place::new();
    fs::create_dir(place.ws("d")).unwrap();
    fs::write(place.ws("d/secret"), "inside").unwrap();
    symlink("../ws-evil", place.ws("link")).unwrap();
    let stop = AtomicBool::new(false);
    let (mut inside, mut bare_leaks, mut leaks, mut written) = (0, 0, 0, 0);
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| {
            let mut swaps = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let (a, b) = (place.ws("d"), place.ws("link"));
                rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            swaps
        });
        for turn in 0..READS {
            match place.read("d/secret").as_deref() {
                Ok(SECRET) => leaks += 1,
                Ok(_) => inside += 1,
                Err(_) => {}
            }
            if turn % 20 == 0 {
                let bare = fs::read_to_string(place.ws("d/secret"));
                bare_leaks += usize::from(bare.is_ok_and(|text| text == SECRET));
            }
            // Writes are slower: they wait for the disk.
            if turn % 200 == 0 {
                written += usize::from(place.write("d/new").is_ok());
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(swap.join().unwrap() > 100);
    });
    assert_eq!(leaks, 0);
    assert!(!place.outer("ws-evil/new").exists());
    assert!(
        inside > 0 && written > 0,
        "{inside} reads and {written} writes met the real one"
    );
    assert!(bare_leaks > 0, "the attack must work without the fence");
}

#[test]
fn names_are_taken_as_they_are() {
    let place = Place::new();
    for name in [
        "näme 名.txt",
        "two\nlines",
        "-rf",
        "a\\b",
        "back`tick",
        "$(x)",
        " ",
        "...",
    ] {
        assert_eq!(place.write(name), Ok(()), "{name:?}");
        assert_eq!(place.read(name), Ok("written".to_owned()), "{name:?}");
        assert_eq!(
            fs::read_to_string(place.ws(name)).unwrap(),
            "written",
            "{name:?}"
        );
    }
}

#[test]
fn bad_path_texts_are_refused() {
    let place = Place::new();
    let too_long = PathProblem::TooLong {
        max: PATH_BYTES_MAX,
    };
    let cases = [
        (String::new(), PathProblem::Empty),
        ("a\0b".to_owned(), PathProblem::Nul),
        ("in.txt\0.png".to_owned(), PathProblem::Nul),
        ("/".to_owned(), PathProblem::Absolute),
        ("a/".repeat(PATH_BYTES_MAX), too_long.clone()),
        ("n".repeat(256), too_long),
    ];
    for (path, expected) in cases {
        assert_eq!(place.read(&path).as_ref(), Err(&expected));
        place.write_is_refused(&path, &expected);
    }
    let deep = format!("{}x", "d/".repeat(DEPTH_MAX + 1));
    place.write_is_refused(&deep, &PathProblem::TooDeep { max: DEPTH_MAX });
    place.write_is_refused(
        &format!("new/{}", "n".repeat(256)),
        &PathProblem::TooLong {
            max: PATH_BYTES_MAX,
        },
    );
    let deepest = format!("{}x", "d/".repeat(DEPTH_MAX));
    assert_eq!(place.write(&deepest), Ok(()));
    let shown = place
        .fence
        .read(&"é\n".repeat(4_000))
        .unwrap_err()
        .to_string();
    assert!(
        shown.chars().count() < 600 && !shown.contains('\n'),
        "{shown}"
    );
}

#[test]
fn what_git_runs_is_not_written() {
    let place = Place::new();
    let names = [
        ".git/hooks/pre-commit",
        ".git/config",
        ".GIT/config",
        ".Git/HOOKS/x",
        "sub/.git/hooks/x",
        "sub/../.git/config",
        "new/.git/hooks/x",
        ".git",
        ".g\u{200c}it/config",
        "GIT~1/config",
        ".git./config",
        ".git::$INDEX_ALLOCATION/config",
    ];
    for existing in [false, true] {
        if existing {
            fs::create_dir_all(place.ws(".git/hooks")).unwrap();
            fs::write(place.ws(".git/config"), "[core]").unwrap();
            symlink(".git", place.ws("innocent")).unwrap();
            symlink(".git/hooks", place.ws("innocent-too")).unwrap();
            place.write_is_refused("innocent/config", &PathProblem::Protected);
            place.write_is_refused("innocent-too/pre-commit", &PathProblem::Protected);
        }
        for path in names {
            place.write_is_refused(path, &PathProblem::Protected);
        }
    }
    assert_eq!(
        place.read(".git/config"),
        Ok("[core]".to_owned()),
        "reading is allowed"
    );
    for path in [".gitignore", ".github/x.yml", "git/config", ".gitmodules"] {
        assert_eq!(place.write(path), Ok(()), "{path}");
    }
}

#[test]
fn a_root_that_is_not_writable_is_only_read() {
    let place = Place::new();
    let mut read_only = root("docs", &place.outer("ws"));
    read_only.writable = false;
    let fence = Fence::open(&[read_only]).unwrap();
    assert_eq!(fence.read("docs/in.txt").unwrap(), b"inside");
    let err = fence
        .write("docs/in.txt", b"x", Parents::Create)
        .unwrap_err();
    assert_eq!(
        err.problem,
        PathProblem::ReadOnlyRoot {
            root: "docs".to_owned()
        }
    );
    assert_eq!(place.read("in.txt"), Ok("inside".to_owned()));
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let place = Place::new();
    let before = place.names();
    // The name turns into a directory after it was looked at.
    let target = place.fence.target("late", Parents::Create).unwrap();
    fs::create_dir(place.ws("late")).unwrap();
    fs::write(place.ws("late/x"), "").unwrap();
    assert!(target.replace(b"x", &|| false).is_err());
    fs::remove_dir_all(place.ws("late")).unwrap();
    assert_eq!(place.names(), before);
    // Cancelled at the last moment.
    let target = place.fence.target("in.txt", Parents::Create).unwrap();
    assert_eq!(target.replace(b"x", &|| true), Err(PathProblem::Cancelled));
    // Too large.
    let size = usize::try_from(WRITE_BYTES_MAX).unwrap() + 1;
    let err = place
        .fence
        .write("big", &vec![b'x'; size], Parents::Create)
        .unwrap_err();
    let max = WRITE_BYTES_MAX;
    assert_eq!(
        err.problem,
        PathProblem::TooLarge {
            size: size as u64,
            max
        }
    );
    assert_eq!(place.names(), before);
    assert_eq!(place.read("in.txt"), Ok("inside".to_owned()));
    // A parent is missing and was not asked for.
    let err = place
        .fence
        .write("no/x", b"x", Parents::MustExist)
        .unwrap_err();
    assert_eq!(err.problem, PathProblem::NotFound);
    assert_eq!(place.names(), before);
}

#[test]
fn a_link_put_in_place_during_a_write_is_replaced_and_not_followed() {
    let place = Place::new();
    let target = place.fence.target("x", Parents::Create).unwrap();
    symlink("../secret", place.ws("x")).unwrap();
    assert_eq!(target.replace(b"mine", &|| false), Ok(()));
    assert_eq!(fs::read_to_string(place.outer("secret")).unwrap(), SECRET);
    assert!(place.ws("x").symlink_metadata().unwrap().is_file());
}

#[test]
fn a_write_keeps_the_permission_bits_and_the_same_content_changes_nothing() {
    let place = Place::new();
    let script = place.ws("run.sh");
    fs::write(&script, "old").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4750)).unwrap();
    assert_eq!(place.write("run.sh"), Ok(()));
    let meta = fs::metadata(&script).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o750, "set-user-id is not kept");
    assert_eq!(place.write("run.sh"), Ok(()));
    assert_eq!(fs::metadata(&script).unwrap().ino(), meta.ino());
    fs::set_permissions(&script, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(place.write("run.sh"), Err(PathProblem::ReadOnlyFile));
}

#[test]
fn a_file_over_the_cap_is_not_read() {
    let place = Place::new();
    let big = File::create(place.ws("big")).unwrap();
    big.set_len(READ_BYTES_MAX).unwrap();
    assert_eq!(
        place.fence.read("big").unwrap().len() as u64,
        READ_BYTES_MAX
    );
    big.set_len(READ_BYTES_MAX + 1).unwrap();
    let (size, max) = (READ_BYTES_MAX + 1, READ_BYTES_MAX);
    assert_eq!(place.read("big"), Err(PathProblem::TooLarge { size, max }));
    // It may be replaced all the same.
    assert_eq!(place.write("big"), Ok(()));
}

#[test]
fn the_first_part_of_a_path_chooses_the_root() {
    let place = Place::new();
    fs::create_dir(place.ws("docs")).unwrap();
    fs::write(place.ws("docs/a"), "shadowed").unwrap();
    fs::write(place.outer("ws-evil/a"), "named").unwrap();
    let roots = [
        root(".", &place.outer("ws")),
        root("docs", &place.outer("ws-evil")),
    ];
    let fence = Fence::open(&roots).unwrap();
    assert_eq!(fence.read("docs/a").unwrap(), b"named");
    assert_eq!(fence.read("docs//a").unwrap(), b"named");
    assert_eq!(fence.read("./docs/a").unwrap(), b"shadowed");
    assert_eq!(fence.read("in.txt").unwrap(), b"inside");
    assert_eq!(
        fence.read("docs/../secret").unwrap_err().problem,
        PathProblem::Escapes
    );
    let at = fence.locate("docs/a").unwrap();
    assert_eq!(fence.display(at.root, "a"), "docs/a");
    let at = fence.locate("./docs/a").unwrap();
    assert_eq!(fence.display(at.root, "docs/a"), "./docs/a");

    let named = Fence::open(roots.get(1..).unwrap()).unwrap();
    let problem = named.read("in.txt").unwrap_err().problem;
    assert_eq!(
        problem,
        PathProblem::UnknownRoot {
            roots: "`docs`".to_owned()
        }
    );
    let problem = Fence::none().read("in.txt").unwrap_err().problem;
    assert_eq!(problem, PathProblem::NoWorkspace);
    let empty = Fence::open(&[]).unwrap();
    assert!(empty.is_empty());
    assert_eq!(
        empty.read(".").unwrap_err().problem,
        PathProblem::NoWorkspace
    );
}

#[test]
fn roots_that_are_not_usable_are_named() {
    let place = Place::new();
    let ws = place.outer("ws");
    let cases = [
        (
            vec![root("a", Path::new("relative"))],
            "`a`: `relative` is not absolute",
        ),
        (
            vec![root("a", &place.outer("missing"))],
            "missing` does not exist",
        ),
        (
            vec![root("a", &place.outer("secret"))],
            "secret` is not a directory",
        ),
        (vec![root("a", &ws), root("A", &ws)], "`A` is used twice"),
        (vec![root(".", &ws), root(".", &ws)], "`.` is used twice"),
        (vec![root("", &ws)], "is not usable"),
        (vec![root("..", &ws)], "is not usable"),
        (vec![root("a/b", &ws)], "is not usable"),
        (vec![root(".GIT", &ws)], "is not usable"),
        (vec![root(&"n".repeat(65), &ws)], "is not usable"),
        (vec![root("a", &ws); 17], "17 workspace roots are too many"),
    ];
    for (roots, expected) in cases {
        let err = Fence::open(&roots).unwrap_err().to_string();
        assert!(err.contains(expected), "{err}");
    }
    let many: Vec<_> = (0..ROOTS_MAX)
        .map(|n| root(&format!("r{n}"), &ws))
        .collect();
    assert_eq!(Fence::open(&many).unwrap().roots().count(), ROOTS_MAX);
}

#[test]
fn a_fifo_put_in_place_of_a_file_does_not_hang_a_walk() {
    let place = Place::new();
    fifo(&place.ws("pipe"));
    let start = place.fence.locate(".").unwrap().start().unwrap();
    let Start::Dir(dir) = start else {
        panic!("not a directory")
    };
    let mut seen = Vec::new();
    let cancel = tokio_util::sync::CancellationToken::new();
    let mut walk = Walk::default();
    let ended = walk.run(dir, &cancel, &mut |entry| {
        seen.push((entry.path.clone(), entry.kind, entry.read().err()));
        Visit::On
    });
    assert_eq!(ended, Ok(Visit::On));
    let expected = vec![
        ("in.txt".to_owned(), EntryKind::File, None),
        (
            "pipe".to_owned(),
            EntryKind::Other,
            Some(PathProblem::NotRegular),
        ),
    ];
    assert_eq!(seen, expected);
}
