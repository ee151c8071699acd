//! Writing files within a fence: a new file beside the old one, made durable, renamed over it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap_std::fs::Dir;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::read::read_checked;
use super::{
    DEPTH_MAX, Fence, PATH_BYTES_MAX, PathError, PathProblem, Root, SAFE_FLAGS, WRITE_BYTES_MAX,
    check_file, open_entry,
};

/// Symbolic links followed on the way to one file: the number Linux uses.
const LINKS_MAX: usize = 40;
/// Tries to find a free name for the new file.
const TEMP_TRIES_MAX: usize = 16;
/// The part of the name every unfinished file begins with. A crash may leave one behind.
const TEMP_PREFIX: &str = ".dash-tmp-";
/// Locks that all files of the process share. Two files on one lock merely wait for each other.
const LOCKS: usize = 64;
/// Longest name of one file or directory, bytes.
const NAME_BYTES_MAX: usize = 255;
/// The bits of a file's mode that are kept; set-user-id and the like are not.
const MODE_KEPT: u32 = 0o777;
const MODE_WRITE_BITS: u32 = 0o222;
const NEW_FILE_MODE: u32 = 0o666;
const NEW_DIR_MODE: u32 = 0o777;

static FILE_LOCKS: [Mutex<()>; LOCKS] = [const { Mutex::new(()) }; LOCKS];
static TEMP_COUNTER: AtomicU64 = AtomicU64::new(0);

/// What to do about directories that are missing on the way to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// Create them, beneath the root.
    Create,
    /// Refuse the path.
    MustExist,
}

impl Fence {
    /// Writes a whole file, at most [`WRITE_BYTES_MAX`] bytes; what was there is replaced.
    ///
    /// On return the content and the name are durable. Readers see the old content or the new one,
    /// never a mix. Of an old file the permission bits are kept, its owner is not. Writing the same
    /// content again changes nothing. Calls for one file in one process run one after the other.
    ///
    /// # Errors
    ///
    /// [`PathError`]; nothing was replaced, except when making the new name durable failed, which
    /// the error says. A crash may leave a file named `.dash-tmp-…` behind.
    pub fn write(&self, path: &str, content: &[u8], parents: Parents) -> Result<(), PathError> {
        let write = || self.target(path, parents)?.replace(content, &|| false);
        write().map_err(|problem| problem.at(path))
    }

    /// Finds and locks a file to be written. Held until the target is dropped.
    pub(crate) fn target(&self, path: &str, parents: Parents) -> Result<Target, PathProblem> {
        let at = self.locate(path)?;
        if !at.root.writable {
            return Err(PathProblem::ReadOnlyRoot {
                root: at.root.name.clone(),
            });
        }
        let (dir, name) = resolve_parent(at.root, at.rest, parents)?;
        let lock = lock(&dir, &name)?;
        let old = match open_entry(&dir, &name, OFlags::empty()) {
            Ok(file) => Some(file),
            Err(Errno::NOENT) => None,
            Err(Errno::LOOP) => return Err(PathProblem::Symlink),
            Err(err) => return Err(PathProblem::from_errno("open it", err)),
        };
        let mut mode = None;
        if let Some(file) = &old {
            let old_mode = check_file(file)?.mode();
            if old_mode & MODE_WRITE_BITS == 0 {
                return Err(PathProblem::ReadOnlyFile);
            }
            mode = Some(old_mode & MODE_KEPT);
        }
        Ok(Target {
            dir,
            name,
            old,
            mode,
            _lock: lock,
        })
    }
}

/// A file to be written, locked against other writers of this process.
#[derive(Debug)]
pub(crate) struct Target {
    dir: Dir,
    name: OsString,
    old: Option<File>,
    mode: Option<u32>,
    _lock: MutexGuard<'static, ()>,
}

impl Target {
    /// What the file holds; `None` if there is none.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>, PathProblem> {
        let Some(file) = &self.old else {
            return Ok(None);
        };
        // A handle of its own: the position of a duplicate is shared.
        let again = open_entry(&self.dir, &self.name, OFlags::empty())
            .map_err(|err| PathProblem::from_errno("open it", err))?;
        if !same_file(file, &again) {
            return Err(PathProblem::Io {
                action: "read it",
                reason: "it was replaced meanwhile; try again".to_owned(),
            });
        }
        read_checked(again).map(Some)
    }

    /// Replaces the content. `is_cancelled` is asked once more right before the effect.
    pub(crate) fn replace(
        self,
        content: &[u8],
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(), PathProblem> {
        let size = content.len() as u64;
        if size > WRITE_BYTES_MAX {
            return Err(PathProblem::TooLarge {
                size,
                max: WRITE_BYTES_MAX,
            });
        }
        if let Some(old) = &self.old
            && old.metadata().is_ok_and(|meta| meta.len() == size)
            && self.read()?.is_some_and(|bytes| bytes == content)
        {
            // An earlier try may have died between the rename and its sync.
            sync(old)?;
            return sync_dir(&self.dir);
        }
        let (temp, mut file) = Temp::create(&self.dir)?;
        let filled = file.write_all(content).and_then(|()| match self.mode {
            Some(mode) => file.set_permissions(Permissions::from_mode(mode)),
            None => Ok(()),
        });
        filled.map_err(|err| PathProblem::from_io("write it", &err))?;
        sync(&file)?;
        if is_cancelled() {
            return Err(PathProblem::Cancelled);
        }
        temp.rename_to(&self.name)?;
        sync_dir(&self.dir)
    }
}

/// A new file that is removed unless it gets its final name.
struct Temp<'a> {
    dir: &'a Dir,
    name: String,
    renamed: bool,
}

impl<'a> Temp<'a> {
    fn create(dir: &'a Dir) -> Result<(Self, File), PathProblem> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | SAFE_FLAGS;
        for _ in 0..TEMP_TRIES_MAX {
            let count = TEMP_COUNTER.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMP_PREFIX}{}-{count}", std::process::id());
            match rustix::fs::openat(dir, &name, flags, Mode::from_raw_mode(NEW_FILE_MODE)) {
                Ok(fd) => {
                    return Ok((
                        Self {
                            dir,
                            name,
                            renamed: false,
                        },
                        File::from(fd),
                    ));
                }
                // Left behind by a process that had our number.
                Err(Errno::EXIST) => {}
                Err(err) => {
                    return Err(PathProblem::from_errno("create a new file beside it", err));
                }
            }
        }
        Err(PathProblem::from_errno(
            "create a new file beside it",
            Errno::EXIST,
        ))
    }

    fn rename_to(mut self, name: &OsStr) -> Result<(), PathProblem> {
        // A link that has appeared at `name` meanwhile is itself replaced, not followed.
        rustix::fs::renameat(self.dir, &self.name, self.dir, name)
            .map_err(|err| PathProblem::from_errno("put the new file in its place", err))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.renamed
            && let Err(err) = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty())
        {
            tracing::warn!(name = %self.name, error = %err, "failed to remove an unfinished file");
        }
    }
}

/// Walks to the directory that holds the file, one handle per name, links followed by hand.
///
/// Every step opens one name without following links, and `..` goes back to the handle it came
/// from, so no step can leave the root; and the real names are known, which the check for
/// protected names needs (a link may hide them).
fn resolve_parent(
    root: &Root,
    rest: &str,
    parents: Parents,
) -> Result<(Dir, OsString), PathProblem> {
    let mut todo: VecDeque<OsString> = rest.split('/').map(OsString::from).collect();
    let last = todo.pop_back().unwrap_or_default();
    if matches!(last.as_bytes(), b"" | b"." | b"..") {
        return Err(PathProblem::IsDirectory);
    }
    // What can be seen in the text is refused before any directory is created on the way.
    check_parts(&todo, &last)?;
    let clone = root
        .dir
        .try_clone()
        .map_err(|err| PathProblem::from_io("open its root", &err))?;
    let mut stack = vec![clone];
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        match name.as_bytes() {
            b"" | b"." => continue,
            b".." => {
                stack.pop();
                if stack.is_empty() {
                    return Err(PathProblem::Escapes);
                }
                continue;
            }
            _ => {}
        }
        if is_protected_name(&name) {
            return Err(PathProblem::Protected);
        }
        let Some(dir) = stack.last() else {
            return Err(PathProblem::Escapes);
        };
        // As for the system, what is missing has no `..` to go back from.
        let create = parents == Parents::Create && !todo.iter().any(|part| part == "..");
        let parents = if create {
            Parents::Create
        } else {
            Parents::MustExist
        };
        match step(dir, &name, parents)? {
            Step::Into(next) if stack.len() <= DEPTH_MAX => stack.push(next),
            Step::Into(_) => return Err(PathProblem::TooDeep { max: DEPTH_MAX }),
            Step::Link(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(PathProblem::TooManyLinks);
                }
                for part in target.as_bytes().split(|b| *b == b'/').rev() {
                    todo.push_front(OsStr::from_bytes(part).to_owned());
                }
            }
        }
    }
    stack
        .pop()
        .map(|dir| (dir, last))
        .ok_or(PathProblem::Escapes)
}

fn check_parts(parents: &VecDeque<OsString>, last: &OsStr) -> Result<(), PathProblem> {
    let names = || {
        parents
            .iter()
            .map(OsString::as_os_str)
            .filter(|name| !name.is_empty())
    };
    for name in names().chain([last]) {
        if is_protected_name(name) {
            return Err(PathProblem::Protected);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(PathProblem::TooLong {
                max: PATH_BYTES_MAX,
            });
        }
    }
    if names().filter(|name| *name != ".").count() > DEPTH_MAX {
        return Err(PathProblem::TooDeep { max: DEPTH_MAX });
    }
    Ok(())
}

enum Step {
    Into(Dir),
    Link(OsString),
}

fn step(dir: &Dir, name: &OsStr, parents: Parents) -> Result<Step, PathProblem> {
    let mut opened = open_entry(dir, name, OFlags::DIRECTORY);
    if matches!(opened, Err(Errno::NOENT)) && parents == Parents::Create {
        match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(NEW_DIR_MODE)) {
            // Another writer may have been faster.
            Ok(()) | Err(Errno::EXIST) => sync_dir(dir)?,
            Err(err) => return Err(PathProblem::from_errno("create its directory", err)),
        }
        opened = open_entry(dir, name, OFlags::DIRECTORY);
    }
    match opened {
        Ok(file) => Ok(Step::Into(Dir::from_std_file(file))),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let target = match rustix::fs::readlinkat(dir, name, Vec::new()) {
                Ok(target) => OsStr::from_bytes(target.as_bytes()).to_owned(),
                // Not a link after all.
                Err(_) => return Err(PathProblem::NotADirectory),
            };
            if target.as_bytes().starts_with(b"/") {
                return Err(PathProblem::Escapes);
            }
            Ok(Step::Link(target))
        }
        Err(err) => Err(PathProblem::from_errno("open its directory", err)),
    }
}

/// Whether a file system or git may take this name for `.git`: any case, and with the invisible
/// characters that HFS+ ignores or the short name that NTFS makes.
pub(super) fn is_protected_name(name: &OsStr) -> bool {
    let folded: String = name
        .to_string_lossy()
        .chars()
        .filter(|c| {
            !matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{206a}'..='\u{206f}' | '\u{feff}')
        })
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .collect();
    // Windows shares drop dots and blanks at the end, and `:` begins a stream's name.
    let folded = folded
        .split(':')
        .next()
        .unwrap_or_default()
        .trim_end_matches(['.', ' ']);
    matches!(folded, ".git" | "git~1")
}

fn lock(dir: &Dir, name: &OsStr) -> Result<MutexGuard<'static, ()>, PathProblem> {
    let meta = rustix::fs::fstat(dir)
        .map_err(|err| PathProblem::from_errno("look at its directory", err))?;
    let mut hasher = DefaultHasher::new();
    (meta.st_dev, meta.st_ino).hash(&mut hasher);
    // One lock for names that a file system without case takes for one.
    name.to_string_lossy().to_lowercase().hash(&mut hasher);
    let at = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or(0);
    let lock = FILE_LOCKS.get(at).ok_or_else(|| PathProblem::Io {
        action: "lock it",
        reason: "no such lock".to_owned(),
    })?;
    // The lock guards no data that a panic could have left half done.
    Ok(lock.lock().unwrap_or_else(PoisonError::into_inner))
}

fn same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

fn sync(file: &File) -> Result<(), PathProblem> {
    file.sync_all()
        .map_err(|err| PathProblem::from_io("make the content durable", &err))
}

fn sync_dir(dir: &Dir) -> Result<(), PathProblem> {
    let synced: io::Result<()> = rustix::fs::fsync(dir).map_err(Into::into);
    synced.map_err(|err| PathProblem::from_io("make the new name durable", &err))
}
