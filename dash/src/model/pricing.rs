//! Models as data: windows, limits and prices, and the exact cost of a call.

use serde::{Deserialize, Serialize};

use super::compat::CompatPatch;
use super::thinking::ThinkingSupport;
use super::{Amount, NanoUsd, Usage};

/// Prices of a model per million tokens, in nano-dollars: USD 3 per million is 3,000,000,000.
///
/// All zero = a model that costs nothing, such as a local one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// Input written to a cache that keeps it for an hour; 0 = as `cache_write`.
    #[serde(skip_serializing_if = "NanoUsd::is_zero")]
    pub cache_write_long: NanoUsd,
    /// Other prices for whole calls with long prompts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<PriceTier>,
}

/// Prices of calls whose prompt is longer than a limit. All of the call is billed at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PriceTier {
    /// Tokens of prompt, cached or not, above which the tier counts.
    pub input_above: u64,
    /// Uncached input.
    pub input: NanoUsd,
    /// Output, reasoning included.
    pub output: NanoUsd,
    /// Input read from a cache.
    pub cache_read: NanoUsd,
    /// Input written to a cache.
    pub cache_write: NanoUsd,
    /// Input written to a cache that keeps it for an hour; 0 = as `cache_write`.
    #[serde(skip_serializing_if = "NanoUsd::is_zero")]
    pub cache_write_long: NanoUsd,
}

impl PriceTier {
    const fn write_long(self) -> NanoUsd {
        if self.cache_write_long.0 == 0 {
            self.cache_write
        } else {
            self.cache_write_long
        }
    }

    fn cost(self, usage: Usage) -> NanoUsd {
        let part = |tokens: u64, price: NanoUsd| i128::from(tokens) * i128::from(price.0);
        let long = usage.cache_write_long.min(usage.cache_write);
        let scaled = part(usage.input, self.input)
            + part(usage.output, self.output)
            + part(usage.cache_read, self.cache_read)
            + part(usage.cache_write - long, self.cache_write)
            + part(long, self.write_long());
        let nanos = scaled.max(0).div_ceil_positive(PER_MILLION);
        NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

const PER_MILLION: i128 = 1_000_000;

impl ModelPrice {
    /// The prices below the first tier.
    const fn base(&self) -> PriceTier {
        PriceTier {
            input_above: 0,
            input: self.input,
            output: self.output,
            cache_read: self.cache_read,
            cache_write: self.cache_write,
            cache_write_long: self.cache_write_long,
        }
    }

    /// What `usage` costs, rounded up to a whole nano-dollar. The tier with the highest limit below
    /// the prompt counts.
    #[must_use]
    pub fn cost(&self, usage: Usage) -> NanoUsd {
        let prompt = usage.prompt();
        let tiers = self.tiers.iter().filter(|tier| prompt > tier.input_above);
        let tier = tiers.max_by_key(|tier| tier.input_above);
        tier.copied().unwrap_or_else(|| self.base()).cost(usage)
    }

    /// The most that `input` tokens of prompt and `output` tokens of answer can cost, whatever the
    /// cache does and however much shorter the prompt turns out to be.
    #[must_use]
    pub fn worst_case(&self, input: u64, output: u64) -> Amount {
        let usage = Usage {
            input,
            output,
            ..Usage::default()
        };
        let tiers = self.tiers.iter().filter(|tier| input > tier.input_above);
        let worst = tiers.copied().chain([self.base()]).map(|tier| {
            let cached = tier.cache_read.max(tier.cache_write).max(tier.write_long());
            let input = tier.input.max(cached);
            PriceTier { input, ..tier }.cost(usage)
        });
        Amount {
            usd: worst.max().unwrap_or_default(),
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
    /// The name the server knows it by, if that is not its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire_id: Option<String>,
    /// Tokens of prompt and answer together; 0 = unknown.
    #[serde(default)]
    pub context_window: u32,
    /// Tokens of one answer.
    pub max_output_tokens: u32,
    /// Prices.
    #[serde(default)]
    pub price: ModelPrice,
    /// Whether it can see images.
    #[serde(default)]
    pub images: bool,
    /// How it is told to think; `None` = it does not, or cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<ThinkingSupport>,
    /// How its Chat Completions differ from what its server usually does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compat: Option<CompatPatch>,
}

impl Model {
    /// A model of unknown window, with answers of up to 4,096 tokens and these prices per million
    /// tokens. Cached input costs what other input does; set `price.cache_read` and
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
            ..ModelPrice::default()
        };
        Self {
            price,
            ..Self::free(id, provider)
        }
    }

    /// A model that costs nothing, of unknown window and with answers of up to 4,096 tokens.
    #[must_use]
    pub fn free(id: impl Into<String>, provider: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            provider: provider.into(),
            wire_id: None,
            context_window: 0,
            max_output_tokens: 4_096,
            price: ModelPrice::default(),
            images: false,
            thinking: None,
            compat: None,
        }
    }

    /// The name to ask the server for.
    #[must_use]
    pub fn wire_id(&self) -> &str {
        self.wire_id.as_deref().unwrap_or(&self.id)
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
    fn a_long_prompt_is_billed_whole_at_its_tier() {
        // 2.5 / 15 / 0.25 up to 272,000 tokens of prompt, 5 / 22.5 / 0.5 above.
        let mut price = usd_per_million("2.5", "15");
        price.cache_read = "0.25".parse().unwrap();
        price.tiers.push(PriceTier {
            input_above: 272_000,
            input: "5".parse().unwrap(),
            output: "22.5".parse().unwrap(),
            cache_read: "0.5".parse().unwrap(),
            ..PriceTier::default()
        });
        let usage = |input, cache_read| Usage {
            input,
            cache_read,
            output: 10,
            ..Usage::default()
        };
        // 100,000 * 2,500 + 172,000 * 250 + 10 * 15,000
        assert_eq!(price.cost(usage(100_000, 172_000)), NanoUsd(293_150_000));
        // 100,000 * 5,000 + 172,001 * 500 + 10 * 22,500
        assert_eq!(price.cost(usage(100_000, 172_001)), NanoUsd(586_225_500));
        assert!(price.worst_case(272_001, 10).usd >= price.cost(usage(272_001, 0)));
        assert!(price.worst_case(272_001, 10).usd > price.worst_case(272_000, 10).usd);
    }

    #[test]
    fn writing_to_a_cache_for_an_hour_has_its_own_price() {
        let mut price = usd_per_million("5", "25");
        price.cache_write = "6.25".parse().unwrap();
        price.cache_write_long = "10".parse().unwrap();
        let usage = Usage {
            cache_write: 1_000,
            cache_write_long: 400,
            ..Usage::default()
        };
        // 600 * 6,250 + 400 * 10,000
        assert_eq!(price.cost(usage), NanoUsd(7_750_000));
        assert_eq!(price.worst_case(1_000, 0).usd, NanoUsd(10_000_000));
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
