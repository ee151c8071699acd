//! Models as data: windows, limits and prices, and the exact cost of a call.

use serde::{Deserialize, Serialize};

use super::{Amount, NanoUsd, Usage};

/// Prices of a model per million tokens, in nano-dollars: USD 3 per million is 3,000,000,000.
///
/// All zero = a model that costs nothing, such as a local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelPrice {
    /// Uncached input.
    pub input: NanoUsd,
    /// Output, reasoning included.
    pub output: NanoUsd,
    /// Input read from a cache.
    pub cache_read: NanoUsd,
    /// Input written to a cache.
    pub cache_write: NanoUsd,
}

const PER_MILLION: i128 = 1_000_000;

impl ModelPrice {
    /// What `usage` costs, rounded up to a whole nano-dollar.
    #[must_use]
    pub fn cost(self, usage: Usage) -> NanoUsd {
        let part = |tokens: u64, price: NanoUsd| i128::from(tokens) * i128::from(price.0);
        let scaled = part(usage.input, self.input)
            + part(usage.output, self.output)
            + part(usage.cache_read, self.cache_read)
            + part(usage.cache_write, self.cache_write);
        let nanos = scaled.max(0).div_ceil_positive(PER_MILLION);
        NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX))
    }

    /// The most that `input` tokens of prompt and `output` tokens of answer can cost, whatever the
    /// cache does.
    #[must_use]
    pub fn worst_case(self, input: u64, output: u64) -> Amount {
        let dearest = self.input.max(self.cache_read).max(self.cache_write);
        let price = Self {
            input: dearest,
            ..self
        };
        let usage = Usage {
            input,
            output,
            ..Usage::default()
        };
        Amount {
            usd: price.cost(usage),
            tokens: usage.total(),
        }
    }
}

/// `i128::div_ceil` is unstable for signed integers; this one is for values that are not negative.
trait DivCeil {
    fn div_ceil_positive(self, divisor: Self) -> Self;
}

impl DivCeil for i128 {
    fn div_ceil_positive(self, divisor: Self) -> Self {
        (self + divisor - 1) / divisor
    }
}

/// A model an agent may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The id callers use and the server is asked for.
    pub id: String,
    /// The provider that serves it: an [`LlmProvider::id`](crate::llm::LlmProvider::id).
    pub provider: String,
    /// Tokens of prompt and answer together.
    pub context_window: u32,
    /// Tokens of one answer.
    pub max_output_tokens: u32,
    /// Prices.
    #[serde(default)]
    pub price: ModelPrice,
    /// Whether it can see images.
    #[serde(default)]
    pub images: bool,
}

impl Model {
    /// A model with a window of 128,000 and answers of up to 4,096 tokens, and these prices per
    /// million tokens. Cached input costs what other input does; set `price.cache_read` and
    /// `price.cache_write` where it does not.
    #[must_use]
    pub fn priced(
        id: impl Into<String>,
        provider: impl Into<String>,
        input: NanoUsd,
        output: NanoUsd,
    ) -> Self {
        let price = ModelPrice {
            input,
            output,
            cache_read: input,
            cache_write: input,
        };
        Self {
            price,
            ..Self::free(id, provider)
        }
    }

    /// A model that costs nothing, with a window of 128,000 and answers of up to 4,096 tokens.
    #[must_use]
    pub fn free(id: impl Into<String>, provider: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            provider: provider.into(),
            context_window: 128_000,
            max_output_tokens: 4_096,
            price: ModelPrice::default(),
            images: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd_per_million(input: &str, output: &str) -> ModelPrice {
        ModelPrice {
            input: input.parse().unwrap(),
            output: output.parse().unwrap(),
            ..ModelPrice::default()
        }
    }

    #[test]
    fn cost_is_exact_for_hand_computed_rows() {
        // USD 3 / 15 per million: 1,543 in and 892 out are 4,629,000 + 13,380,000 nano-dollars.
        let usage = Usage {
            input: 1_543,
            output: 892,
            ..Usage::default()
        };
        assert_eq!(usd_per_million("3", "15").cost(usage), NanoUsd(18_009_000));
        // A price below one nano-dollar a token rounds the sum up once, not each token.
        let usage = Usage {
            input: 3,
            ..Usage::default()
        };
        assert_eq!(usd_per_million("0.0005", "0").cost(usage), NanoUsd(2));
    }

    #[test]
    fn the_worst_case_covers_a_cache_write_that_costs_more_than_input() {
        let mut price = usd_per_million("5", "25");
        price.cache_write = "6.25".parse().unwrap();
        let worst = price.worst_case(1_000, 100);
        let written = Usage {
            cache_write: 1_000,
            output: 100,
            ..Usage::default()
        };
        assert!(worst.usd >= price.cost(written));
        assert_eq!(worst.tokens, 1_100);
    }
}
