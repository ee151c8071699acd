//! Cutting what a tool answers to what a model should read.

use std::io;

use serde_json::Value;

use super::ToolOutput;
use crate::model::ContentBlock;

/// Cuts an answer to at most `bytes_max` bytes of content, plus one line that says how much was
/// left out. An answer that fits is returned unchanged.
///
/// Text is cut at the end of a line where there is one in the last half of what fits, else between
/// two characters. An image that does not fit is left out whole. The head is kept. `details` of
/// more than `bytes_max` bytes are replaced by a text that says so.
#[must_use]
pub fn limit_output(mut output: ToolOutput, bytes_max: usize) -> ToolOutput {
    let total: usize = output.content.iter().map(size_of_block).sum();
    if json_is_over(&output.details, bytes_max) {
        output.details = Value::String(format!("left out: more than {bytes_max} bytes"));
    }
    if total <= bytes_max {
        return output;
    }
    let mut left = bytes_max;
    let mut kept = Vec::with_capacity(output.content.len().min(bytes_max).saturating_add(1));
    let mut kept_bytes = 0_usize;
    for mut block in output.content {
        let size = size_of_block(&block);
        if size > left {
            match &mut block {
                ContentBlock::Text { text } => cut(text, left),
                ContentBlock::Image { .. } => continue,
            }
            left = 0;
        } else {
            left -= size;
        }
        let size = size_of_block(&block);
        if size > 0 {
            kept_bytes = kept_bytes.saturating_add(size);
            kept.push(block);
        }
    }
    let out = total.saturating_sub(kept_bytes);
    kept.push(ContentBlock::text(format!(
        "[{out} of {total} bytes were left out here]"
    )));
    output.content = kept;
    output
}

fn size_of_block(block: &ContentBlock) -> usize {
    match block {
        ContentBlock::Text { text } => text.len(),
        ContentBlock::Image { data, .. } => data.len(),
    }
}

/// Cuts at most at `bytes_max`, and gives the rest of the memory back.
fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
    if let Some(line_end) = text.rfind('\n')
        && line_end >= bytes_max / 2
    {
        text.truncate(line_end + 1);
    }
    text.shrink_to_fit();
}

/// Whether the JSON text of `value` is longer than `bytes_max`, without building it.
fn json_is_over(value: &Value, bytes_max: usize) -> bool {
    struct Count(usize);
    impl io::Write for Count {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(buf.len())
                .ok_or(io::ErrorKind::FileTooLarge)?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    !value.is_null() && serde_json::to_writer(Count(bytes_max), value).is_err()
}
