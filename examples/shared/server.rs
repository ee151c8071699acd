//! Flags that say which server and which model to use, and what becomes of them. For programs: the
//! library itself reads no variable and no file.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use dash::Error;
use dash::llm::http::{HttpProvider, HttpProviderBuilder};
use dash::llm::openai_chat::Preset;
use dash::llm::registry::{ModelRegistry, ProviderEntry};
use dash::llm::{LlmProvider, Model};
use dash::model::NanoUsd;

/// How long a server may take to tell its models.
const ASK_MAX: Duration = Duration::from_secs(5);

/// The server and the model.
#[derive(Debug, Args)]
pub(crate) struct ServerFlags {
    /// Whose model: anthropic, openai (Chat Completions), openai-responses, gemini, compat (any
    /// server that speaks Chat Completions, see --base-url), a preset (openrouter, groq, deepseek,
    /// mistral, xai, ollama, lmstudio, llama.cpp, vllm) or a provider of --models. Keys come from
    /// their usual variables, e.g. $ANTHROPIC_API_KEY
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,

    /// Where the server is, if not at its usual place
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,

    /// The model to ask for on that server
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,

    /// A file that declares more models and providers (docs/reference/models.md)
    #[arg(long, value_name = "FILE")]
    pub(crate) models: Option<PathBuf>,

    /// Dollars per million input tokens, for a model that is not declared
    #[arg(long, value_name = "USD", value_parser = price)]
    pub(crate) input_price: Option<NanoUsd>,

    /// Dollars per million output tokens, for a model that is not declared
    #[arg(long, value_name = "USD", value_parser = price)]
    pub(crate) output_price: Option<NanoUsd>,
}

/// A server that can be asked, and the model to ask for.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) provider: Arc<dyn LlmProvider>,
    pub(crate) model: Model,
    /// One line for people.
    pub(crate) about: String,
}

/// Where a provider is, and what it wants.
struct Place {
    builder: HttpProviderBuilder,
    /// The provider's id, as models name it.
    id: String,
    base: String,
    key_vars: Vec<String>,
    needs_key: bool,
    /// Whether models that are not declared cost nothing.
    is_free: bool,
    /// The model if none is said.
    model: Option<&'static str>,
}

impl ServerFlags {
    /// The models and providers that come along, and those of the file.
    pub(crate) fn registry(&self) -> dash::Result<ModelRegistry> {
        let mut registry = ModelRegistry::builtin();
        if let Some(path) = &self.models {
            let read = std::fs::read_to_string(path);
            let text = read.map_err(|err| {
                let issue = format!("`{}` cannot be read", path.display());
                Error::invalid("--models", issue).with_source(err)
            })?;
            let wrong = |err| {
                let issue = format!("`{}` is wrong", path.display());
                Error::invalid("--models", issue).with_source(err)
            };
            registry.extend_from_json(&text).map_err(wrong)?;
        }
        Ok(registry)
    }

    /// The provider of this name, ready to be asked, and the model.
    pub(crate) async fn connect(&self, name: &str) -> dash::Result<Target> {
        let registry = self.registry()?;
        let place = self.place(&registry, name)?;
        let key = place.key_vars.iter().find_map(|name| variable(name));
        if key.is_none() && place.needs_key {
            let variables = place.key_vars.join(" or ");
            let issue = format!("`{name}` needs a key: set {variables}");
            return Err(Error::invalid("--provider", issue));
        }
        let mut model = self.model_of(&registry, &place, name)?;
        let mut builder = place.builder;
        if let Some(key) = key {
            builder = builder.api_key(key.into());
        }
        let provider = builder.build()?;
        if model.context_window == 0 {
            // Some servers tell; others leave it unknown.
            let told = tokio::time::timeout(ASK_MAX, provider.models()).await;
            let told = told.ok().and_then(Result::ok).unwrap_or_default();
            let same = told.iter().find(|one| one.wire_id() == model.wire_id());
            model.context_window = same.map_or(0, |one| one.context_window);
        }
        let window = match model.context_window {
            0 => "of unknown window".to_owned(),
            tokens => format!("with a window of {tokens} tokens"),
        };
        let about = format!(
            "{} at {}, {window}, {} in and {} out per million tokens",
            model.wire_id(),
            place.base,
            model.price.input,
            model.price.output
        );
        Ok(Target {
            provider: Arc::new(provider),
            model,
            about,
        })
    }

    fn place(&self, registry: &ModelRegistry, name: &str) -> dash::Result<Place> {
        let hosted = |id: &str, make: fn(String) -> HttpProviderBuilder, model| {
            let entry = registry.provider(id).ok_or_else(|| unknown(name))?;
            let base = self.base_or(&entry.base_url);
            Ok(place(entry, make(base.clone()).id(id), base, Some(model)))
        };
        match name {
            "anthropic" => hosted("anthropic", HttpProvider::anthropic, "claude-haiku-4-5"),
            "openai" => hosted("openai", HttpProvider::openai_chat, "gpt-5-mini"),
            "openai-responses" => hosted("openai", HttpProvider::openai_responses, "gpt-5-mini"),
            "gemini" | "google" => hosted("google", HttpProvider::gemini, "gemini-2.5-flash"),
            "compat" => {
                let Some(base) = self.base_url.clone() else {
                    let issue = "`compat` needs the address of a server that speaks Chat \
                                 Completions";
                    return Err(Error::invalid("--base-url", issue));
                };
                Ok(Place {
                    builder: HttpProvider::openai_chat(base.clone()).id("compat"),
                    id: "compat".to_owned(),
                    base,
                    key_vars: vec!["OPENAI_API_KEY".to_owned()],
                    needs_key: false,
                    is_free: false,
                    model: None,
                })
            }
            _ => match registry.provider(name) {
                Some(entry) => {
                    let base = self.base_or(&entry.base_url);
                    let builder = HttpProvider::registered(entry)?.base_url(base.clone());
                    Ok(place(entry, builder, base, None))
                }
                None => self.preset(name),
            },
        }
    }

    fn preset(&self, name: &str) -> dash::Result<Place> {
        let preset = Preset::find(name).map_err(|_unknown| unknown(name))?;
        let base = self.base_or(preset.base_url);
        Ok(Place {
            builder: HttpProvider::compatible(preset).base_url(base.clone()),
            id: preset.name.to_owned(),
            key_vars: preset.key_vars.iter().map(|&var| var.to_owned()).collect(),
            needs_key: preset.needs_key && is_remote(&base),
            // What runs on one's own machine has no bill.
            is_free: !preset.needs_key && !is_remote(&base),
            model: None,
            base,
        })
    }

    fn base_or(&self, usual: &str) -> String {
        self.base_url.clone().unwrap_or_else(|| usual.to_owned())
    }

    /// The model with its window and prices: declared, else of the flags. Never free by accident.
    fn model_of(&self, registry: &ModelRegistry, place: &Place, name: &str) -> dash::Result<Model> {
        let Some(id) = self.model.as_deref().or(place.model) else {
            let issue = format!("say which model of `{name}` to ask for");
            return Err(Error::invalid("--model", issue));
        };
        let declared = declared(registry, &place.id, id);
        match (declared, self.input_price, self.output_price) {
            (Ok(model), None, None) => Ok(model),
            (Ok(mut model), input, output) => {
                let input = input.unwrap_or(model.price.input);
                let output = output.unwrap_or(model.price.output);
                model.price = Model::priced("", "", input, output).price;
                Ok(model)
            }
            (Err(_), Some(input), Some(output)) => Ok(Model::priced(id, &place.id, input, output)),
            (Err(_), None, None) if place.is_free => Ok(Model::free(id, &place.id)),
            (Err(err), ..) => {
                let issue = format!(
                    "its price is not known: say --input-price and --output-price, or declare it \
                     in a file and say --models FILE ({err})"
                );
                Err(Error::invalid("--model", issue))
            }
        }
    }
}

/// The model of this provider by its id or an alias.
pub(crate) fn declared(registry: &ModelRegistry, provider: &str, id: &str) -> dash::Result<Model> {
    let own = registry.find(&format!("{provider}/{id}"));
    // `--model anthropic/claude-opus-5` says the provider again.
    let full = || registry.find(id).ok();
    match own {
        Ok(entry) => Ok(entry.model()),
        Err(err) => match full().filter(|entry| entry.provider == provider) {
            Some(entry) => Ok(entry.model()),
            None => Err(err),
        },
    }
}

fn place(
    entry: &ProviderEntry,
    builder: HttpProviderBuilder,
    base: String,
    model: Option<&'static str>,
) -> Place {
    Place {
        builder,
        id: entry.id.clone(),
        key_vars: entry.key_vars.clone(),
        needs_key: !entry.key_vars.is_empty() && is_remote(&base),
        is_free: false,
        model,
        base,
    }
}

/// Services out there speak TLS; a server of one's own is taken at its word.
fn is_remote(base: &str) -> bool {
    !base.trim().to_ascii_lowercase().starts_with("http://")
}

fn unknown(name: &str) -> Error {
    let presets: Vec<&str> = Preset::ALL.iter().map(|preset| preset.name).collect();
    let issue = format!(
        "`{name}` is none of: anthropic, openai, openai-responses, gemini, compat, {}; others are \
         declared in a file (--models FILE)",
        presets.join(", ").replace("openai, ", "")
    );
    Error::invalid("--provider", issue)
}

fn price(text: &str) -> Result<NanoUsd, String> {
    match text.parse::<NanoUsd>() {
        Ok(price) if price.is_negative() => Err("must not be negative".to_owned()),
        Ok(price) => Ok(price),
        Err(err) => Err(err.to_string()),
    }
}

/// A variable of the environment, if it is set and not empty.
#[expect(
    clippy::disallowed_methods,
    reason = "a program may read its environment, the library not"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .filter(|value| !value.trim().is_empty())
}
