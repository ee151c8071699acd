//! The line gate: stands before the SSE parser and hands it whole lines only.
//!
//! Why: the parser (eventsource-stream 0.2.3) panics on a byte order mark, takes time quadratic in
//! the length of a line that comes in pieces, has no limit, and loses the last event of a body that
//! ends without a blank line.

use bytes::Bytes;

/// Bytes of one line or of the data of one event, at most.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Bytes of whole lines that the parser gets at once, if a line is not longer.
const SLICE_BYTES: usize = 256;

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// A line or event is longer than the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LineTooLong;

/// Holds bytes back until their line is whole.
#[derive(Debug)]
pub(super) struct LineGate {
    held: Vec<u8>,
    event_bytes: usize,
    bytes_max: usize,
    is_first: bool,
}

impl LineGate {
    pub(super) const fn new(bytes_max: usize) -> Self {
        Self {
            held: Vec::new(),
            event_bytes: 0,
            bytes_max,
            is_first: true,
        }
    }

    /// Takes bytes; returns the lines they make whole, possibly none.
    pub(super) fn push(&mut self, chunk: &Bytes) -> Result<Bytes, LineTooLong> {
        let Some(last) = chunk.iter().rposition(|byte| *byte == b'\n') else {
            self.hold(chunk)?;
            return Ok(Bytes::new());
        };
        let (lines, rest) = (chunk.slice(..=last), chunk.slice(last + 1..));
        self.measure(&lines)?;
        let whole = if self.held.is_empty() {
            lines
        } else {
            self.held.extend_from_slice(&lines);
            Bytes::from(std::mem::take(&mut self.held))
        };
        self.hold(&rest)?;
        Ok(self.without_bom(whole))
    }

    /// The body ended: the last line, made whole, and a blank one so that the last event counts.
    /// Half a character at its end is dropped, since the parser would refuse the whole line.
    pub(super) fn eof(&mut self) -> Bytes {
        let mut last = std::mem::take(&mut self.held);
        if let Err(err) = std::str::from_utf8(&last)
            && err.error_len().is_none()
        {
            last.truncate(err.valid_up_to());
        }
        last.extend_from_slice(b"\n\n");
        self.without_bom(Bytes::from(last))
    }

    fn hold(&mut self, rest: &[u8]) -> Result<(), LineTooLong> {
        self.held.extend_from_slice(rest);
        self.check(self.event_bytes + self.held.len())
    }

    /// Checks every line that ends in `lines`, and the event it adds to.
    fn measure(&mut self, lines: &[u8]) -> Result<(), LineTooLong> {
        let mut head = self.held.len();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let is_blank = match head {
                0 => matches!(line, b"\n" | b"\r\n"),
                _ => self.held == b"\r" && line == b"\n",
            };
            self.event_bytes = if is_blank {
                0
            } else {
                self.event_bytes + head + line.len()
            };
            head = 0;
            self.check(self.event_bytes)?;
        }
        Ok(())
    }

    const fn check(&self, bytes: usize) -> Result<(), LineTooLong> {
        if bytes > self.bytes_max {
            Err(LineTooLong)
        } else {
            Ok(())
        }
    }

    fn without_bom(&mut self, bytes: Bytes) -> Bytes {
        if !std::mem::take(&mut self.is_first) {
            return bytes;
        }
        // A proxy may add a second one, at which the parser would panic all the same.
        let mut start = 0;
        while bytes.get(start..).is_some_and(|rest| rest.starts_with(BOM)) {
            start += BOM.len();
        }
        bytes.slice(start..)
    }
}

/// Cuts whole lines into slices of at most [`SLICE_BYTES`], or of one longer line.
pub(super) fn slices(mut lines: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        if lines.is_empty() {
            return None;
        }
        let head = lines.get(..SLICE_BYTES).unwrap_or(&lines);
        let end = head
            .iter()
            .rposition(|byte| *byte == b'\n')
            .or_else(|| lines.iter().position(|byte| *byte == b'\n'));
        let end = end.map_or(lines.len(), |end| end + 1);
        Some(lines.split_to(end))
    })
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn pass(pieces: &[&[u8]], bytes_max: usize) -> Result<Vec<u8>, LineTooLong> {
        let mut gate = LineGate::new(bytes_max);
        let mut out = Vec::new();
        for piece in pieces {
            let lines = gate.push(&Bytes::copy_from_slice(piece))?;
            assert!(lines.is_empty() || lines.ends_with(b"\n"));
            out.extend_from_slice(&lines);
        }
        out.extend_from_slice(&gate.eof());
        Ok(out)
    }

    #[test]
    fn only_whole_lines_pass_however_the_bytes_are_cut() {
        let body = b"\xef\xbb\xbfdata: a\r\n\r\ndata: \xc3\xa9\n\n: c\n\ndata: last";
        for cut in 0..=body.len() {
            let (a, b) = body.split_at(cut);
            let out = pass(&[a, b], 64).unwrap();
            assert_eq!(out, [&body[3..], b"\n\n"].concat(), "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = body.chunks(1).collect();
        assert_eq!(pass(&bytes, 64).unwrap(), [&body[3..], b"\n\n"].concat());
    }

    #[test]
    fn every_mark_at_the_beginning_is_removed() {
        let body = [BOM, BOM, b"data: a\n"].concat();
        assert_eq!(pass(&[&body], 64).unwrap(), b"data: a\n\n\n");
        assert_eq!(pass(&[BOM, BOM], 64).unwrap(), b"\n\n");
    }

    #[test]
    fn slices_are_short_whole_lines_and_lose_nothing() {
        let long = [b"data: ".as_slice(), &[b'x'; 1_000], b"\n"].concat();
        let lines = Bytes::from([b"\n".repeat(600), long.clone(), b"a\nb\n".repeat(90)].concat());
        let cut: Vec<Bytes> = slices(lines.clone()).collect();
        assert_eq!(cut.concat(), lines);
        for slice in cut {
            assert!(slice.ends_with(b"\n"));
            assert!(slice.len() <= SLICE_BYTES || slice == long, "{slice:?}");
        }
    }

    /// The capacity only grows by doubling: what is copied is at most twice the line, however
    /// small the pieces are.
    #[test]
    fn a_line_of_8_mib_in_small_pieces_is_copied_a_constant_number_of_times() {
        let piece = Bytes::from(vec![b'x'; 4_096]);
        let mut gate = LineGate::new(LINE_BYTES_MAX);
        let (mut moves, mut copied, mut capacity) = (0, 0, 0);
        let mut held = 0;
        while held + piece.len() < LINE_BYTES_MAX {
            assert!(gate.push(&piece).unwrap().is_empty());
            if gate.held.capacity() != capacity {
                (moves, copied, capacity) = (moves + 1, copied + held, gate.held.capacity());
            }
            held += piece.len();
        }
        assert!(moves < 16, "{moves}");
        assert!(copied < 2 * held, "{copied} of {held}");
        let line = gate.push(&Bytes::from_static(b"\n")).unwrap();
        assert_eq!(line.len(), held + 1);
        assert_eq!(slices(line).count(), 1, "the parser sees a long line once");
    }

    #[test]
    fn a_line_or_event_over_the_limit_is_refused_however_it_is_cut() {
        let long = [b"data: ".as_slice(), &[b'x'; 64], b"\n\n"].concat();
        let event = b"data: 0123456789\n".repeat(5);
        for body in [long, event] {
            assert_eq!(pass(&[&body], 64), Err(LineTooLong));
            let bytes: Vec<&[u8]> = body.chunks(1).collect();
            assert_eq!(pass(&bytes, 64), Err(LineTooLong));
        }
        assert!(pass(&[&b"data: 0123456789\r\n\r\n".repeat(50)], 64).is_ok());
    }
}
