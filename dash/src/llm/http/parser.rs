//! Reads server-sent events out of whole lines, without copying their data.
//!
//! The rules are those of the HTML standard, as far as answers of models need them: names and data;
//! ids and times to retry are for connections that are opened again, which no call is.
//!
//! The crate `eventsource-stream` would do, but for a third of the instructions of a turn: it copies
//! each line several times, and again with every piece it comes in. Tests compare the two.

use std::mem;
use std::ops::Range;
use std::str::Utf8Error;

use bytes::Bytes;
use memchr::memchr2;

use crate::llm::dialect::SseEvent;

/// The name of an event that has none.
const UNNAMED: &str = "message";

/// Cuts lines into events. What an event borrows lives until the next one is asked for.
#[derive(Debug, Default)]
pub(super) struct EventParser {
    /// Whole lines that are still to be read from `at` on.
    lines: Bytes,
    at: usize,
    name: String,
    data: Data,
    /// Whether the last event was handed out and is to be forgotten.
    is_told: bool,
    /// Something was no UTF-8.
    broken: Option<Utf8Error>,
}

/// The data of the event that is being read.
#[derive(Debug, Default)]
enum Data {
    #[default]
    None,
    /// One line: where it is in `lines`.
    Line(Range<usize>),
    /// Several lines, or one whose event did not end with the bytes it came in.
    Text(String),
}

impl EventParser {
    /// Takes whole lines to read, when those before are used up.
    pub(super) fn push(&mut self, lines: Bytes) {
        self.lines = lines;
        self.at = 0;
    }

    /// Reads up to the next event, which [`event`](Self::event) then is; false once the lines are
    /// used up.
    pub(super) fn advance(&mut self) -> bool {
        if mem::take(&mut self.is_told) {
            self.forget();
        }
        if self.broken.is_none() {
            match self.read_event() {
                Ok(true) => self.is_told = true,
                Ok(false) => self.let_go(),
                Err(err) => self.broken = Some(err),
            }
        }
        self.is_told || self.broken.is_some()
    }

    /// The event that was found. Nothing good follows an error.
    pub(super) fn event(&self) -> Result<SseEvent<'_>, Utf8Error> {
        if let Some(err) = self.broken {
            return Err(err);
        }
        let data = match &self.data {
            Data::None => "",
            Data::Text(text) => text,
            Data::Line(range) => {
                let line = self.lines.get(range.clone()).unwrap_or_default();
                std::str::from_utf8(line)?
            }
        };
        let name = match self.name.as_str() {
            "" => UNNAMED,
            name => name,
        };
        Ok(SseEvent { name, data })
    }

    /// Reads lines up to the blank one that ends an event with data; false if there is none.
    fn read_event(&mut self) -> Result<bool, Utf8Error> {
        while let Some(line) = self.line() {
            if !line.is_empty() {
                self.field(line)?;
            } else if matches!(self.data, Data::None) {
                self.forget();
            } else {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The next line without its end, which is `\n`, `\r\n` or `\r`.
    fn line(&mut self) -> Option<Range<usize>> {
        let start = self.at;
        let rest = self.lines.get(start..).filter(|rest| !rest.is_empty())?;
        let length = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let end_length = match rest.get(length..) {
            Some([b'\r', b'\n', ..]) => 2,
            Some([_, ..]) => 1,
            _ => 0,
        };
        self.at = start + length + end_length;
        Some(start..start + length)
    }

    fn field(&mut self, line: Range<usize>) -> Result<(), Utf8Error> {
        let bytes = self.lines.get(line.clone()).unwrap_or_default();
        let is = |name: &[u8]| match bytes.strip_prefix(name) {
            Some([]) => Some(line.end),
            // One blank after the colon is not part of the value.
            Some([b':', b' ', ..]) => Some(line.start + name.len() + 2),
            Some([b':', ..]) => Some(line.start + name.len() + 1),
            _ => None,
        };
        if let Some(start) = is(b"data") {
            self.add(start..line.end)
        } else if let Some(start) = is(b"event") {
            self.name.clear();
            let name = self.lines.get(start..line.end).unwrap_or_default();
            self.name.push_str(std::str::from_utf8(name)?);
            Ok(())
        } else {
            // A comment, or what is of no use here; still, a body is UTF-8.
            std::str::from_utf8(bytes).map(drop)
        }
    }

    fn add(&mut self, value: Range<usize>) -> Result<(), Utf8Error> {
        match mem::take(&mut self.data) {
            Data::None => {
                // Checked when it is handed out, or copied.
                self.data = Data::Line(value);
                return Ok(());
            }
            earlier @ Data::Line(_) => {
                self.data = earlier;
                self.copy()?;
            }
            earlier @ Data::Text(_) => self.data = earlier,
        }
        let more = self.lines.get(value).unwrap_or_default();
        let more = std::str::from_utf8(more)?;
        if let Data::Text(text) = &mut self.data {
            text.push('\n');
            text.push_str(more);
        }
        Ok(())
    }

    /// Copies a line of data out of the bytes it came in.
    fn copy(&mut self) -> Result<(), Utf8Error> {
        if let Data::Line(range) = &self.data {
            let line = self.lines.get(range.clone()).unwrap_or_default();
            self.data = Data::Text(std::str::from_utf8(line)?.to_owned());
        }
        Ok(())
    }

    /// Lets go of lines that are used up, which would hold the connection's buffer; keeps what the
    /// event that goes on has so far.
    fn let_go(&mut self) {
        if let Err(err) = self.copy() {
            self.broken = Some(err);
        }
        self.lines = Bytes::new();
    }

    fn forget(&mut self) {
        self.name.clear();
        self.data = Data::None;
    }
}

#[cfg(test)]
mod tests {
    use eventsource_stream::Eventsource as _;
    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use pretty_assertions::assert_eq;
    use proptest::prelude::*;

    use super::*;

    /// The events of pushes; an error is the last.
    fn read(pushes: &[&[u8]]) -> Vec<Result<(String, String), String>> {
        let mut parser = EventParser::default();
        let mut out = Vec::new();
        for lines in pushes {
            parser.push(Bytes::copy_from_slice(lines));
            while parser.advance() {
                match parser.event() {
                    Ok(event) => out.push(Ok((event.name.to_owned(), event.data.to_owned()))),
                    Err(err) => {
                        out.push(Err(err.to_string()));
                        return out;
                    }
                }
            }
        }
        out
    }

    fn event(name: &str, data: &str) -> Result<(String, String), String> {
        Ok((name.to_owned(), data.to_owned()))
    }

    #[test]
    fn names_data_and_comments_are_read_with_any_line_end() {
        for end in ["\n", "\r\n", "\r"] {
            let body = "event: a||data: 1||||: hello||data:2||data|||id: x|retry: 3|dataset: no|event: b||||data:  3||event||||"
                .replace("||", "|")
                .replace('|', end);
            let body = format!("{body}\n");
            let expected = [
                event("a", "1"),
                event("message", "2\n"),
                event("message", " 3"),
            ];
            assert_eq!(read(&[body.as_bytes()]), expected, "{end:?}");
        }
    }

    #[test]
    fn an_event_goes_on_in_other_bytes() {
        let whole: &[u8] = b"event: a\ndata: 1\ndata: 2\n\ndata: 3\n\n";
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        assert_eq!(read(&[whole]), [event("a", "1\n2"), event("message", "3")]);
        assert_eq!(read(&lines), read(&[whole]));
    }

    #[test]
    fn what_is_no_utf8_is_an_error_wherever_it_is_and_however_it_is_cut() {
        for line in [&b"data: \xff\n"[..], b"event: \xff\n", b": \xff\n"] {
            for before in [&b""[..], b"data: 1\n"] {
                let body = [b"data: 0\n\n", before, line, b"\ndata: 4\n\n"].concat();
                let lines: Vec<&[u8]> = body.split_inclusive(|byte| *byte == b'\n').collect();
                let whole = read(&[&body]);
                assert_eq!(whole.len(), 2, "{body:?}");
                assert_eq!(whole[0], event("message", "0"));
                assert!(whole[1].is_err());
                assert_eq!(read(&lines), whole, "{body:?}");
            }
        }
    }

    /// What the crate reads out of a body.
    fn read_by_crate(body: &str) -> Vec<Result<(String, String), String>> {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let events = stream::iter([Ok::<_, std::convert::Infallible>(bytes)]).eventsource();
        let events =
            events.map(|event| event.map(|e| (e.event, e.data)).map_err(|e| e.to_string()));
        events.collect().now_or_never().unwrap()
    }

    proptest! {
        /// Bodies of every kind of line, ended by blank lines, cut into two anywhere between lines.
        #[test]
        fn events_are_those_that_eventsource_stream_reads(
            lines in prop::collection::vec(
                prop_oneof![
                    3 => Just(String::new()),
                    4 => "data: ?[a-zé:{}\" ]{0,6}",
                    2 => "(data|event|event:|data:|event: ?[a-z.]{1,5})",
                    1 => "(: ?[a-z]{0,5}|id: [0-9]|retry: [0-9]|dataset: x|nothing)",
                ],
                0..20,
            ),
            crlf in any::<bool>(), cut in 0_usize..20,
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let text = |lines: &[String]| -> String {
                lines.iter().flat_map(|line| [line.as_str(), end]).collect()
            };
            let (head, tail) = lines.split_at(cut.min(lines.len()));
            let (head, tail) = (text(head), text(tail) + end + end);
            let ours = read(&[head.as_bytes(), tail.as_bytes()]);
            prop_assert_eq!(ours, read_by_crate(&(head + &tail)));
        }
    }
}
