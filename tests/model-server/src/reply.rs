//! What a script answers.

use std::time::Duration;

/// The most bytes a reply may hold.
pub(crate) const REPLY_BYTES_MAX: usize = 16 << 20;

/// Tokens as this server bills them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Billed {
    /// Of the request.
    pub input: u64,
    /// Of the answer.
    pub output: u64,
}

/// A reply: an answer or a refusal, and how it travels.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) what: What,
    /// Extra headers.
    pub(crate) headers: Vec<(String, String)>,
    /// Before the first byte.
    pub(crate) after: Duration,
    /// Between pieces of the body.
    pub(crate) gap: Duration,
    /// Bytes of a piece; a frame each if not said.
    pub(crate) piece: Option<usize>,
    /// The connection breaks after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Never ends, once it has sent all it has.
    pub(crate) hangs: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Answer(Answer),
    Refusal { status: u16, message: String },
    Raw { content_type: String, body: String },
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// A chunk each, when streamed.
    pub(crate) text: Vec<String>,
    pub(crate) calls: Vec<Call>,
    /// Whether the answer ended because it was long enough.
    pub(crate) truncated: bool,
    pub(crate) billed: Option<Billed>,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: String,
}

impl Reply {
    const fn of(what: What) -> Self {
        Self {
            what,
            headers: Vec::new(),
            after: Duration::ZERO,
            gap: Duration::ZERO,
            piece: None,
            cut: None,
            hangs: false,
        }
    }

    /// An answer of one text; a chunk for each word when streamed.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::tokens(text.split_inclusive(' '))
    }

    /// An answer of these pieces of text, a chunk each when streamed.
    #[must_use]
    pub fn tokens<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(What::Answer(Answer {
            text: tokens.into_iter().map(str::to_owned).collect(),
            ..Answer::default()
        }))
    }

    /// A refusal in the API's form.
    #[must_use]
    pub fn status(status: u16, message: &str) -> Self {
        let message = message.to_owned();
        Self::of(What::Refusal { status, message })
    }

    /// A body of any kind with status 200: what no honest server sends.
    #[must_use]
    pub fn raw(content_type: &str, body: &str) -> Self {
        Self::of(What::Raw {
            content_type: content_type.to_owned(),
            body: body.to_owned(),
        })
    }

    /// The same with a tool call. Its id is made by the server. Of no effect on what is no answer.
    #[must_use]
    pub fn call(mut self, name: &str, arguments: &str) -> Self {
        if let What::Answer(answer) = &mut self.what {
            answer.calls.push(Call {
                name: name.to_owned(),
                arguments: arguments.to_owned(),
            });
        }
        self
    }

    /// The same with this usage instead of one token for four bytes of the request and one for each
    /// chunk of the answer. Of no effect on what is no answer.
    #[must_use]
    pub const fn billed(mut self, input: u64, output: u64) -> Self {
        if let What::Answer(answer) = &mut self.what {
            answer.billed = Some(Billed { input, output });
        }
        self
    }

    /// The same, ended by the limit of its tokens. Of no effect on what is no answer.
    #[must_use]
    pub const fn truncated(mut self) -> Self {
        if let What::Answer(answer) = &mut self.what {
            answer.truncated = true;
        }
        self
    }

    /// The same with a header more, for example `retry-after`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, later.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// The same with a pause before each chunk but the first.
    #[must_use]
    pub const fn paced(mut self, gap: Duration) -> Self {
        self.gap = gap;
        self
    }

    /// The same in pieces of `bytes` (at least 1) with a pause between them, wherever that cuts
    /// lines and characters.
    #[must_use]
    pub const fn drip(mut self, bytes: usize, gap: Duration) -> Self {
        self.piece = Some(if bytes == 0 { 1 } else { bytes });
        self.gap = gap;
        self
    }

    /// The same, but the connection breaks after so many bytes of the body. What was cut off is
    /// billed: the server had made it.
    #[must_use]
    pub const fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// The same, but the connection stays open and silent after the last byte, or after the cut.
    #[must_use]
    pub const fn hanging(mut self) -> Self {
        self.hangs = true;
        self
    }
}
