//! What an agent ends with: checked against the schema, if there is one.

use serde_json::Value;

use super::super::{AttemptFailure, Next};
use super::Session;
use crate::model::MessageOrigin;
use crate::schema;

/// How often an attempt's answer is sent back before the attempt fails. An attempt that an engine
/// takes over from one that died begins to count anew; the turn limit bounds it all the same.
const CORRECTIONS_MAX: u32 = 3;

impl Session {
    /// The end, or what is wrong with it.
    pub(super) fn checked_answer(&mut self, result: String) -> Next {
        let Some(schema) = self.request.answer_schema.as_deref() else {
            return Next::Complete { result };
        };
        match read_answer(&result, schema) {
            Ok(value) => Next::Complete {
                result: value.to_string(),
            },
            Err(problems) if self.corrections < CORRECTIONS_MAX => {
                self.corrections += 1;
                Next::Say {
                    text: format!(
                        "This answer does not fit the schema. Answer again, with one JSON value \
                         that fits it and nothing else.\n{problems}"
                    ),
                    origin: MessageOrigin::Correction,
                }
            }
            Err(problems) => {
                let error = format!("the answer does not fit the schema: {problems}");
                Next::Fail(AttemptFailure::fatal(error).other_model())
            }
        }
    }
}

/// The JSON value of an answer: all of it, or the one fenced block in it.
fn read_answer(text: &str, schema: &Value) -> Result<Value, String> {
    let whole = text.trim();
    let value: Value = serde_json::from_str(whole)
        .or_else(|err| fenced(whole).map_or(Err(err), serde_json::from_str))
        .map_err(|err| format!("it is no JSON: {err}"))?;
    let value = schema::coerce(schema, &value);
    let problems = schema::check(schema, &value);
    if problems.is_empty() {
        return Ok(value);
    }
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    Err(lines.join("\n"))
}

/// What stands in the first fenced block.
fn fenced(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("```")?;
    let (_language, rest) = rest.split_once('\n')?;
    let (block, _) = rest.split_once("```")?;
    Some(block.trim())
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_read_bare_or_fenced_and_checked() {
        let schema = json!({
            "type": "object",
            "properties": {"total": {"type": "integer"}},
            "required": ["total"],
        });
        for (text, answer) in [
            (r#" {"total": 3} "#, Ok(json!({"total": 3}))),
            (r#"{"total": "3"}"#, Ok(json!({"total": 3}))),
            (
                "Here it is:\n```json\n{\"total\": 3}\n```\nDone.",
                Ok(json!({"total": 3})),
            ),
            (r#"{"sum": 3}"#, Err("total")),
            ("three", Err("it is no JSON")),
            ("```\nthree\n```", Err("it is no JSON")),
        ] {
            match (read_answer(text, &schema), answer) {
                (Ok(got), Ok(wanted)) => assert_eq!(got, wanted, "{text}"),
                (Err(got), Err(part)) => assert!(got.contains(part), "{text}: {got}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }
}
