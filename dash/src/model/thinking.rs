//! How hard a model thinks, in words that every provider's own can be made of.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How hard a model shall think.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum ThinkingLevel {
    /// Not at all.
    Off,
    /// As little as it can.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Much.
    High,
    /// More than much; few models have it.
    XHigh,
    /// As much as it can; few models have it.
    Max,
}

impl ThinkingLevel {
    /// Every level, rising.
    pub const ALL: [Self; 7] = [
        Self::Off,
        Self::Minimal,
        Self::Low,
        Self::Medium,
        Self::High,
        Self::XHigh,
        Self::Max,
    ];

    /// The wire form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
            Self::Max => "max",
        }
    }

    /// The tokens that a model which counts them may think with, leaving at least 1,024 of
    /// `output_max` for the answer; `None` if there is no room for 1,024, or for [`Self::Off`].
    #[must_use]
    pub fn budget_tokens(self, output_max: u32) -> Option<u32> {
        let wanted = match self {
            Self::Off => return None,
            Self::Minimal => 1_024,
            Self::Low => 2_048,
            Self::Medium => 8_192,
            Self::High | Self::XHigh | Self::Max => 16_384,
        };
        let room = output_max.checked_sub(ANSWER_TOKENS_MIN)?;
        (room >= THINKING_TOKENS_MIN).then(|| room.min(wanted))
    }
}

/// Tokens left for the answer beside thinking.
const ANSWER_TOKENS_MIN: u32 = 1_024;
/// The least a model can be told to think with.
const THINKING_TOKENS_MIN: u32 = 1_024;

/// How a model is told how hard to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ThinkingMode {
    /// By a word.
    Effort,
    /// By a number of tokens.
    Budget,
    /// By a word, and the model decides how long (Anthropic's adaptive thinking).
    Adaptive,
}

/// What a model that can think takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ThinkingSupport {
    /// How it is told.
    pub mode: ThinkingMode,
    /// Its own word for a level; `null` = it does not have the level. A level that is not named is
    /// passed on by its own name, except `xhigh` and `max`, which must be named to be there.
    #[serde(default)]
    pub levels: BTreeMap<ThinkingLevel, Option<String>>,
}

impl ThinkingSupport {
    /// Support in a mode, with the usual levels.
    #[must_use]
    pub const fn new(mode: ThinkingMode) -> Self {
        Self {
            mode,
            levels: BTreeMap::new(),
        }
    }

    /// The model's word for a level; `None` = it does not have the level.
    #[must_use]
    pub fn word(&self, level: ThinkingLevel) -> Option<&str> {
        match self.levels.get(&level) {
            Some(word) => word.as_deref(),
            None if matches!(level, ThinkingLevel::XHigh | ThinkingLevel::Max) => None,
            None => Some(level.as_str()),
        }
    }

    /// The level itself if the model has it, else the next higher, else the next lower.
    #[must_use]
    pub fn nearest(&self, level: ThinkingLevel) -> Option<ThinkingLevel> {
        let has = |level: &ThinkingLevel| self.word(*level).is_some();
        let mut above = ThinkingLevel::ALL.into_iter().filter(|l| *l >= level);
        let mut below = ThinkingLevel::ALL.into_iter().rev().filter(|l| *l < level);
        above.find(has).or_else(|| below.find(has))
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;
    use ThinkingLevel as Level;

    #[test]
    fn a_level_that_is_missing_becomes_the_next_higher_else_the_next_lower() {
        let mut support = ThinkingSupport::new(ThinkingMode::Effort);
        assert_eq!(support.nearest(Level::XHigh), Some(Level::High));
        assert_eq!(support.nearest(Level::Low), Some(Level::Low));
        support.levels.insert(Level::Off, None);
        support.levels.insert(Level::Minimal, None);
        assert_eq!(support.nearest(Level::Off), Some(Level::Low));
        support.levels.insert(Level::Max, Some("ultra".to_owned()));
        assert_eq!(support.nearest(Level::XHigh), Some(Level::Max));
        assert_eq!(support.word(Level::Max), Some("ultra"));
        support.levels = Level::ALL.into_iter().map(|l| (l, None)).collect();
        assert_eq!(support.nearest(Level::High), None);
    }

    #[test]
    fn thinking_leaves_room_for_the_answer() {
        assert_eq!(Level::Minimal.budget_tokens(8_192), Some(1_024));
        assert_eq!(Level::High.budget_tokens(64_000), Some(16_384));
        assert_eq!(Level::High.budget_tokens(4_096), Some(3_072));
        assert_eq!(Level::High.budget_tokens(2_047), None);
        assert_eq!(Level::Off.budget_tokens(64_000), None);
    }
}
