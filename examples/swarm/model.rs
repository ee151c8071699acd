//! Which model the swarm asks.

use std::sync::Arc;
use std::time::Duration;

use dash::Result;
use dash::llm::http::HttpProvider;
use dash::llm::{Model, ScriptedLlm};

use crate::options::Options;
use crate::script;
use crate::server::{Target, declared, variable};

/// The model that is asked for if none is said.
const DEFAULT: &str = "gpt-5-mini";

/// The provider that was named; else OpenAI or what imitates it, if there is a key or an address;
/// else the scripted model.
pub(crate) async fn choose(options: &Options) -> Result<Target> {
    let flags = &options.server;
    if let Some(name) = &flags.provider {
        let mut target = flags.connect(name).await?;
        target.about = format!("{}, of {name}", target.about);
        return Ok(target);
    }
    let key = variable("OPENAI_API_KEY");
    let base = flags.base_url.clone();
    let base = base.or_else(|| variable("OPENAI_BASE_URL"));
    let base = base.or_else(|| key.as_ref().map(|_| "https://api.openai.com/v1".to_owned()));
    let registry = flags.registry()?;
    let Some(base) = base else {
        return scripted(options);
    };
    let id = flags.model.as_deref().unwrap_or(DEFAULT);
    let (input, output) = (flags.input_price, flags.output_price);
    let mut about = format!("{id} at {base}");
    let model = match declared(&registry, "openai", id) {
        Ok(model) if input.is_none() && output.is_none() => model,
        _ => {
            if input.is_none() && output.is_none() {
                about.push_str(", priced as ");
                about.push_str(DEFAULT);
                about.push_str(" (see --input-price and --output-price)");
            }
            let usual = declared(&registry, "openai", DEFAULT)?.price;
            let input = input.unwrap_or(usual.input);
            Model::priced(id, "openai", input, output.unwrap_or(usual.output))
        }
    };
    let mut provider = HttpProvider::openai_chat(base).id("openai");
    if let Some(key) = key {
        provider = provider.api_key(key.into());
    }
    Ok(Target {
        provider: Arc::new(provider.build()?),
        model,
        about,
    })
}

fn scripted(options: &Options) -> Result<Target> {
    let pace = Duration::from_millis(options.pace);
    let script = ScriptedLlm::new("scripted", move |request| script::answer(request, pace));
    let (input, output) = ("0.25".parse()?, "2.00".parse()?);
    Ok(Target {
        provider: Arc::new(script),
        model: Model::priced("scripted", "scripted", input, output),
        about: "scripted (no --provider, no --base-url and no OPENAI_API_KEY); prices are for show"
            .to_owned(),
    })
}
