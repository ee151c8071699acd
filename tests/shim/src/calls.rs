//! The C library's functions that change files, in its place.
//!
//! `open` and `openat` are variadic in C. Here they have their mode always: both calling conventions
//! of 64-bit Linux that Rust supports hand it over in the same register, and it is used only where
//! the caller must have given it.
#![expect(
    unsafe_code,
    reason = "these functions are called by C code and call the kernel"
)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use libc::{iovec, mode_t, off64_t, size_t, ssize_t};

use crate::fault::{Call, How};
use crate::record::Kind;
use crate::watch::{Watch, Watched, forget, watch, watched};

/// The kernel, past the C library, whose functions are ours here.
pub(crate) mod kernel {
    use std::ffi::{CStr, OsStr, c_int};

    use libc::{c_long, mode_t, off64_t, ssize_t};

    use crate::watch::c_path;

    /// `open`; -1 and `errno` if it fails.
    pub(super) fn open(dir: c_int, path: &CStr, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: `path` is a text of C, which the kernel only reads.
        let fd = unsafe { libc::syscall(libc::SYS_openat, dir, path.as_ptr(), flags, mode) };
        c_int::try_from(fd).unwrap_or(-1)
    }

    /// Makes a file for writing only; -1 if that fails.
    pub(crate) fn create(path: &OsStr) -> c_int {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        c_path(path).map_or(-1, |path| open(libc::AT_FDCWD, &path, flags, 0o644))
    }

    /// `write`.
    pub(crate) fn write(fd: c_int, bytes: &[u8]) -> ssize_t {
        // SAFETY: the kernel reads as many bytes as there are.
        let written = unsafe { libc::syscall(libc::SYS_write, fd, bytes.as_ptr(), bytes.len()) };
        result(written)
    }

    /// `pwrite`.
    pub(super) fn pwrite(fd: c_int, bytes: &[u8], at: off64_t) -> ssize_t {
        let (start, len) = (bytes.as_ptr(), bytes.len());
        // SAFETY: the kernel reads as many bytes as there are.
        result(unsafe { libc::syscall(libc::SYS_pwrite64, fd, start, len, at) })
    }

    /// A call of a descriptor and up to three numbers.
    pub(super) fn call(number: c_long, fd: c_int, args: [c_long; 3]) -> c_int {
        let [a, b, c] = args;
        // SAFETY: none of the calls made through this takes a pointer.
        let result = unsafe { libc::syscall(number, fd, a, b, c) };
        c_int::try_from(result).unwrap_or(-1)
    }

    /// `unlink`.
    pub(super) fn unlink(path: &CStr) -> c_int {
        // SAFETY: `path` is a text of C, which the kernel only reads.
        let result = unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), 0) };
        c_int::try_from(result).unwrap_or(-1)
    }

    /// `rename`.
    pub(super) fn rename(from: &CStr, to: &CStr) -> c_int {
        let (here, from, to) = (libc::AT_FDCWD, from.as_ptr(), to.as_ptr());
        // SAFETY: both are texts of C, which the kernel only reads.
        let result = unsafe { libc::syscall(libc::SYS_renameat2, here, from, here, to, 0) };
        c_int::try_from(result).unwrap_or(-1)
    }

    /// Whether there is such a file.
    pub(super) fn exists(path: &CStr) -> bool {
        let (here, path) = (libc::AT_FDCWD, path.as_ptr());
        // SAFETY: `path` is a text of C, which the kernel only reads.
        (unsafe { libc::syscall(libc::SYS_faccessat, here, path, libc::F_OK) }) == 0
    }

    /// Where the next `write` of a descriptor goes.
    pub(super) fn position(fd: c_int) -> u64 {
        // SAFETY: no pointer is passed.
        let at = unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) };
        u64::try_from(at).unwrap_or(0)
    }

    /// The number of a descriptor's inode.
    pub(crate) fn inode(fd: c_int) -> Option<u64> {
        stat(fd).map(|stat| stat.st_ino)
    }

    /// The length of a descriptor's file.
    pub(super) fn len(fd: c_int) -> u64 {
        stat(fd)
            .and_then(|stat| u64::try_from(stat.st_size).ok())
            .unwrap_or(0)
    }

    fn stat(fd: c_int) -> Option<libc::stat> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: there is room for what the function fills in.
        let status = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
        if status != 0 {
            return None;
        }
        // SAFETY: the function has succeeded, so it is filled in.
        Some(unsafe { stat.assume_init() })
    }

    fn result(value: c_long) -> ssize_t {
        ssize_t::try_from(value).unwrap_or(-1)
    }
}

/// Sets `errno`, answers what a failed call answers.
fn refuse(error: c_int) -> c_int {
    // SAFETY: every thread has an `errno`, and this is where.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: only this thread uses it.
    unsafe { *place = error };
    -1
}

/// The text of C at `path`; `None` if there is none.
fn text<'a>(path: *const c_char) -> Option<&'a CStr> {
    // SAFETY: whoever calls a function of the C library hands it a text that ends, or null.
    (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) })
}

/// The bytes of a caller's buffer.
fn bytes<'a>(start: *const c_void, len: size_t) -> &'a [u8] {
    if start.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: whoever calls a function of the C library hands it as many bytes as it says.
    unsafe { std::slice::from_raw_parts(start.cast(), len) }
}

// ---- names ----

fn open_at(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let Some(path) = text(path) else {
        return refuse(libc::EFAULT);
    };
    let pass = || kernel::open(dir, path, flags, mode);
    let Some(watch) = watch() else {
        return pass();
    };
    let Some(name) = watch.name(path) else {
        return pass();
    };
    if let Some(How::Error(error)) = watch.fails_by_name(name, Call::Open) {
        return refuse(error);
    }
    let mut journal = watch.lock();
    let is_new = flags & libc::O_CREAT != 0 && !kernel::exists(path);
    let fd = pass();
    if fd < 0 {
        return fd;
    }
    let file = watch.add(fd, name, flags & libc::O_APPEND != 0);
    if let Some(journal) = &mut journal {
        journal.note(Kind::Open, file, u64::from(is_new), name);
        if flags & libc::O_TRUNC != 0 && !is_new {
            journal.note(Kind::Truncate, file, 0, &[]);
        }
    }
    fd
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open_at(libc::AT_FDCWD, path, flags, mode)
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    open_at(libc::AT_FDCWD, path, flags, mode)
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    open_at(dir, path, flags, mode)
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    open_at(dir, path, flags, mode)
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn close(fd: c_int) -> c_int {
    forget(fd);
    kernel::call(libc::SYS_close, fd, [0; 3])
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    let Some(path) = text(path) else {
        return refuse(libc::EFAULT);
    };
    let named = watch().and_then(|watch| Some((watch, watch.name(path)?)));
    let Some((watch, name)) = named else {
        return kernel::unlink(path);
    };
    if let Some(How::Error(error)) = watch.fails_by_name(name, Call::Unlink) {
        return refuse(error);
    }
    let mut journal = watch.lock();
    let status = kernel::unlink(path);
    if let Some(journal) = journal.as_mut().filter(|_| status == 0) {
        journal.note(Kind::Unlink, 0, 0, name);
    }
    status
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let (Some(from), Some(to)) = (text(from), text(to)) else {
        return refuse(libc::EFAULT);
    };
    let names = watch().and_then(|watch| Some((watch, watch.name(from)?, watch.name(to)?)));
    let Some((watch, old, new)) = names else {
        return kernel::rename(from, to);
    };
    let mut journal = watch.lock();
    let status = kernel::rename(from, to);
    if let Some(journal) = journal.as_mut().filter(|_| status == 0) {
        journal.note(Kind::Rename, 0, 0, &[old, b"\0", new].concat());
    }
    status
}

// ---- bytes ----

/// Tells the journal what standard output is told. Before it is told: a pipe may be full.
fn told(bytes: &[u8]) {
    if let Some(mut journal) = watch().and_then(Watch::lock) {
        journal.note(Kind::Told, 0, 0, bytes);
    }
}

/// Writes to a watched file, at `at` or where the descriptor stands.
fn write_at(watch: &Watch, fd: c_int, file: Watched, bytes: &[u8], at: Option<off64_t>) -> ssize_t {
    let bytes = match watch.fails_by_fd(file, Call::Write) {
        Some(How::Error(error)) => return ssize_t::try_from(refuse(error)).unwrap_or(-1),
        Some(How::Short) => bytes.get(..bytes.len().div_ceil(2)).unwrap_or(bytes),
        None => bytes,
    };
    let mut journal = watch.lock();
    let place = match at {
        Some(at) => u64::try_from(at).unwrap_or(0),
        None if file.appends => kernel::len(fd),
        None => kernel::position(fd),
    };
    let written = match at {
        Some(at) => kernel::pwrite(fd, bytes, at),
        None => kernel::write(fd, bytes),
    };
    let done = usize::try_from(written).ok().and_then(|n| bytes.get(..n));
    if let (Some(journal), Some(done)) = (&mut journal, done) {
        journal.note(Kind::Write, file.file, place, done);
    }
    written
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, start: *const c_void, len: size_t) -> ssize_t {
    let bytes = bytes(start, len);
    if fd == 1 {
        told(bytes);
    }
    match (watch(), watched(fd)) {
        (Some(watch), Some(file)) => write_at(watch, fd, file, bytes, None),
        _ => kernel::write(fd, bytes),
    }
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // To write less than asked for is allowed, and callers go on with the rest.
    let first = match usize::try_from(count) {
        Ok(0) | Err(_) => return 0,
        // SAFETY: whoever calls this hands over `count` parts.
        Ok(count) => unsafe { std::slice::from_raw_parts(parts, count) },
    };
    let part = first.iter().find(|part| part.iov_len > 0);
    match part {
        // SAFETY: a part is as many bytes as it says.
        Some(part) => unsafe { write(fd, part.iov_base, part.iov_len) },
        None => 0,
    }
}

fn pwrite_at(fd: c_int, start: *const c_void, len: size_t, at: off64_t) -> ssize_t {
    let bytes = bytes(start, len);
    match (watch(), watched(fd)) {
        (Some(watch), Some(file)) => write_at(watch, fd, file, bytes, Some(at)),
        _ => kernel::pwrite(fd, bytes, at),
    }
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(
    fd: c_int,
    start: *const c_void,
    len: size_t,
    at: off64_t,
) -> ssize_t {
    pwrite_at(fd, start, len, at)
}

/// Stands for the function of the C library.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(
    fd: c_int,
    start: *const c_void,
    len: size_t,
    at: off64_t,
) -> ssize_t {
    pwrite_at(fd, start, len, at)
}

// ---- lengths ----

fn resize(fd: c_int, pass: impl FnOnce() -> c_int) -> c_int {
    let (Some(watch), Some(file)) = (watch(), watched(fd)) else {
        return pass();
    };
    if let Some(How::Error(error)) = watch.fails_by_fd(file, Call::Truncate) {
        return refuse(error);
    }
    let mut journal = watch.lock();
    let status = pass();
    if let Some(journal) = journal.as_mut().filter(|_| status == 0) {
        journal.note(Kind::Truncate, file.file, kernel::len(fd), &[]);
    }
    status
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, len: off64_t) -> c_int {
    resize(fd, || kernel::call(libc::SYS_ftruncate, fd, [len, 0, 0]))
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, len: off64_t) -> c_int {
    ftruncate(fd, len)
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate(fd: c_int, mode: c_int, at: off64_t, len: off64_t) -> c_int {
    resize(fd, || {
        kernel::call(libc::SYS_fallocate, fd, [mode.into(), at, len])
    })
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off64_t, len: off64_t) -> c_int {
    fallocate(fd, mode, at, len)
}

/// Stands for the function of the C library, which answers its error.
#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate(fd: c_int, at: off64_t, len: off64_t) -> c_int {
    if fallocate(fd, 0, at, len) == 0 {
        return 0;
    }
    // SAFETY: every thread has an `errno`, and this is where.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: only this thread uses it.
    unsafe { *place }
}

/// Stands for the function of the C library, which answers its error.
#[unsafe(no_mangle)]
pub extern "C" fn posix_fallocate64(fd: c_int, at: off64_t, len: off64_t) -> c_int {
    posix_fallocate(fd, at, len)
}

// ---- flushes ----

fn sync(fd: c_int, pass: impl FnOnce() -> c_int) -> c_int {
    let (Some(watch), Some(file)) = (watch(), watched(fd)) else {
        return pass();
    };
    let number = watch.sync_number();
    if let Some(mut journal) = watch.lock() {
        journal.note(Kind::SyncBegin, file.file, number, &[]);
    }
    if let Some(How::Error(error)) = watch.fails_by_fd(file, Call::Sync) {
        return refuse(error);
    }
    // Others may write meanwhile.
    let status = pass();
    if let Some(mut journal) = watch.lock().filter(|_| status == 0) {
        journal.note(Kind::SyncEnd, file.file, number, &[]);
    }
    status
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, || kernel::call(libc::SYS_fsync, fd, [0; 3]))
}

/// Stands for the function of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, || kernel::call(libc::SYS_fdatasync, fd, [0; 3]))
}
