//! Run folders → one HTML page with their curves, for a browser without a server.
//!
//! ```text
//!  RUN/metrics.jsonl ─► series by key ─► at most 1,000 points each (means of neighbours) ─► SVG ─┐
//!  RUN/run.json, guards.jsonl, rejects.jsonl ─► a table ─────────────────────────────────────────┴─► report.html
//! ```
//! Several runs are drawn over each other, a colour each.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use minijinja::{Environment, Value as Shown, context};
use plotters::prelude::*;
use serde_json::Value;

use crate::evaluation::LOSS;
use crate::recipe::BestConfig;

/// Most points of a curve.
const POINTS: usize = 1000;
/// Size of a chart in pixels.
const SIZE: (u32, u32) = (720, 300);
/// Runs on one page: as many as there are colours to tell apart.
const MOST_RUNS: usize = 8;
/// Okabe and Ito's colours, which colour-blind eyes tell apart too, without their yellow.
const COLOURS: [RGBColor; MOST_RUNS] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(120, 120, 120),
];

/// A chart: the key of metrics.jsonl, its title, the factor of what is shown, and whether its axis is logarithmic.
struct Chart {
    key: Cow<'static, str>,
    title: Cow<'static, str>,
    times: f64,
    log: bool,
    /// Of the evaluations' values rather than the steps'.
    eval: bool,
}

const fn chart(key: &'static str, title: &'static str, times: f64, log: bool) -> Chart {
    Chart { key: Cow::Borrowed(key), title: Cow::Borrowed(title), times, log, eval: false }
}

/// The chart of a value that evaluations give.
fn eval_chart(name: &str) -> Chart {
    let title =
        if name == LOSS { "Held-out loss (nats per learnt token)".into() } else { format!("{name} of evaluations") };
    Chart { key: name.to_owned().into(), title: title.into(), times: 1.0, log: name == LOSS, eval: true }
}

const CHARTS: [Chart; 10] = [
    chart("loss", "Loss (nats per learnt token)", 1.0, true),
    chart("grad_norm", "Norm of the gradient before clipping", 1.0, true),
    chart("lr", "Learning rate", 1.0, false),
    chart("tokens_per_s", "Tokens a second", 1.0, false),
    chart("mfu", "Model FLOPs utilisation (%)", 100.0, false),
    chart("hfu", "Hardware FLOPs utilisation (%)", 100.0, false),
    chart("fill", "Packs filled (%)", 100.0, false),
    chart("data_wait", "Time spent waiting for data (%)", 100.0, false),
    chart("images_per_s", "Images a second", 1.0, false),
    chart("peak_memory", "Most memory held (GiB)", 1.0 / (1u64 << 30) as f64, false),
];

/// A run as read.
struct Run {
    name: String,
    lines: Vec<Value>,
    facts: Vec<(String, String)>,
}

/// Lines of a JSONL file. A last line that is not whole (the run goes on, or was killed) is left out.
fn lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| {
        format!("{} cannot be read; name the folder of a run, the recipe's run.folder", path.display())
    })?;
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(value) => out.push(value),
            Err(_) if i + 1 == text.lines().count() && !text.ends_with('\n') => {}
            Err(e) => bail!("{}, line {}: {e}", path.display(), i + 1),
        }
    }
    Ok(out)
}

impl Run {
    fn read(folder: &Path) -> Result<Self> {
        let lines_ = lines(&folder.join("metrics.jsonl"))?;
        ensure!(!lines_.is_empty(), "{} has no steps yet", folder.join("metrics.jsonl").display());
        let count = |name: &str| fs::read_to_string(folder.join(name)).map_or(0, |text| text.lines().count());
        let mut facts = Vec::new();
        let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
        let last = lines_.iter().rfind(|line| line.get("eval").is_none()).cloned().unwrap_or_default();
        let last_eval = lines_.iter().rfind(|line| line.get("eval").is_some());
        let number = |key: &str| last.get(key).and_then(Value::as_f64);
        fact("steps", last["step"].to_string());
        fact("last loss", number("loss").map_or("not finite".into(), |loss| format!("{loss:.4}")));
        if let Some(line) = last_eval {
            let values = line["eval"].as_object().into_iter().flatten();
            let words: Vec<_> = values.map(|(name, value)| format!("{name} {value}")).collect();
            fact("last evaluation", format!("{}, after step {}", words.join(", "), line["step"]));
        }
        let sum = |key: &str| lines_.iter().filter_map(|line| line[key].as_f64()).sum::<f64>();
        fact("tokens in the lines", format!("{:.3e}", sum("tokens")));
        fact("skipped updates", lines_.iter().filter(|line| line["skipped"] == true).count().to_string());
        fact("lines of guards.jsonl", count("guards.jsonl").to_string());
        fact("rejected samples", count("rejects.jsonl").to_string());
        if let Ok(text) = fs::read_to_string(folder.join("run.json")) {
            let record: Value =
                serde_json::from_str(&text).with_context(|| format!("in {}", folder.join("run.json").display()))?;
            for key in ["parameters", "trained_parameters", "device", "threads", "torch", "ovhost"] {
                if let Some(value) = record.get(key) {
                    fact(&key.replace('_', " "), value.as_str().map_or_else(|| value.to_string(), String::from));
                }
            }
            if let Some(words) = best(&lines_, &record["recipe"]["checkpoint"]["best"]) {
                fact("best checkpoint", words);
            }
            fact("recipe", serde_json::to_string_pretty(&record["recipe"])?);
        }
        Ok(Self { name: folder.display().to_string(), lines: lines_, facts })
    }

    /// Step and value of every line that has one, thinned.
    fn series(&self, chart: &Chart) -> Vec<(f64, f64)> {
        let all: Vec<(f64, f64)> = self
            .lines
            .iter()
            .filter_map(|line| {
                let values = if chart.eval { line.get("eval")? } else { line };
                Some((line["step"].as_f64()?, values.get(chart.key.as_ref())?.as_f64()? * chart.times))
            })
            .filter(|(_, value)| value.is_finite() && (!chart.log || *value > 0.0))
            .collect();
        let mean = |part: &[(f64, f64)]| {
            let n = part.len() as f64;
            (part.iter().map(|p| p.0).sum::<f64>() / n, part.iter().map(|p| p.1).sum::<f64>() / n)
        };
        all.chunks(all.len().div_ceil(POINTS).max(1)).map(mean).collect()
    }
}

/// The evaluation that the recipe's `checkpoint.best` keeps, in words.
fn best(lines: &[Value], config: &Value) -> Option<String> {
    let config: BestConfig = serde_json::from_value(config.clone()).ok()?;
    let value = |line: &Value| line.get("eval")?.get(&config.metric)?.as_f64();
    let mut best: Option<(f64, &Value)> = None;
    for (value, line) in lines.iter().filter_map(|line| Some((value(line)?, line))) {
        if best.is_none_or(|(old, _)| config.mode.better(value, old)) {
            best = Some((value, &line["step"]));
        }
    }
    best.map(|(value, step)| format!("step {step}: {} {value}", config.metric))
}

/// The names of all values that the runs' evaluations gave.
fn eval_names(runs: &[Run]) -> BTreeSet<&str> {
    let evals = runs.iter().flat_map(|run| &run.lines).filter_map(|line| line.get("eval")?.as_object());
    evals.flat_map(|values| values.keys().map(String::as_str)).collect()
}

/// Draws one chart; None where no run has such numbers.
fn draw(chart: &Chart, runs: &[Run]) -> Result<Option<String>> {
    let series: Vec<_> = runs.iter().map(|run| run.series(chart)).collect();
    let points = || series.iter().flatten();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        points().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
    };
    let (x, y) = (bounds(|p| p.0), bounds(|p| p.1));
    if points().next().is_none() {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let failed = |e: &dyn std::fmt::Display| anyhow::anyhow!("drawing {}: {e}", chart.title);
        let mut builder = ChartBuilder::on(&root);
        builder.margin(10).x_label_area_size(30).y_label_area_size(64).caption(&chart.title, ("sans-serif", 16));
        let x_range = x.0..x.1.max(x.0 + 1.0);
        let room = (y.1 - y.0).max(1e-9 * y.1.abs()).max(1e-12) * 0.05;
        // Two kinds of axis are two types.
        macro_rules! plot {
            ($y:expr) => {{
                let mut axes = builder.build_cartesian_2d(x_range, $y).map_err(|e| failed(&e))?;
                axes.configure_mesh().light_line_style(WHITE).x_desc("step").draw().map_err(|e| failed(&e))?;
                for (series, colour) in series.iter().zip(COLOURS) {
                    // Evaluations are few: one alone has to be seen.
                    let line = LineSeries::new(series.iter().copied(), colour.filled());
                    axes.draw_series(line.point_size(if chart.eval { 3 } else { 0 })).map_err(|e| failed(&e))?;
                }
            }};
        }
        match chart.log {
            true => plot!((y.0 * 0.95..y.1 * 1.05).log_scale()),
            false => plot!(y.0 - room..y.1 + room),
        }
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(Some(svg))
}

/// The page about the runs in `folders`.
///
/// # Errors
/// A folder that holds no run, a damaged record, more than eight runs.
pub fn report(folders: &[PathBuf]) -> Result<String> {
    ensure!((1..=MOST_RUNS).contains(&folders.len()), "{} runs: a page shows 1 to {MOST_RUNS}", folders.len());
    let runs = folders.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    let mut charts = Vec::new();
    let evals: Vec<Chart> = eval_names(&runs).into_iter().map(eval_chart).collect();
    // The held-out loss beside the loss, then what else the evaluations gave, then the rest.
    for chart in CHARTS[..1].iter().chain(&evals).chain(&CHARTS[1..]) {
        charts.extend(draw(chart, &runs)?.map(Shown::from_safe_string));
    }
    let colour = |c: RGBColor| format!("rgb({},{},{})", c.0, c.1, c.2);
    let shown: Vec<_> = runs
        .iter()
        .zip(COLOURS)
        .map(|(run, c)| context! { name => run.name, colour => colour(c), facts => run.facts })
        .collect();
    let mut environment = Environment::new();
    // By its name's ending the template escapes what is put into it.
    environment.add_template("report.html", include_str!("report.html"))?;
    Ok(environment.get_template("report.html")?.render(context! { runs => shown, charts })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, steps: u64) {
        fs::create_dir_all(folder).unwrap();
        let line = |step: u64| {
            let loss = if step == 3 { Value::Null } else { (4.0 / step as f64).into() };
            serde_json::json!({"step": step, "loss": loss, "lr": 1e-3, "tokens": 10, "grad_norm": 1.0}).to_string()
                + "\n"
        };
        fs::write(folder.join("metrics.jsonl"), (1..=steps).map(line).collect::<String>()).unwrap();
        fs::write(folder.join("run.json"), r#"{"device": "Cpu", "recipe": {"a": "<script>"}}"#).unwrap();
    }

    #[test]
    fn a_page_has_the_curves_of_all_runs_and_escapes_their_words() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a<b"), folder.path().join("b"));
        run(&a, 5000);
        run(&b, 7);
        let page = report(&[a.clone(), b]).unwrap();
        assert_eq!(page.matches("<svg").count(), 3, "loss, norm, rate; nothing of what the lines lack");
        assert!(page.contains("a&lt;b") && page.contains("&lt;script&gt;") && !page.contains("<script>"));
        assert!(page.contains("rgb(213,94,0)") && page.len() < 300_000, "{}", page.len());
        // A line that is being written is none yet; a damaged one in the middle is said.
        let metrics = a.join("metrics.jsonl");
        let text = fs::read_to_string(&metrics).unwrap();
        fs::write(&metrics, format!("{text}{{\"ste")).unwrap();
        assert!(report(std::slice::from_ref(&a)).is_ok());
        fs::write(&metrics, format!("oops\n{text}")).unwrap();
        assert!(format!("{:#}", report(&[a]).unwrap_err()).contains("line 1"));
    }

    #[test]
    fn evaluations_have_charts_and_the_best_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let run_ = folder.path().join("a");
        run(&run_, 4);
        let metrics = run_.join("metrics.jsonl");
        let mut text = fs::read_to_string(&metrics).unwrap();
        for (step, match_) in [(2, 0.75), (4, 0.5)] {
            let line = serde_json::json!({"step": step, "eval": {"loss": 1.5, "exact_match": match_}, "seconds": 1.0});
            text += &format!("{line}\n");
        }
        fs::write(&metrics, text).unwrap();
        let record = r#"{"recipe": {"checkpoint": {"best": {"metric": "exact_match", "mode": "max"}}}}"#;
        fs::write(run_.join("run.json"), record).unwrap();
        let page = report(&[run_]).unwrap();
        assert_eq!(page.matches("<svg").count(), 5, "loss, norm, rate, and the two values");
        for words in
            ["Held-out loss", "exact_match of evaluations", "step 2: exact_match 0.75", "after step 4", "1.0000"]
        {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn what_is_no_run_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = format!("{:#}", report(&[folder.path().to_owned()]).unwrap_err());
        assert!(error.contains("metrics.jsonl") && error.contains("run.folder"), "{error}");
        assert!(format!("{:#}", report(&[]).unwrap_err()).contains("1 to 8"));
    }
}
