//! `ovhost infer`: pictures and a question to an answer, token by token.

use std::{
    fs,
    io::{IsTerminal, Write},
    ops::ControlFlow,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::Ordering,
};

use anyhow::{Context, Result, ensure};
use ovhost_data::{ChatTokenizer, ImageProcessor};
use ovhost_infer::{GenerationConfig, Generator, Prompt};
use ovhost_model::{LlavaOnevision, LoadOptions, ModelConfig};
use ovhost_plugin::{Message, Part, Rendered};
use tch::Kind;

use crate::{console, wiring};

/// Arguments of `ovhost infer`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  ovhost infer --model runs/x/model --image cat.jpg --prompt \"What is this?\"
  ovhost infer --model M --image a.png --image b.png --prompt \"Which one is larger?\" --max-new-tokens 64
  ovhost infer --model M --prompt \"Tell me a story.\" --temperature 0.8 --top-p 0.95 --seed 7 --json

What is not given comes from the model folder's generation_config.json. Pictures stand before the question.")]
pub struct Args {
    /// Model folder in Hugging Face layout
    #[arg(long)]
    model: PathBuf,
    /// A picture (repeatable)
    #[arg(long)]
    image: Vec<PathBuf>,
    /// The question
    #[arg(long)]
    prompt: String,
    /// System message
    #[arg(long)]
    system: Option<String>,
    /// Print one JSON object instead of the text as it comes
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: Sampling,
    /// auto, cpu, cuda, cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// fp32 or bf16; the default is bf16 on CUDA, fp32 on the CPU
    #[arg(long)]
    precision: Option<String>,
}

/// How tokens are picked.
#[derive(clap::Args)]
pub struct Sampling {
    /// Most tokens of the answer
    #[arg(long)]
    max_new_tokens: Option<usize>,
    /// Draw tokens, with the logits divided by this; 0 is greedy
    #[arg(long)]
    temperature: Option<f64>,
    /// Draw only from the likeliest tokens that together have this probability
    #[arg(long)]
    top_p: Option<f64>,
    /// Draw only from this many likeliest tokens; 0 is no limit
    #[arg(long)]
    top_k: Option<usize>,
    /// Text that ends the answer (repeatable)
    #[arg(long)]
    stop: Vec<String>,
    /// Seed of the draws
    #[arg(long)]
    seed: Option<u64>,
}

impl Sampling {
    fn apply(self, config: &mut GenerationConfig) {
        if let Some(n) = self.max_new_tokens {
            config.max_new_tokens = n;
        }
        if let Some(t) = self.temperature {
            config.do_sample = t != 0.0;
            config.temperature = if t == 0.0 { 1.0 } else { t };
        }
        // Asking for top-p or top-k means drawing.
        config.do_sample |= self.temperature.is_none() && (self.top_p.is_some() || self.top_k.is_some());
        config.top_p = self.top_p.unwrap_or(config.top_p);
        config.top_k = self.top_k.unwrap_or(config.top_k);
        config.seed = self.seed.unwrap_or(config.seed);
        config.stop_strings.extend(self.stop);
    }
}

/// The precision that a flag names, or the device's own.
pub fn precision(name: Option<&str>, device: tch::Device) -> Result<Kind> {
    match name {
        None if device.is_cuda() => Ok(Kind::BFloat16),
        None | Some("fp32") => Ok(Kind::Float),
        Some("bf16") => Ok(Kind::BFloat16),
        Some(other) => anyhow::bail!("--precision {other} is not known; fp32 and bf16 are"),
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let device = wiring::device(&args.device, 0)?;
    let kind = precision(args.precision.as_deref(), device)?;
    let chat = ChatTokenizer::from_folder(&args.model)?;
    chat.check_vocab(usize::try_from(ModelConfig::from_folder(&args.model)?.text.vocab_size)?)?;
    let (input_ids, pixel_values, grid_thw) = prompt(&args, &chat)?;
    let mut config = GenerationConfig::from_folder(&args.model)?;
    args.sampling.apply(&mut config);
    let model = LlavaOnevision::load(&args.model, &LoadOptions { device, kind })?;
    let decode = |ids: &[i64]| chat.decode(&tokens(ids), true).map_err(|e| e.to_string());
    let generator = Generator::new(&model, config)?.with_decoder(decode);
    let stop = console::stop_flag(console::AFTER_THIS_STEP)?;
    let mut stream = chat.stream_decoder(true);
    let (mut shown, mut held) = (String::new(), String::new());
    let stops = generator.config().stop_strings.clone();
    let mut show = |_: usize, id: i64| {
        let text = u32::try_from(id).ok().and_then(|id| stream.push(id).ok()).unwrap_or_default();
        if !args.json {
            held.push_str(&text);
            let ready: String = held.drain(..held.len() - undecided(&held, &stops)).collect();
            let mut out = std::io::stdout();
            if out.write_all(ready.as_bytes()).and_then(|()| out.flush()).is_err() {
                return ControlFlow::Break(());
            }
            shown.push_str(&ready);
        }
        if stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let begin = std::time::Instant::now();
    let prompts = [Prompt { input_ids, pixel_values, grid_thw }];
    let answer = generator.generate(&prompts, Some(&mut show))?.pop().context("the generator gave no answer")?;
    let seconds = begin.elapsed().as_secs_f64();
    let text = chat.decode(&tokens(&answer.ids), true)?;
    let text = answer.stop_string.as_deref().and_then(|s| text.split(s).next()).unwrap_or(&text);
    if args.json {
        let line = serde_json::json!({
            "text": text, "finish_reason": answer.finish_reason, "prompt_tokens": answer.prompt_tokens,
            "answer_tokens": answer.ids.len(), "seconds": seconds,
        });
        println!("{line}");
    } else {
        println!("{}", text.strip_prefix(shown.as_str()).unwrap_or_default());
    }
    if std::io::stderr().is_terminal() && !args.json {
        eprintln!("({} prompt tokens, {} answer tokens, {:.2} s)", answer.prompt_tokens, answer.ids.len(), seconds);
    }
    Ok(if stop.load(Ordering::SeqCst) { console::interrupted() } else { ExitCode::SUCCESS })
}

/// Bytes at the end of `text` that may belong to a stop string: the whole rest from where one begins, or the longest
/// end that is the beginning of one. They are not shown yet.
fn undecided(text: &str, stops: &[String]) -> usize {
    let begun = |stop: &String| {
        let whole = text.find(stop.as_str()).map_or(0, |at| text.len() - at);
        let part =
            (1..=stop.len().min(text.len())).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n]));
        whole.max(part.unwrap_or(0))
    };
    stops.iter().map(begun).max().unwrap_or(0)
}

fn tokens(ids: &[i64]) -> Vec<u32> {
    ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect()
}

/// Token ids, patches and grids of the question and its pictures.
type Encoded = (Vec<i64>, Vec<f32>, Vec<[i64; 3]>);

fn prompt(args: &Args, chat: &ChatTokenizer) -> Result<Encoded> {
    let images = ImageProcessor::from_folder(&args.model)?;
    let (mut pixels, mut grids, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    let merged = usize::try_from(images.merge_size * images.merge_size)?;
    for path in &args.image {
        let bytes = fs::read(path).with_context(|| format!("reading the picture {}", path.display()))?;
        let picture = images.process(&bytes).with_context(|| path.display().to_string())?;
        counts.push(usize::try_from(picture.grid.iter().product::<i64>())? / merged);
        pixels.extend(picture.data);
        grids.push(picture.grid);
    }
    ensure!(
        !args.prompt.is_empty() || !args.image.is_empty(),
        "--prompt is empty and there is no --image: nothing to answer"
    );
    let parts = (0..args.image.len() as u32).map(Part::Image).chain([Part::Text(args.prompt.clone())]).collect();
    let system =
        args.system.iter().map(|s| Message { role: "system".into(), parts: vec![Part::Text(s.clone())], train: false });
    let messages = system.chain([Message { role: "user".into(), parts, train: false }]).collect();
    let encoded = chat.encode_prompt(&Rendered::Conversation(messages), &counts)?;
    Ok((encoded.input_ids.iter().map(|&id| i64::from(id)).collect(), pixels, grids))
}

#[cfg(test)]
mod tests {
    use super::undecided;

    #[test]
    fn holds_back_what_may_become_a_stop_string() {
        let stops = ["\n\n".to_owned(), "END".to_owned()];
        assert_eq!(undecided("hello", &stops), 0);
        assert_eq!(undecided("hello\n", &stops), 1);
        assert_eq!(undecided("hello E", &stops), 1);
        assert_eq!(undecided("hello END and", &stops), "END and".len());
        assert_eq!(undecided("anything", &[]), 0);
    }
}
