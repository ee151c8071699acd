//! The file format of the registry: strict, since a typo in a price is money.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Visitor};

use super::{Modality, ModelClass, ModelEntry, ModelRegistry, ProviderEntry};
use crate::llm::{
    CompatPatch, ModelPrice, PriceTier, ThinkingLevel, ThinkingMode, ThinkingSupport, api,
};
use crate::model::NanoUsd;
use crate::{Error, Result};

/// Output tokens of a model whose entry does not say.
const OUTPUT_TOKENS_USUAL: u32 = 4_096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct File {
    #[serde(default)]
    providers: Vec<FileProvider>,
    #[serde(default)]
    models: Vec<FileModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileProvider {
    id: String,
    api: String,
    base_url: String,
    #[serde(default)]
    key_vars: Vec<String>,
    preset: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileModel {
    id: String,
    provider: String,
    wire_id: Option<String>,
    #[serde(default)]
    context_window: u32,
    #[serde(default = "usual_output")]
    max_output_tokens: u32,
    #[serde(default = "text_only")]
    input: Vec<Modality>,
    thinking: Option<FileThinking>,
    compat: Option<CompatPatch>,
    price: FilePrice,
    priced_on: Option<String>,
    source: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
    class: Option<ModelClass>,
}

const fn usual_output() -> u32 {
    OUTPUT_TOKENS_USUAL
}

fn text_only() -> Vec<Modality> {
    vec![Modality::Text]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileThinking {
    mode: ThinkingMode,
    #[serde(default)]
    levels: std::collections::BTreeMap<ThinkingLevel, Option<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FilePrice {
    input: Usd,
    output: Usd,
    cache_read: Option<Usd>,
    cache_write: Option<Usd>,
    cache_write_long: Option<Usd>,
    #[serde(default)]
    tiers: Vec<FileTier>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FileTier {
    input_above: u64,
    input: Usd,
    output: Usd,
    cache_read: Option<Usd>,
    cache_write: Option<Usd>,
    cache_write_long: Option<Usd>,
}

/// Dollars as text.
#[derive(Clone, Copy)]
struct Usd(NanoUsd);

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Dollars;

        impl Visitor<'_> for Dollars {
            type Value = Usd;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "dollars per million tokens as text, e.g. \"0.25\", so that they are exact",
                )
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Usd, E> {
                match text.parse::<NanoUsd>() {
                    Ok(usd) if !usd.is_negative() => Ok(Usd(usd)),
                    Ok(_) => Err(E::custom(format!("`{text}` is negative: a price is not"))),
                    Err(_) => Err(E::custom(format!(
                        "`{text}` is not a price: write dollars per million tokens with at most \
                         nine decimals, e.g. \"0.25\""
                    ))),
                }
            }
        }

        deserializer.deserialize_str(Dollars)
    }
}

/// Reads a file into the registry.
pub(super) fn extend(registry: &mut ModelRegistry, text: &str) -> Result<()> {
    let file = parse(text)?;
    let mut seen = BTreeSet::new();
    for (at, provider) in file.providers.into_iter().enumerate() {
        let path = format!("providers[{at}]");
        if !seen.insert(provider.id.clone()) {
            let issue = format!("`{}` is in the file twice: keep one", provider.id);
            return Err(Error::invalid(format!("{path}.id"), issue));
        }
        registry.put_provider(provider.entry(&path)?, &path)?;
    }
    let mut seen = BTreeSet::new();
    for (at, model) in file.models.into_iter().enumerate() {
        let path = format!("models[{at}]");
        if !seen.insert((model.provider.clone(), model.id.clone())) {
            let issue = format!(
                "`{}/{}` is in the file twice: keep one",
                model.provider, model.id
            );
            return Err(Error::invalid(format!("{path}.id"), issue));
        }
        let Some(provider) = registry.provider(&model.provider) else {
            let known: Vec<&str> = registry.providers().map(|one| one.id.as_str()).collect();
            let issue = format!(
                "there is no provider `{}`: declare it under `providers`, or use one of: {}",
                model.provider,
                known.join(", ")
            );
            return Err(Error::invalid(format!("{path}.provider"), issue));
        };
        let is_anthropic = provider.api == api::ANTHROPIC;
        registry.put_model(model.entry(is_anthropic), &path)?;
    }
    Ok(())
}

fn parse(text: &str) -> Result<File> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let file = serde_path_to_error::deserialize(&mut reader).map_err(|err| {
        let path = err.path().to_string();
        let path = match path.trim_end_matches('?').trim_end_matches('.') {
            "" => "models file",
            path => path,
        };
        Error::invalid(path, err.inner().to_string())
    })?;
    reader
        .end()
        .map_err(|err| Error::invalid("models file", err.to_string()))?;
    Ok(file)
}

impl FileProvider {
    fn entry(self, path: &str) -> Result<ProviderEntry> {
        const KNOWN: [&str; 4] = [
            api::ANTHROPIC,
            api::OPENAI_RESPONSES,
            api::OPENAI_CHAT,
            api::GEMINI,
        ];
        if !KNOWN.contains(&self.api.as_str()) {
            let known = KNOWN.join(", ");
            let issue = format!("`{}` is not a dialect; there are: {known}", self.api);
            return Err(Error::invalid(format!("{path}.api"), issue));
        }
        Ok(ProviderEntry {
            id: self.id,
            api: self.api,
            base_url: self.base_url,
            key_vars: self.key_vars,
            preset: self.preset,
        })
    }
}

impl FileModel {
    fn entry(self, is_anthropic: bool) -> ModelEntry {
        let thinking = self.thinking.map(|thinking| ThinkingSupport {
            mode: thinking.mode,
            levels: thinking.levels,
        });
        ModelEntry {
            id: self.id,
            provider: self.provider,
            wire_id: self.wire_id,
            context_window: self.context_window,
            max_output_tokens: self.max_output_tokens,
            input: self.input,
            thinking,
            compat: self.compat,
            price: self.price.price(is_anthropic),
            priced_on: self.priced_on,
            source: self.source,
            aliases: self.aliases,
            class: self.class,
        }
    }
}

impl FilePrice {
    fn price(self, is_anthropic: bool) -> ModelPrice {
        let Self {
            input,
            output,
            cache_read,
            cache_write,
            cache_write_long,
            tiers,
        } = self;
        let base = FileTier {
            input_above: 0,
            input,
            output,
            cache_read,
            cache_write,
            cache_write_long,
        };
        let base = base.tier(is_anthropic);
        ModelPrice {
            input: base.input,
            output: base.output,
            cache_read: base.cache_read,
            cache_write: base.cache_write,
            cache_write_long: base.cache_write_long,
            tiers: tiers
                .into_iter()
                .map(|tier| tier.tier(is_anthropic))
                .collect(),
        }
    }
}

impl FileTier {
    /// With the prices that were not said: a cache costs what other input does, unless Anthropic
    /// keeps it for an hour, which is twice the price of input.
    fn tier(self, is_anthropic: bool) -> PriceTier {
        let Usd(input) = self.input;
        let long = if is_anthropic {
            input + input
        } else {
            NanoUsd::ZERO
        };
        PriceTier {
            input_above: self.input_above,
            input,
            output: self.output.0,
            cache_read: self.cache_read.map_or(input, |usd| usd.0),
            cache_write: self.cache_write.map_or(input, |usd| usd.0),
            cache_write_long: self.cache_write_long.map_or(long, |usd| usd.0),
        }
    }
}
