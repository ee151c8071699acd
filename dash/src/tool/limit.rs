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

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    fn text_of(block: &ContentBlock) -> &str {
        match block {
            ContentBlock::Text { text } => text,
            ContentBlock::Image { .. } => "image",
        }
    }

    fn texts(output: &ToolOutput) -> Vec<&str> {
        output.content.iter().map(text_of).collect()
    }

    #[test]
    fn a_hundred_mebibytes_are_cut() {
        const SIZE: usize = 100 * 1_024 * 1_024;
        let line = "0123456789abcde\n";
        let output = limit_output(ToolOutput::text(line.repeat(SIZE / line.len())), 50_000);
        assert_eq!(
            texts(&output),
            [
                line.repeat(3_125).as_str(),
                "[104807600 of 104857600 bytes were left out here]"
            ]
        );
    }

    #[test]
    fn what_fits_is_unchanged() {
        let output = ToolOutput {
            content: vec![ContentBlock::text("a\nb")],
            details: json!([1]),
            is_final: true,
        };
        assert_eq!(limit_output(output.clone(), 3), output);
        assert_eq!(
            limit_output(ToolOutput::default(), 0),
            ToolOutput::default()
        );
    }

    #[test]
    fn text_is_cut_at_a_line_or_between_characters() {
        let cut = |text: &str, max| limit_output(ToolOutput::text(text), max);
        assert_eq!(
            texts(&cut("abcd\nefgh", 7)),
            ["abcd\n", "[4 of 9 bytes were left out here]"]
        );
        assert_eq!(
            texts(&cut("a\nbcdefgh", 7)),
            ["a\nbcdef", "[2 of 9 bytes were left out here]"]
        );
        assert_eq!(
            texts(&cut("ééé", 3)),
            ["é", "[4 of 6 bytes were left out here]"]
        );
        assert_eq!(texts(&cut("ééé", 0)), ["[6 of 6 bytes were left out here]"]);
    }

    #[test]
    fn blocks_share_the_limit_and_images_are_whole_or_gone() {
        let image = |size| ContentBlock::Image {
            data: "x".repeat(size),
            mime_type: "image/png".to_owned(),
        };
        let content = vec![
            ContentBlock::text("12345"),
            image(6),
            image(4),
            ContentBlock::text("67890"),
        ];
        let output = ToolOutput {
            content,
            details: json!("x".repeat(100)),
            is_final: true,
        };
        let output = limit_output(output, 12);
        let expected = ["12345", "image", "6", "[8 of 20 bytes were left out here]"];
        assert_eq!(texts(&output), expected);
        assert_eq!(output.details, json!("left out: more than 12 bytes"));
        assert!(output.is_final);
    }
}
