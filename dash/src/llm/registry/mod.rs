//! Models and providers as data: what a model costs, how long its window is, how it is told to
//! think, and where it is served.
//!
//! [`ModelRegistry::builtin`] knows a few; files and code add more, and replace what is there. The
//! file format is in `docs/reference/models.md`. Nothing here opens a connection or reads a
//! variable: the names of key variables are for programs that do.
//!
//! ```
//! use dash::llm::Model;
//! use dash::llm::registry::ModelRegistry;
//!
//! # fn main() -> dash::Result<()> {
//! let mut models = ModelRegistry::builtin();
//! models.add(Model::free("qwen", "local").into())?;
//! assert_eq!(models.find("anthropic/claude-opus-5")?.model().context_window, 1_000_000);
//! assert_eq!(models.find("qwen")?.provider, "local");
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::llm::{CompatPatch, Model, ModelPrice, ThinkingSupport};
use crate::{Error, ErrorKind, Result};

mod file;
mod near;
#[cfg(test)]
mod tests;

/// The table that comes with the engine.
const BUILTIN: &str = include_str!("builtin.json");

/// Where models are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderEntry {
    /// Its id: an [`LlmProvider::id`](crate::llm::LlmProvider::id).
    pub id: String,
    /// The dialect it speaks: a name of [`api`](crate::llm::api), or the implementer's own.
    pub api: String,
    /// Its usual base URL; one without a path gets the dialect's.
    pub base_url: String,
    /// Variables that usually hold its key, best first. The library reads none of them.
    pub key_vars: Vec<String>,
    /// The name of the preset for what kind of compatible server it is.
    pub preset: Option<String>,
}

/// What a model can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modality {
    /// Text.
    Text,
    /// Images.
    Image,
}

/// How capable and costly a model is, roughly, beside others of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelClass {
    /// For simple work in great numbers.
    Small,
    /// For most work.
    Medium,
    /// For the hardest work.
    Large,
}

/// What is known about a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// Its id, unique within its provider.
    pub id: String,
    /// The provider that serves it.
    pub provider: String,
    /// The name the server knows it by, if that is not its id.
    pub wire_id: Option<String>,
    /// Tokens of prompt and answer together; 0 = unknown.
    pub context_window: u32,
    /// Tokens of one answer.
    pub max_output_tokens: u32,
    /// What it can be sent.
    pub input: Vec<Modality>,
    /// How it is told to think; `None` = it does not, or cannot be told.
    pub thinking: Option<ThinkingSupport>,
    /// How it differs from what its compatible server usually wants.
    pub compat: Option<CompatPatch>,
    /// Prices.
    pub price: ModelPrice,
    /// The day on which the prices were true, `YYYY-MM-DD`.
    pub priced_on: Option<String>,
    /// Where the prices are from.
    pub source: Option<String>,
    /// Other names it is found by.
    pub aliases: Vec<String>,
    /// How capable and costly it is, roughly.
    pub class: Option<ModelClass>,
}

impl ModelEntry {
    /// The model as the engine takes it.
    #[must_use]
    pub fn model(&self) -> Model {
        Model {
            id: self.id.clone(),
            provider: self.provider.clone(),
            wire_id: self.wire_id.clone(),
            context_window: self.context_window,
            max_output_tokens: self.max_output_tokens,
            price: self.price.clone(),
            images: self.input.contains(&Modality::Image),
            thinking: self.thinking.clone(),
            compat: self.compat,
        }
    }

    /// Its provider and id: `anthropic/claude-opus-5`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.provider, self.id)
    }

    fn goes_by(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }
}

impl From<Model> for ModelEntry {
    fn from(model: Model) -> Self {
        let mut input = vec![Modality::Text];
        if model.images {
            input.push(Modality::Image);
        }
        Self {
            id: model.id,
            provider: model.provider,
            wire_id: model.wire_id,
            context_window: model.context_window,
            max_output_tokens: model.max_output_tokens,
            input,
            thinking: model.thinking,
            compat: model.compat,
            price: model.price,
            priced_on: None,
            source: None,
            aliases: Vec::new(),
            class: None,
        }
    }
}

/// Models and providers by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelRegistry {
    providers: BTreeMap<String, ProviderEntry>,
    /// By provider, then id.
    models: BTreeMap<(String, String), ModelEntry>,
}

impl ModelRegistry {
    /// A registry that knows nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// The models and providers that come with the engine. Prices change: each entry says on which
    /// day its prices were true and where they are from.
    #[must_use]
    pub fn builtin() -> Self {
        let mut registry = Self::empty();
        // A test shows that the table can be read.
        match registry.extend_from_json(BUILTIN) {
            Ok(()) => registry,
            Err(_) => Self::empty(),
        }
    }

    /// Adds what a file declares; an entry of the same provider and id is replaced whole. If the
    /// file is wrong, nothing changes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] with the field, as a path such as `models[2].price.input`, and where
    /// the text itself is at fault the line and column. Fields that are not known are errors.
    pub fn extend_from_json(&mut self, text: &str) -> Result<()> {
        let mut new = self.clone();
        file::extend(&mut new, text)?;
        *self = new;
        Ok(())
    }

    /// Adds a model, or replaces the one of the same provider and id. Its provider need not be
    /// known here.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if a name is empty, a price negative, or the tiers do not rise.
    pub fn add(&mut self, entry: ModelEntry) -> Result<()> {
        self.put_model(entry, "model")
    }

    /// Adds a provider, or replaces the one of the same id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if its id is empty or holds a `/`.
    pub fn add_provider(&mut self, entry: ProviderEntry) -> Result<()> {
        self.put_provider(entry, "provider")
    }

    /// The provider of this id.
    #[must_use]
    pub fn provider(&self, id: &str) -> Option<&ProviderEntry> {
        self.providers.get(id)
    }

    /// Every provider, by id.
    pub fn providers(&self) -> impl Iterator<Item = &ProviderEntry> {
        self.providers.values()
    }

    /// Every model, by provider and id.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.models.values()
    }

    /// The model of this name: `provider/id`, or its id alone where only one provider has it.
    /// Aliases count where no id does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] with names that are near and how to declare a model;
    /// [`ErrorKind::Invalid`] with the full names if there are several.
    pub fn find(&self, name: &str) -> Result<&ModelEntry> {
        if let Some((provider, id)) = name.split_once('/') {
            let key = (provider.to_owned(), id.to_owned());
            if let Some(entry) = self.models.get(&key) {
                return Ok(entry);
            }
        }
        let by_id = |entry: &&ModelEntry| entry.id == name;
        let by_alias = |entry: &&ModelEntry| match name.split_once('/') {
            Some((provider, alias)) if entry.provider == provider => entry.goes_by(alias),
            _ => entry.goes_by(name),
        };
        let mut found: Vec<&ModelEntry> = self.models().filter(by_id).collect();
        if found.is_empty() {
            found = self.models().filter(by_alias).collect();
        }
        match found.as_slice() {
            [] => Err(self.unknown(name)),
            [entry] => Ok(entry),
            several => {
                let names: Vec<String> = several.iter().map(|one| one.full_name()).collect();
                let names = names.join(", ");
                let issue = format!("`{name}` may be several models: say which of {names}");
                Err(Error::invalid("model", issue))
            }
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let names = self.models().flat_map(|entry| {
            let aliases = entry.aliases.iter().cloned();
            [entry.full_name(), entry.id.clone()]
                .into_iter()
                .chain(aliases)
        });
        let near = near::nearest(name, names);
        let near = if near.is_empty() {
            ": a".to_owned()
        } else {
            format!("; did you mean {}? A", near.join(", "))
        };
        let shown: String = name.chars().take(near::NAME_CHARS_MAX).collect();
        Error::new(
            ErrorKind::NotFound,
            format!(
                "no model `{shown}`{near} model is declared in a file, {{\"models\": [{{\"id\": \
                 …, \"provider\": …, \"price\": {{\"input\": \"0.25\", \"output\": \"2\"}}}}]}}, or \
                 in code, registry.add(Model::priced(…).into())"
            ),
        )
    }

    fn put_provider(&mut self, entry: ProviderEntry, path: &str) -> Result<()> {
        if entry.id.is_empty() || entry.id.contains('/') {
            let issue = "must not be empty or hold a `/`";
            return Err(Error::invalid(format!("{path}.id"), issue));
        }
        self.providers.insert(entry.id.clone(), entry);
        Ok(())
    }

    fn put_model(&mut self, entry: ModelEntry, path: &str) -> Result<()> {
        check(&entry, path)?;
        let key = (entry.provider.clone(), entry.id.clone());
        self.models.insert(key, entry);
        Ok(())
    }
}

fn check(entry: &ModelEntry, path: &str) -> Result<()> {
    let wrong = |field: &str, issue: &str| Err(Error::invalid(format!("{path}.{field}"), issue));
    if entry.id.is_empty() {
        return wrong("id", "must not be empty");
    }
    if entry.provider.is_empty() || entry.provider.contains('/') {
        return wrong("provider", "must not be empty or hold a `/`");
    }
    if entry.max_output_tokens == 0 {
        return wrong(
            "maxOutputTokens",
            "must be at least 1; leave it out for 4096",
        );
    }
    if let Some(day) = entry.priced_on.as_deref().filter(|day| !is_day(day)) {
        return wrong(
            "pricedOn",
            &format!("`{day}` is not a day such as 2026-08-22"),
        );
    }
    if entry.aliases.iter().any(String::is_empty) {
        return wrong("aliases", "must not hold an empty name");
    }
    let price = &entry.price;
    let base = [
        price.input,
        price.output,
        price.cache_read,
        price.cache_write,
        price.cache_write_long,
    ];
    if base.iter().any(|usd| usd.is_negative()) {
        return wrong("price", "must not be negative");
    }
    let mut above = 0;
    for (at, tier) in price.tiers.iter().enumerate() {
        if tier.input_above <= above {
            let field = format!("price.tiers[{at}].inputAbove");
            return wrong(&field, &format!("must be more than {above}: tiers rise"));
        }
        above = tier.input_above;
        let parts = [
            tier.input,
            tier.output,
            tier.cache_read,
            tier.cache_write,
            tier.cache_write_long,
        ];
        if parts.iter().any(|usd| usd.is_negative()) {
            return wrong(&format!("price.tiers[{at}]"), "must not be negative");
        }
    }
    Ok(())
}

/// Whether a text is a day of the form `YYYY-MM-DD`.
fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts.as_slice() else {
        return false;
    };
    let number = |part: &str, digits: usize| {
        let plain = part.len() == digits && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse::<u32>().ok()).flatten()
    };
    number(year, 4).is_some()
        && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
        && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
}
